"""Serious adverse events: the site's reports to the sponsor, and the reviews of monitors. Append-only."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field as Bounded
from pydantic import Strict, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import CheckConstraint, Column, ColumnElement, ForeignKeyConstraint, Index, String, Text, and_, exists
from sqlmodel import Field, SQLModel

from app.models.adverse_event import Relatedness
from app.models.base import (
    Answer,
    Instant,
    InstantShown,
    LongReason,
    LongText,
    PastInstant,
    Shape,
    now,
    one_of,
    table_of,
)
from app.models.contradiction import contradiction


class ReportKind(StrEnum):
    """ICH E2A, section III.B: what is known at first, what becomes known later, and what closes it. ICH E2B(R3),
    C.1.11.1, code 1: what takes all of it back, as the case was erroneous as a whole."""

    final = "final"
    follow_up = "follow_up"
    initial = "initial"
    nullification = "nullification"


class ReviewKind(StrEnum):
    """What a monitor does about an event, for the sponsor."""

    acknowledged = "acknowledged"
    assessment = "assessment"
    authority_informed = "authority_informed"
    information_request = "information_request"


_OF_REVIEW = ["site_id", "adverse_event_id", "number"]
_OF_EVENT = ["site_id", "adverse_event_id"], ["adverse_event.site_id", "adverse_event.id"]


class SaeReport(SQLModel, table=True):
    """One report of a serious event to the sponsor, as it was sent. It is never changed: a later report follows it."""

    __tablename__ = "sae_report"
    __table_args__ = (
        ForeignKeyConstraint(*_OF_EVENT),
        one_of("kind", ReportKind),
        CheckConstraint("(number = 1) = (kind = 'initial') OR kind = 'nullification'", name="initial_is_first"),
        CheckConstraint("(kind = 'nullification') = (nullification_reason IS NOT NULL)", name="nullified_with_reason"),
        CheckConstraint("submitted_at <= due_at OR late_reason IS NOT NULL", name="late_with_reason"),
    )

    site_id: int = Field(primary_key=True)
    adverse_event_id: UUID = Field(primary_key=True)
    number: int = Field(primary_key=True)
    kind: ReportKind = Field(sa_type=String(16))
    event_version: int
    content: str = Field(sa_column=Column(Text, nullable=False))
    """The event as it was reported: canonical JSON."""

    narrative: str | None = Field(default=None, sa_column=Column(Text))
    aware_at: datetime
    """When the site became aware of what is new in this report."""

    due_at: datetime
    late_reason: str | None = Field(default=None, sa_column=Column(Text))
    submitted_by: UUID = Field(foreign_key="account.id")
    submitted_at: datetime = Field(default_factory=now)
    nullification_reason: str | None = Field(default=None, sa_column=Column(Text))
    """Why the event never was (ICH E2B(R3), C.1.11.2)."""


class AeReview(SQLModel, table=True):
    """One review of an event by a monitor. The last assessment counts."""

    __tablename__ = "ae_review"
    __table_args__ = (
        ForeignKeyConstraint(*_OF_EVENT),
        one_of("kind", ReviewKind),
        one_of("relatedness_drug", Relatedness, nullable=True),
        one_of("relatedness_therapy", Relatedness, nullable=True),
        Index("ix_ae_review_by", "site_id", "reviewed_by", "adverse_event_id"),
    )

    site_id: int = Field(primary_key=True)
    adverse_event_id: UUID = Field(primary_key=True)
    number: int = Field(primary_key=True)
    kind: ReviewKind = Field(sa_type=String(24))
    event_version: int
    """The version of the event that the monitor saw."""

    relatedness_drug: Relatedness | None = Field(default=None, sa_type=String(16))
    relatedness_therapy: Relatedness | None = Field(default=None, sa_type=String(16))
    expected: bool | None = None
    susar: bool | None = None
    """A suspected unexpected serious adverse reaction, as this assessment has it."""

    unblinded: bool = False
    """The reviewer knew the treatment."""

    due_at: datetime | None = None
    informed_at: datetime | None = None
    comment: str | None = Field(default=None, sa_column=Column(Text))
    reviewed_by: UUID = Field(foreign_key="account.id")
    reviewed_at: datetime = Field(default_factory=now)


class AeReviewWithdrawal(SQLModel, table=True):
    """The withdrawal of a review that was recorded in error, by any monitor of the site. Append-only."""

    __tablename__ = "ae_review_withdrawal"
    __table_args__ = (ForeignKeyConstraint(_OF_REVIEW, [f"ae_review.{name}" for name in _OF_REVIEW]),)

    site_id: int = Field(primary_key=True)
    adverse_event_id: UUID = Field(primary_key=True)
    number: int = Field(primary_key=True)
    reason: str = Field(sa_column=Column(Text, nullable=False))
    withdrawn_by: UUID = Field(foreign_key="account.id")
    withdrawn_at: datetime = Field(default_factory=now)


def _stands() -> ColumnElement[bool]:
    made, withdrawn = table_of(AeReview), table_of(AeReviewWithdrawal)
    same = and_(*(withdrawn.c[name] == made.c[name] for name in _OF_REVIEW))
    return ~exists().where(same).correlate(made)


STANDS = _stands()
"""The condition that a review is not withdrawn. Every statement about reviews must contain it."""


class SaeReportCreate(Shape):
    kind: Annotated[ReportKind, Strict(False)]
    aware_at: PastInstant | None = None
    """Of all but initial reports, which have the event's: when the site became aware of what is new, or of the
    error."""

    narrative: LongText | None = None
    late_reason: LongReason | None = None
    """Required if the report is late."""

    nullification_reason: Annotated[LongReason, Bounded(max_length=2000)] | None = None
    """Of a nullification, and of no other: why the event never was, such as of which it is a double (ICH E2B(R3),
    C.1.11.2)."""

    @model_validator(mode="after")
    def _fields_by_kind(self) -> "SaeReportCreate":
        if (self.aware_at is None) != (self.kind is ReportKind.initial):
            raise contradiction("aware_at_by_kind", "Initial reports have no aware_at, all others need it", "aware_at")
        if (self.nullification_reason is None) != (self.kind is not ReportKind.nullification):
            message = "A nullification, and no other report, has nullification_reason"
            raise contradiction("nullification_reason_by_kind", message, "nullification_reason")
        return self


class SaeReportRead(Answer):
    adverse_event: UUID
    number: int
    kind: ReportKind
    event_version: int
    content: dict[str, object]
    narrative: str | None
    aware_at: InstantShown
    due_at: InstantShown
    late: bool
    late_reason: str | None
    nullification_reason: str | None
    submitted_by: UUID
    submitted_at: InstantShown


class SaeReportList(Answer):
    items: list[SaeReportRead]
    next: str | None = None


class AeReviewCreate(Shape):
    kind: Annotated[ReviewKind, Strict(False)]
    version: Annotated[int, Bounded(ge=1, le=1_000_000)]
    """The version of the event that you saw."""

    relatedness_drug: Annotated[Relatedness, Strict(False)] | None = None
    relatedness_therapy: Annotated[Relatedness, Strict(False)] | None = None
    expected: bool | None = None
    unblinded: bool = False
    due_at: Instant | None = None
    informed_at: PastInstant | None = None
    comment: LongText | None = None

    @model_validator(mode="after")
    def _fields_by_kind(self) -> "AeReviewCreate":
        assessed = (self.relatedness_drug, self.relatedness_therapy, self.expected)
        whole = None not in assessed if self.kind is ReviewKind.assessment else assessed == (None, None, None)
        if not whole:
            raise PydanticCustomError(
                "assessment_by_kind", "An assessment, and nothing else, gives both relatednesses and expected"
            )
        if (self.due_at is None) != (self.kind is not ReviewKind.information_request):
            raise contradiction("due_at_by_kind", "A request for information, and nothing else, has due_at", "due_at")
        if (self.informed_at is None) != (self.kind is not ReviewKind.authority_informed):
            raise contradiction(
                "informed_at_by_kind", "authority_informed, and nothing else, has informed_at", "informed_at"
            )
        if self.kind is ReviewKind.information_request and self.comment is None:
            raise contradiction("comment_missing", "Say in comment which information is asked for", "comment")
        return self


class AeReviewRead(Answer):
    adverse_event: UUID
    number: int
    kind: ReviewKind
    event_version: int
    relatedness_drug: Relatedness | None
    relatedness_therapy: Relatedness | None
    expected: bool | None
    susar: bool | None
    unblinded: bool
    due_at: InstantShown | None
    informed_at: InstantShown | None
    comment: str | None
    reviewed_by: UUID
    reviewed_at: InstantShown
    withdrawn_by: UUID | None
    """Who withdrew it as recorded in error. A withdrawn review meets no clock and does not count as a review of the
    event."""

    withdrawn_at: InstantShown | None
    withdrawal_reason: str | None
    closed_at: InstantShown | None
    """Of a request for information that nobody had answered when its event was voided: it is closed since then, as
    there is nothing left to be told."""

    closing_reason: str | None
    """Why the event was voided."""


class AeReviewList(Answer):
    items: list[AeReviewRead]
    next: str | None = None
