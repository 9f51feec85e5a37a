"""Visits: contacts planned by the schedule, or unscheduled ones. Out-of-window is derived, never a status."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import Field as Bounded
from pydantic import Strict, model_validator
from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, String, Text
from sqlmodel import Field

from app.models.base import (
    Answer,
    Code,
    Cursor,
    Filter,
    InstantShown,
    Limit,
    LongReason,
    PastDate,
    Positive,
    QueryBool,
    Reason,
    Shape,
    now,
    one_of,
)
from app.models.contradiction import contradiction
from app.models.finding import Finding
from app.models.identifiers import Pid, PidShown
from app.models.outcome import OutcomeInVisit, OutcomeRead
from app.models.therapy_session import Therapy, TherapyRead
from app.models.voided import Voidable, once, voided_whole
from app.protocol import planning


class VisitStatus(StrEnum):
    completed = "completed"
    partially_done = "partially_done"
    missed = "missed"
    not_applicable = "not_applicable"


HELD = frozenset(map(VisitStatus, planning.HELD))


class Visit(Voidable, table=True):
    """One contact with a participant, identified by participant, visit code and occurrence."""

    __table_args__ = (
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        once("uq_visit_site_id_pid_visit_code_occurrence", "site_id", "pid", "visit_code", "occurrence"),
        one_of("status", VisitStatus),
        CheckConstraint("(occurred_on IS NULL) = (status IN ('missed', 'not_applicable'))", name="date_when_held"),
        CheckConstraint("ended_on IS NULL OR ended_on >= occurred_on", name="ends_after_start"),
        CheckConstraint("status <> 'missed' OR deviation_reason IS NOT NULL", name="missed_with_reason"),
        CheckConstraint("occurrence >= 1", name="occurrence_counts"),
        voided_whole(),
        Index("ix_visit_page", "site_id", "created_at", "id"),
        Index("ix_visit_pid", "site_id", "pid"),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pid: str = Field(max_length=12)
    visit_code: str = Field(max_length=64)
    occurrence: int = 1
    occurred_on: date | None = None
    ended_on: date | None = None
    status: VisitStatus = Field(sa_type=String(16))
    deviation_reason: str | None = Field(default=None, sa_column=Column(Text))
    findings: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    protocol_version_id: int | None = Field(default=None, foreign_key="protocol_version.id")
    """The protocol version by which it was recorded, which keeps its window when the participant moves to another
    version."""

    version: int = 1
    created_by: UUID = Field(foreign_key="account.id")
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)


class VisitDates(Shape):
    """The rules between a visit's dates and status, the same for recording and correction."""

    status: Annotated[VisitStatus, Strict(False)]
    occurred_on: PastDate | None = None
    ended_on: PastDate | None = None
    deviation_reason: LongReason | None = None

    @model_validator(mode="after")
    def _dates_fit_status(self) -> "VisitDates":
        held = self.status in HELD
        if held and self.occurred_on is None:
            raise contradiction("date_missing", "A visit that took place needs occurred_on", "occurred_on")
        if not held and self.occurred_on is not None:
            raise contradiction(
                "date_contradicts_status", "A visit that did not take place has no occurred_on", "occurred_on"
            )
        if self.status is VisitStatus.missed and self.deviation_reason is None:
            raise contradiction("deviation_reason_missing", "A missed visit needs deviation_reason", "deviation_reason")
        if self.ended_on and (self.occurred_on is None or self.ended_on < self.occurred_on):
            raise contradiction("ended_before_start", "ended_on cannot lie before occurred_on", "ended_on")
        return self


class VisitCreate(VisitDates):
    participant: Pid
    visit_code: Code
    occurrence: Positive = 1
    outcomes: Annotated[list[OutcomeInVisit], Bounded(max_length=50)] = []
    therapy: Therapy | None = None
    """For preparation and integration visits only."""

    @model_validator(mode="after")
    def _outcomes_fit_the_visit(self) -> "VisitCreate":
        if self.therapy and self.status not in HELD:
            raise contradiction(
                "therapy_contradicts_status", "A visit that did not take place has no therapy", "therapy"
            )
        if self.outcomes and self.status not in HELD:
            raise contradiction(
                "outcomes_contradict_status", "A visit that did not take place has no outcomes", "outcomes"
            )
        named = [one.instrument for one in self.outcomes]
        for index, code in enumerate(named):
            if code in named[:index]:
                message = "The body names this instrument twice; it is administered once at a visit"
                raise contradiction("instrument_twice", message, "outcomes", index, "instrument")
        return self


class VisitAmend(Shape):
    """A correction: only the fields sent change; null clears."""

    reason: Reason
    status: Annotated[VisitStatus, Strict(False)] | None = None
    occurred_on: PastDate | None = None
    ended_on: PastDate | None = None
    deviation_reason: LongReason | None = None
    therapy: Therapy | None = None


class WindowRead(Answer):
    planned: date
    start: date
    end: date


class VisitRead(Answer):
    id: UUID
    participant: PidShown
    study: str
    site: str
    visit_code: str
    occurrence: int
    occurred_on: date | None
    ended_on: date | None
    status: VisitStatus
    deviation_reason: str | None
    findings: list[Finding]
    version: int
    created_at: InstantShown
    updated_at: InstantShown
    voided_at: InstantShown | None
    """When it was voided as entered in error; since then it counts as never recorded."""

    voiding_reason: str | None


class VisitInWindow(VisitRead):
    """A visit and its window, by the protocol version that it was recorded by."""

    window: WindowRead | None
    """Null while the anchor visit has not taken place, or where the protocol gives none."""

    deviation_days: int | None
    """Days outside the window: negative early, 0 inside, positive late; null without window or date."""

    out_of_window: bool | None


class VisitDetail(VisitInWindow):
    """A single visit also shows its outcomes."""

    outcomes: list[OutcomeRead]
    therapy: TherapyRead | None


class VisitList(Answer):
    items: list[VisitInWindow | VisitRead]
    """With `include=window` each with its window."""

    next: str | None


class VisitInclude(StrEnum):
    window = "window"


class VisitFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    participant: Pid | None = None
    visit_code: Code | None = None
    status: VisitStatus | None = None
    voided: QueryBool = False
    """True: only what was voided."""

    include: VisitInclude | None = None
    """`window`: also each visit's window and whether it lies outside, which a single visit always has."""

    limit: Limit = 50
    cursor: Cursor = None
