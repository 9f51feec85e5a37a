"""Safety signals: a rule of the protocol came true in an outcome or a vital sign, and a clinician must look."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal
from uuid import UUID, uuid4

from pydantic import Strict
from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, String, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Code, Cursor, Filter, InstantShown, Limit, LongReason, QueryBool, Shape, now, one_of
from app.models.identifiers import Pid, PidShown


class SignalState(StrEnum):
    open = "open"
    reviewed = "reviewed"


class SignalSeverity(StrEnum):
    low = "low"
    moderate = "moderate"
    high = "high"


class ReviewDecision(StrEnum):
    """What the clinician found. Whatever it was, the signal holds dosing no longer."""

    no_risk = "no_risk"
    managed = "managed"
    """A risk that the site took care of."""

    referred = "referred"
    """A risk that was handed on, such as to emergency care."""


class SafetySignal(SQLModel, table=True):
    """One rule that came true in one version of one source: an outcome, or a reading of vital signs."""

    __tablename__ = "safety_signal"
    __table_args__ = (
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        ForeignKeyConstraint(["site_id", "outcome_id"], ["outcome.site_id", "outcome.id"]),
        ForeignKeyConstraint(["site_id", "reading_id"], ["vital_reading.site_id", "vital_reading.id"]),
        UniqueConstraint("site_id", "outcome_id", "rule", "source_version"),
        UniqueConstraint("site_id", "reading_id", "rule", "source_version"),
        one_of("state", SignalState),
        one_of("severity", SignalSeverity),
        one_of("decision", ReviewDecision, nullable=True),
        CheckConstraint("(outcome_id IS NULL) <> (reading_id IS NULL)", name="one_source"),
        CheckConstraint("(state = 'open') = (reviewed_at IS NULL)", name="reviewed_at_once"),
        CheckConstraint("(decision IS NULL) = (reviewed_at IS NULL)", name="reviewed_with_decision"),
        CheckConstraint("(assessment IS NULL) = (reviewed_at IS NULL)", name="reviewed_with_assessment"),
        CheckConstraint("(reviewed_by IS NULL) = (reviewed_at IS NULL)", name="reviewed_by_somebody"),
        Index("ix_safety_signal_page", "site_id", "raised_at", "id"),
        Index("ix_safety_signal_pid", "site_id", "pid"),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pid: str = Field(max_length=12)
    protocol_version_id: int = Field(foreign_key="protocol_version.id")
    rule: str = Field(max_length=64)
    rule_version: str = Field(max_length=64)
    severity: SignalSeverity = Field(sa_type=String(16))
    holds_dosing: bool
    outcome_id: UUID | None = None
    reading_id: UUID | None = None
    source_version: int
    """Of the outcome or reading, when the rule came true."""

    because: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON list of item, score or measure codes; never their values."""

    trigger_corrected_at: datetime | None = None
    """Since when the source, corrected, no longer makes the rule true. The signal stays for the clinician."""

    state: SignalState = Field(default=SignalState.open, sa_type=String(16))
    raised_at: datetime = Field(default_factory=now)
    due_at: datetime
    reviewed_by: UUID | None = Field(default=None, foreign_key="account.id")
    reviewed_at: datetime | None = None
    decision: ReviewDecision | None = Field(default=None, sa_type=String(16))
    assessment: str | None = Field(default=None, sa_column=Column(Text))
    version: int = 1


class SignalReview(Shape):
    decision: Annotated[ReviewDecision, Strict(False)]
    assessment: LongReason
    """What the clinician saw and did; no identifiers."""


class SignalSource(Answer):
    kind: Literal["outcome", "vital_reading"]
    id: UUID
    version: int


class SafetySignalRead(Answer):
    id: UUID
    participant: PidShown
    study: str
    site: str
    protocol_version: str
    """Whose rule it was."""

    rule: str
    rule_version: str
    severity: SignalSeverity
    holds_dosing: bool
    source: SignalSource
    because: list[str]
    trigger_corrected_at: InstantShown | None
    state: SignalState
    raised_at: InstantShown
    due_at: InstantShown
    overdue: bool
    reviewed_by: UUID | None
    reviewed_at: InstantShown | None
    decision: ReviewDecision | None
    assessment: str | None
    version: int


class SafetySignalList(Answer):
    items: list[SafetySignalRead]
    next: str | None


class SafetySignalFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    participant: Pid | None = None
    state: SignalState | None = None
    rule: Code | None = None
    overdue: QueryBool | None = None
    limit: Limit = 50
    cursor: Cursor = None
