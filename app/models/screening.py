"""Screenings: the answers to the eligibility criteria of a protocol version."""

from collections.abc import Mapping
from datetime import date, datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field as Bounded
from pydantic import Strict
from sqlalchemy import Column, ForeignKeyConstraint, Text
from sqlmodel import Field

from app.models.base import Answer, Code, InstantShown, PastDate, Positive, Reason, Shape, now
from app.models.voided import Voidable, voided_whole
from app.protocol.eligibility import CriterionAnswer


class Screening(Voidable, table=True):
    """One screening episode, with the answer to each criterion of the protocol version of that day."""

    __table_args__ = (
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        voided_whole(),
    )

    site_id: int = Field(primary_key=True)
    pid: str = Field(primary_key=True, max_length=12)
    number: int = Field(primary_key=True)
    protocol_version_id: int = Field(foreign_key="protocol_version.id")
    screened_on: date | None = None
    answers: str = Field(default="{}", sa_column=Column(Text, nullable=False))
    """Canonical JSON {criterion: met | not_met | not_applicable}."""

    eligible: bool | None = None
    """None: criteria are open and none is unmet, so it is not decided."""

    unmet: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    version: int = 1
    recorded_by: UUID = Field(foreign_key="account.id")
    recorded_at: datetime = Field(default_factory=now)


Answers = Annotated[dict[Code, Annotated[CriterionAnswer, Strict(False)]], Bounded(max_length=200)]


class EligibilityAnswers(Shape):
    """Answers to criteria, which replace or complete the stored ones."""

    reason: Reason
    answers: Answers
    screening: Positive | None = None
    """The number of the screening that was answered. Absent: the present one, whichever that is when this arrives. With
    it, an app that is late never changes another screening."""


class ScreeningCreate(Shape):
    """A further screening of somebody who failed one."""

    reason: Reason
    screened_on: PastDate
    answers: Answers = {}


class ScreeningRead(Answer):
    number: int
    protocol_version: str
    screened_on: date | None
    answers: Mapping[str, CriterionAnswer]
    eligible: bool | None
    unmet: list[str]
    open: list[str]
    """Criteria that are not answered, or answered not_applicable although they always apply."""

    recorded_at: InstantShown
    voided_at: InstantShown | None
    """When it was voided as entered in error. A voided screening does not count."""

    voiding_reason: str | None


class ScreeningList(Answer):
    items: list[ScreeningRead]
    next: str | None = None
