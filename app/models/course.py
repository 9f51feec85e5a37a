"""What happens to a participant beside visits: consents taken back, screenings, and the treatments before."""

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import Field as Bounded
from pydantic import Strict, StringConstraints
from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, String, Text
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Code, InstantShown, LongReason, PastDate, Reason, Shape, now, one_of
from app.models.identifiers import PidShown
from app.models.voided import counts, voided_whole
from app.protocol.eligibility import Answer as Answered


class WithdrawalScope(StrEnum):
    """What a participant takes back (ICH E6(R3), 2.8.10; GDPR, article 7(3)). Data from before stay."""

    collection = "collection"
    contact = "contact"
    dosing = "dosing"
    identity = "identity"
    sharing = "sharing"


class Outcome(StrEnum):
    """How a treatment went."""

    intolerant = "intolerant"
    none = "none"
    partial = "partial"
    response = "response"


_OF_PERSON = ["site_id", "pid"], ["participant.site_id", "participant.pid"]


class Withdrawal(SQLModel, table=True):
    """One thing that a participant took back. What it says is never changed: a later consent gives it anew, and what a
    site recorded in error is voided."""

    __table_args__ = (
        ForeignKeyConstraint(*_OF_PERSON),
        one_of("scope", WithdrawalScope),
        voided_whole(),
    )

    site_id: int = Field(primary_key=True)
    pid: str = Field(primary_key=True, max_length=12)
    number: int = Field(primary_key=True)
    scope: WithdrawalScope = Field(sa_type=String(16))
    effective_on: date
    reason: str = Field(sa_column=Column(Text, nullable=False))
    recorded_by: UUID = Field(foreign_key="account.id")
    recorded_at: datetime = Field(default_factory=now)
    voided_by: UUID | None = Field(default=None, foreign_key="account.id")
    voided_at: datetime | None = None
    voiding_reason: str | None = Field(default=None, sa_column=Column(Text))


HOLDS = counts(Withdrawal)
"""Of a withdrawal: it was not voided. Whoever asks what a participant took back asks this too."""


class Screening(SQLModel, table=True):
    """One screening episode, with the answer to each criterion of the protocol version of that day."""

    __table_args__ = (ForeignKeyConstraint(*_OF_PERSON),)

    site_id: int = Field(primary_key=True)
    pid: str = Field(primary_key=True, max_length=12)
    number: int = Field(primary_key=True)
    protocol_version_id: int = Field(foreign_key="protocol_version.id")
    screened_on: date | None = None
    answers: str = Field(default="{}", sa_column=Column(Text, nullable=False))
    """Canonical JSON {criterion: met | not_met | not_applicable}."""

    eligible: bool | None = None
    """None: criteria are open and none is unmet."""

    unmet: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    version: int = 1
    recorded_by: UUID = Field(foreign_key="account.id")
    recorded_at: datetime = Field(default_factory=now)


class TreatmentTrial(SQLModel, table=True):
    """One earlier trial of an antidepressant or another treatment, coded and without names of places or people."""

    __tablename__ = "treatment_trial"
    __table_args__ = (
        ForeignKeyConstraint(*_OF_PERSON),
        one_of("outcome", Outcome),
        CheckConstraint("weeks BETWEEN 0 AND 2000", name="weeks_of_a_life"),
        Index("ix_treatment_trial_pid", "site_id", "pid"),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pid: str = Field(max_length=12)
    atc: str = Field(max_length=7)
    weeks: int
    maximum_mg: float | None = None
    adequate: bool
    """In dose and duration, as the site judges it by its own standard (such as the ATHF)."""

    this_episode: bool
    outcome: Outcome = Field(sa_type=String(16))
    version: int = 1
    recorded_by: UUID = Field(foreign_key="account.id")
    recorded_at: datetime = Field(default_factory=now)


class ConsentCreate(Shape):
    version: Code
    given_on: PastDate
    scopes: Annotated[list[Code], Bounded(min_length=1, max_length=20)]
    reason: Reason


class ConsentRead(Answer):
    version: str
    number: int
    """1, and more where the version was given anew."""

    given_on: date | None
    scopes: list[str]


class WithdrawalCreate(Shape):
    scope: Annotated[WithdrawalScope, Strict(False)]
    effective_on: PastDate
    reason: LongReason


class WithdrawalRead(Answer):
    number: int
    scope: WithdrawalScope
    effective_on: date
    reason: str
    recorded_at: InstantShown
    voided_at: InstantShown | None
    """When it was voided as recorded in error. It counts no longer."""

    voiding_reason: str | None


class VoidingCreate(Shape):
    """Why a withdrawal was recorded in error. A participant who thinks otherwise now consents anew."""

    reason: LongReason


class ConsentState(Answer):
    """What a participant agreed to, took back, and what holds today."""

    participant: PidShown
    consents: list[ConsentRead]
    withdrawals: list[WithdrawalRead]
    scopes_today: list[str]
    withdrawn_today: list[WithdrawalScope]
    reconsent_to: list[str]
    """Consent versions that an amendment of the protocol asks this participant to sign."""


Answers = Annotated[dict[Code, Annotated[Answered, Strict(False)]], Bounded(max_length=200)]


class EligibilityAnswers(Shape):
    """Answers to criteria; those sent replace or complete the ones that are there."""

    reason: Reason
    answers: Answers


class ScreeningCreate(Shape):
    """A further screening of somebody who failed one."""

    reason: Reason
    screened_on: PastDate
    answers: Answers = {}


class ScreeningRead(Answer):
    number: int
    protocol_version: str
    screened_on: date | None
    answers: Mapping[str, Answered]
    eligible: bool | None
    unmet: list[str]
    open: list[str]
    """Criteria without an answer that counts."""

    recorded_at: InstantShown


class ScreeningList(Answer):
    items: list[ScreeningRead]
    next: str | None = None


class ProtocolMove(Shape):
    version: Code
    reason: Reason


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
    outcome: Annotated[Outcome, Strict(False)]


class TreatmentAmend(Shape):
    """A correction: only the fields sent change; null clears the dose, which alone may be unknown."""

    reason: Reason
    atc: Atc | None = None
    weeks: Weeks | None = None
    maximum_mg: MaximumMg | None = None
    adequate: bool | None = None
    this_episode: bool | None = None
    outcome: Annotated[Outcome, Strict(False)] | None = None


class TreatmentRead(Answer):
    id: UUID
    atc: str
    weeks: int
    maximum_mg: float | None
    adequate: bool
    this_episode: bool
    outcome: Outcome
    version: int
    recorded_at: InstantShown


class TreatmentList(Answer):
    items: list[TreatmentRead]
    failed_adequate: int
    """Adequate trials of different substances in this episode without response."""

    treatment_resistant: bool
    """Two or more of them (EMA/CHMP/185423/2010 rev. 3, section 4.2; FDA uses the same count)."""

    next: str | None = None
