"""Consent: what participants consented to, and what they withdrew since (ICH E6(R3), 2.8.10)."""

from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field as Bounded
from pydantic import Strict, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import Column, ForeignKeyConstraint, String, Text
from sqlmodel import Field

from app.models.base import Answer, Code, InstantShown, LongReason, PastDate, Positive, Reason, Shape, now, one_of
from app.models.identifiers import PidShown
from app.models.voided import Voidable, voided_whole


class WithdrawalScope(StrEnum):
    """What a participant withdraws (ICH E6(R3), 2.8.10; GDPR, article 7(3)). Data collected before that are kept."""

    collection = "collection"
    contact = "contact"
    dosing = "dosing"
    identity = "identity"
    sharing = "sharing"


class Consent(Voidable, table=True):
    """One consent version as a participant gave it, with its scopes."""

    __table_args__ = (
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        voided_whole(),
    )

    site_id: int = Field(primary_key=True)
    pid: str = Field(primary_key=True, max_length=12)
    version: str = Field(primary_key=True, max_length=64)
    number: int = Field(default=1, primary_key=True)
    """1, or more if the version was signed again after a withdrawal, or recorded anew after a voiding."""

    given_on: date | None = None
    scopes: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON list, sorted."""

    data_sharing: bool
    """Whether `scopes` contains data sharing, as a column for the SQL of extracts."""

    created_at: datetime = Field(default_factory=now)


def consent_name(pid: str, version: str, number: int) -> str:
    """The id of a consent in the audit trail. The first of a version has no number, as before there were numbers."""
    return f"{pid}/{version}" if number == 1 else f"{pid}/{version}/{number}"


class Withdrawal(Voidable, table=True):
    """One withdrawal by a participant. It is never changed: a later consent restores what was withdrawn, and a
    withdrawal recorded in error is voided."""

    __table_args__ = (
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
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


class ConsentGiven(Shape):
    version: Code
    given_on: PastDate | None
    scopes: Annotated[list[Code], Bounded(max_length=20)]


class ConsentAmend(Shape):
    """The day of a consent that was unknown, or what was entered wrongly of it."""

    version: Code
    number: Positive = 1
    """Which one, if the version was signed more than once."""

    given_on: PastDate | None = None
    scopes: Annotated[list[Code], Bounded(min_length=1, max_length=20)] | None = None
    """All that the participant ticked on the form. What they changed their mind about is a withdrawal, or a consent of
    its own."""

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.given_on is None and self.scopes is None:
            raise PydanticCustomError("nothing_corrected", "Give the right given_on or scopes")
        return self


class ConsentCreate(Shape):
    version: Code
    given_on: PastDate
    scopes: Annotated[list[Code], Bounded(min_length=1, max_length=20)]
    reason: Reason


class ConsentRead(Answer):
    version: str
    number: int
    """1, or more if the version was signed again after a withdrawal, or recorded anew after a voiding."""

    given_on: date | None
    scopes: list[str]
    voided_at: InstantShown | None
    """When it was voided as recorded in error. A voided consent does not count."""

    voiding_reason: str | None


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
    """When it was voided as recorded in error. A voided withdrawal does not count."""

    voiding_reason: str | None


class VoidingCreate(Shape):
    """Why a withdrawal was recorded in error. It is not for participants who have changed their mind: they consent
    anew."""

    reason: LongReason


class ConsentState(Answer):
    """What a participant consented to and withdrew, and what is in force today."""

    participant: PidShown
    consents: list[ConsentRead]
    withdrawals: list[WithdrawalRead]
    scopes_today: list[str]
    withdrawn_today: list[WithdrawalScope]
    reconsent_to: list[str]
    """Consent versions that an amendment of the protocol asks this participant to sign."""
