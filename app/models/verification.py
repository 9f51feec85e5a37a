"""Source data verification: a monitor compared a record, at one version, with the source documents."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID, uuid4

from pydantic import Field as Bounded
from pydantic import PlainValidator, Strict, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, String, Text
from sqlmodel import Field, SQLModel

from app import pid as codec
from app.models.base import Answer, Code, Cursor, Filter, InstantShown, Limit, LongText, Shape, now, one_of
from app.models.contradiction import contradiction
from app.models.identifiers import Pid, PidShown
from app.protocol.verification import RecordKind


class VerificationResult(StrEnum):
    """Whether the record agrees with the source; a discrepancy is followed by a data query."""

    discrepant = "discrepant"
    verified = "verified"


class VerificationState(StrEnum):
    """Worked out on reading, never stored. `needs_reverification`: the record has changed since. `record_voided`: it
    counts as never recorded. `superseded`: there is a later verification of the same record. `discrepant` and
    `verified`: the result stands."""

    discrepant = "discrepant"
    needs_reverification = "needs_reverification"
    record_voided = "record_voided"
    superseded = "superseded"
    verified = "verified"
    withdrawn = "withdrawn"


class Verification(SQLModel, table=True):
    """One verification of one record. The database refuses changes and deletion."""

    __table_args__ = (
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        ForeignKeyConstraint(["site_id", "visit_id"], ["visit.site_id", "visit.id"]),
        ForeignKeyConstraint(["site_id", "outcome_id"], ["outcome.site_id", "outcome.id"]),
        ForeignKeyConstraint(["site_id", "event_id"], ["adverse_event.site_id", "adverse_event.id"]),
        ForeignKeyConstraint(["site_id", "session_id"], ["dosing_session.site_id", "dosing_session.id"]),
        one_of("subject_type", RecordKind),
        one_of("result", VerificationResult),
        CheckConstraint("(visit_id IS NOT NULL) = (subject_type = 'visit')", name="visit_when_its"),
        CheckConstraint("(outcome_id IS NOT NULL) = (subject_type = 'outcome')", name="outcome_when_its"),
        CheckConstraint("(event_id IS NOT NULL) = (subject_type = 'adverse_event')", name="event_when_its"),
        CheckConstraint("(session_id IS NOT NULL) = (subject_type = 'dosing_session')", name="session_when_its"),
        Index("ix_verification_page", "site_id", "verified_at", "id"),
        Index("ix_verification_pid", "site_id", "pid"),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    subject_type: RecordKind = Field(sa_type=String(16))
    pid: str = Field(max_length=12)
    """The participant of the record."""

    visit_id: UUID | None = None
    outcome_id: UUID | None = None
    event_id: UUID | None = None
    session_id: UUID | None = None
    subject_version: int
    result: VerificationResult = Field(sa_type=String(16))
    note: str | None = Field(default=None, sa_column=Column(Text))
    verified_by: UUID = Field(foreign_key="account.id")
    verified_at: datetime = Field(default_factory=now)


class VerificationWithdrawal(SQLModel, table=True):
    """The withdrawal of a verification, by any monitor of the site. Append-only."""

    __tablename__ = "verification_withdrawal"
    __table_args__ = (
        ForeignKeyConstraint(["site_id", "verification_id"], ["verification.site_id", "verification.id"]),
    )

    site_id: int = Field(primary_key=True)
    verification_id: UUID = Field(primary_key=True)
    reason: str = Field(sa_column=Column(Text, nullable=False))
    withdrawn_by: UUID = Field(foreign_key="account.id")
    withdrawn_at: datetime = Field(default_factory=now)


def _subject(value: Any) -> UUID | str:
    if isinstance(value, str):
        for read in (UUID, codec.normalise):
            try:
                return read(value)
            except ValueError:
                continue
    raise PydanticCustomError("subject_format", "Must be the id of a record, or the identifier of a participant")


Subject = Annotated[UUID | str, PlainValidator(_subject), WithJsonSchema({"type": "string"})]
"""The id of a visit, outcome, adverse event or dosing session; of a participant the identifier, as its 12 symbols."""


class VerificationCreate(Shape):
    subject_type: Annotated[RecordKind, Strict(False)]
    subject: Subject
    version: Annotated[int, Bounded(ge=1, le=2**31 - 1)]
    """The record's version that was compared with the source."""

    result: Annotated[VerificationResult, Strict(False)]
    note: LongText | None = None

    @model_validator(mode="after")
    def _identifier_fits(self) -> "VerificationCreate":
        if isinstance(self.subject, str) != (self.subject_type is RecordKind.participant):
            raise contradiction(
                "subject_of_another_type", "Participants have an identifier, other records an id", "subject"
            )
        return self


class VerificationRead(Answer):
    id: UUID
    study: str
    site: str
    participant: PidShown
    subject_type: RecordKind
    subject: str
    version: int
    """The version that was verified."""

    present_version: int
    result: VerificationResult
    state: VerificationState
    note: str | None
    verified_by: UUID
    verified_at: InstantShown
    withdrawn_by: UUID | None
    withdrawn_at: InstantShown | None
    withdrawal_reason: str | None


class VerificationList(Answer):
    items: list[VerificationRead]
    next: str | None


class VerificationFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    participant: Pid | None = None
    subject_type: RecordKind | None = None
    state: VerificationState | None = None
    limit: Limit = 50
    cursor: Cursor = None


class PendingState(StrEnum):
    """The record was never verified, or a critical field was corrected since."""

    needs_reverification = "needs_reverification"
    unverified = "unverified"


class PendingFilter(Filter):
    study: Code
    site: Code | None = None
    state: PendingState | None = None
    limit: Limit = 50
    cursor: Cursor = None


class PendingRead(Answer):
    """A record that the plan covers and that is not verified at its present version."""

    study: str
    site: str
    participant: PidShown
    subject_type: RecordKind
    subject: str
    version: int
    """The present version, which a verification must name."""

    fields: list[str]
    """The critical fields."""

    state: PendingState
    verified_version: int | None
    """The version that was verified before."""


class PendingList(Answer):
    """A page can have fewer than `limit` records although there is a `next`."""

    items: list[PendingRead]
    next: str | None


class CoverageFilter(Filter):
    study: Code


class RecordCoverage(Answer):
    """How many of the records that the plan covers are verified, among the participants that it samples."""

    records: int
    verified: int
    discrepant: int
    needs_reverification: int
    unverified: int
    coverage_percent: float | None
    """Records whose critical fields are verified, in percent of all records; one decimal; null without records."""


class SiteCoverage(RecordCoverage):
    site: str
    participants: int
    sampled: list[PidShown]


class CoverageRead(Answer):
    study: str
    sites: list[SiteCoverage]
