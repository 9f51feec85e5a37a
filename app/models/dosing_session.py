"""Dosing sessions: the day on which the substance is given, with its doses and timed vital signs."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID, uuid4

from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, String, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from app.models.base import now, one_of
from app.models.voided import Voidable, once, voided_whole


class SessionState(StrEnum):
    open = "open"
    closed = "closed"


class DoseKind(StrEnum):
    initial = "initial"
    supplemental = "supplemental"


class DosingSession(Voidable, table=True):
    """What was recorded at the start and at discharge. `version` counts every change of the session, its doses and
    vital signs."""

    __tablename__ = "dosing_session"
    __table_args__ = (
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        ForeignKeyConstraint(["site_id", "visit_id"], ["visit.site_id", "visit.id"]),
        one_of("state", SessionState),
        CheckConstraint("(state = 'closed') = (closed_at IS NOT NULL)", name="closed_at_once"),
        CheckConstraint("state = 'open' OR ended_at IS NOT NULL", name="closed_after_end"),
        CheckConstraint("ended_at IS NULL OR ended_at >= started_at", name="ends_after_start"),
        CheckConstraint("released_at IS NULL OR released_at >= ended_at", name="released_after_end"),
        voided_whole(),
        once("uq_dosing_session_site_id_visit_id", "site_id", "visit_id"),
        once("uq_dosing_session_open", "site_id", "pid", among="state = 'open'"),
        Index("ix_dosing_session_page", "site_id", "created_at", "id"),
        Index("ix_dosing_session_pid", "site_id", "pid"),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pid: str = Field(max_length=12)
    visit_id: UUID
    state: SessionState = Field(default=SessionState.open, sa_type=String(16))
    started_at: datetime
    ended_at: datetime | None = None
    released_at: datetime | None = None
    closed_at: datetime | None = None
    staff: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON list of the site's staff codes, sorted."""

    confirmations: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON {code of the precondition: yes, no or not_applicable}."""

    discharge: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    """Canonical JSON list of the checklist's items that were answered yes, sorted."""

    medications: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    """Canonical JSON list of other medications of the day."""

    version: int = 1
    created_by: UUID = Field(foreign_key="account.id")
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)


class Dose(SQLModel, table=True):
    """A planned dose: given, or not given and why. A session has at most one of each kind."""

    __table_args__ = (
        ForeignKeyConstraint(["site_id", "session_id"], ["dosing_session.site_id", "dosing_session.id"]),
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        UniqueConstraint("site_id", "session_id", "kind"),
        one_of("kind", DoseKind),
        CheckConstraint("planned_mg > 0", name="planned_counts"),
        CheckConstraint("given_mg > 0", name="given_counts"),
        CheckConstraint("(given_mg IS NULL) = (given_at IS NULL)", name="given_at_a_time"),
        CheckConstraint("given_mg IS NOT NULL OR deviation_reason IS NOT NULL", name="not_given_with_reason"),
        Index("ix_dose_pid", "site_id", "pid"),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pid: str = Field(max_length=12)
    session_id: UUID
    kind: DoseKind = Field(sa_type=String(16))
    planned_mg: float
    given_mg: float | None = None
    given_at: datetime | None = None
    deviation_reason: str | None = Field(default=None, sa_column=Column(Text))
    findings: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    version: int = 1
    created_by: UUID = Field(foreign_key="account.id")
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)


class VitalReading(Voidable, table=True):
    """Vital signs taken at one moment, at a time point of the protocol or between them."""

    __tablename__ = "vital_reading"
    __table_args__ = (
        ForeignKeyConstraint(["site_id", "session_id"], ["dosing_session.site_id", "dosing_session.id"]),
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        Index("ix_vital_reading_session_id", "site_id", "session_id"),
        Index("ix_vital_reading_pid", "site_id", "pid"),
        voided_whole(),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pid: str = Field(max_length=12)
    session_id: UUID
    timepoint: str | None = Field(default=None, max_length=64)
    taken_at: datetime
    measured: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON {measure: value in the protocol's unit}."""

    findings: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    version: int = 1
    created_by: UUID = Field(foreign_key="account.id")
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)
