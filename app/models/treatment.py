"""Treatments before the study: coded trials, and how many adequate ones failed."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import Field as Bounded
from pydantic import Strict, StringConstraints
from sqlalchemy import CheckConstraint, ForeignKeyConstraint, Index, String
from sqlmodel import Field

from app.models.base import Answer, InstantShown, Reason, Shape, now, one_of
from app.models.voided import Voidable, voided_whole


class TreatmentOutcome(StrEnum):
    """The result of an earlier treatment."""

    intolerant = "intolerant"
    none = "none"
    partial = "partial"
    response = "response"


class TreatmentTrial(Voidable, table=True):
    """One earlier trial of an antidepressant or another treatment, coded and without names of places or people."""

    __tablename__ = "treatment_trial"
    __table_args__ = (
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        one_of("outcome", TreatmentOutcome),
        CheckConstraint("weeks BETWEEN 0 AND 2000", name="weeks_of_a_life"),
        Index("ix_treatment_trial_pid", "site_id", "pid"),
        voided_whole(),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pid: str = Field(max_length=12)
    atc: str = Field(max_length=7)
    weeks: int
    maximum_mg: float | None = None
    adequate: bool
    """Whether dose and duration were adequate, as the site judges by its own standard (such as the ATHF)."""

    this_episode: bool
    outcome: TreatmentOutcome = Field(sa_type=String(16))
    version: int = 1
    recorded_by: UUID = Field(foreign_key="account.id")
    recorded_at: datetime = Field(default_factory=now)


Atc = Annotated[str, StringConstraints(pattern=r"^[A-Z][0-9]{2}[A-Z]{2}[0-9]{2}$")]
"""WHO ATC code of a substance, such as N06AB04."""

Weeks = Annotated[int, Bounded(ge=0, le=2_000)]
MaximumMg = Annotated[float, Bounded(gt=0, le=100_000)]


class TreatmentCreate(Shape):
    atc: Atc
    weeks: Weeks
    maximum_mg: MaximumMg | None = None
    adequate: bool
    this_episode: bool
    outcome: Annotated[TreatmentOutcome, Strict(False)]


class TreatmentAmend(Shape):
    """A correction: only the fields sent change; null clears the dose, which alone may be unknown."""

    reason: Reason
    atc: Atc | None = None
    weeks: Weeks | None = None
    maximum_mg: MaximumMg | None = None
    adequate: bool | None = None
    this_episode: bool | None = None
    outcome: Annotated[TreatmentOutcome, Strict(False)] | None = None


class TreatmentRead(Answer):
    id: UUID
    atc: str
    weeks: int
    maximum_mg: float | None
    adequate: bool
    this_episode: bool
    outcome: TreatmentOutcome
    version: int
    recorded_at: InstantShown
    voided_at: InstantShown | None
    """When it was voided as entered in error. A voided treatment does not count."""

    voiding_reason: str | None


class TreatmentList(Answer):
    items: list[TreatmentRead]
    voided: list[TreatmentRead]
    """Those that were entered in error, oldest entry first."""

    failed_adequate: int
    """Adequate trials of different substances in this episode without response."""

    treatment_resistant: bool
    """Two or more of them (EMA/CHMP/185423/2010 rev. 3, section 4.2; FDA uses the same count)."""

    next: str | None = None
