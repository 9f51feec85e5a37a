"""Participants: the pseudonymous record of a person, the site's label in the vault, and the status model of the
study."""

import re
from collections.abc import Collection, Iterator, Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, Strict, StringConstraints, model_validator
from pydantic import Field as Bounded
from pydantic_core import PydanticCustomError
from sqlalchemy import CheckConstraint, Column, Index, String, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from app.models.base import (
    Answer,
    Code,
    Cursor,
    Filter,
    InstantShown,
    Label,
    Limit,
    PastDate,
    QueryBool,
    Reason,
    Shape,
    canonical_json,
    from_json,
    latest_day,
    now,
    one_of,
)
from app.models.consent import ConsentAmend, ConsentGiven
from app.models.contradiction import contradiction
from app.models.finding import Finding
from app.models.identifiers import Pid, PidShown
from app.models.voided import Voidable, voided_whole
from app.protocol.eligibility import CriterionAnswer


class Sex(StrEnum):
    """CDISC SDTM codelist SEX (C66731)."""

    F = "F"
    M = "M"
    U = "U"
    UNDIFFERENTIATED = "UNDIFFERENTIATED"


class ParticipantStatus(StrEnum):
    screened = "screened"
    screen_failed = "screen_failed"
    enrolled = "enrolled"
    active = "active"
    completed = "completed"
    withdrawn = "withdrawn"
    lost_to_follow_up = "lost_to_follow_up"
    died = "died"
    terminated = "terminated"


_S = ParticipantStatus
ENDS = frozenset({_S.completed, _S.withdrawn, _S.lost_to_follow_up, _S.died, _S.terminated})
STATUS_TRANSITIONS: Mapping[ParticipantStatus, frozenset[ParticipantStatus]] = {
    _S.screened: frozenset({_S.enrolled, _S.screen_failed, _S.withdrawn, _S.lost_to_follow_up, _S.died}),
    _S.screen_failed: frozenset({_S.died}),  # and back to screened, by a further screening only
    _S.enrolled: frozenset({_S.active}) | ENDS,
    _S.active: ENDS,
    _S.completed: frozenset({_S.died}),
    _S.withdrawn: frozenset({_S.died}),
    _S.lost_to_follow_up: frozenset({_S.active, _S.withdrawn, _S.completed, _S.died}),
    _S.died: frozenset(),
    _S.terminated: frozenset({_S.died}),
}
"""CDISC DS (disposition) terms as states; dosing starts `active`. A completed person may still be reported dead."""

FOLLOWS_ENROLMENT = ENDS | {_S.active}
"""Statuses that cannot begin before the enrolment, if the participant was enrolled."""

IN_STUDY = frozenset({_S.screened, _S.enrolled, _S.active})
_OUT = frozenset(ParticipantStatus) - IN_STUDY


def left_on(person: Any) -> date | None:
    """The day on which a participant completed or left the study, after which no visit is expected. None: still in
    it."""
    return began(_OUT, person)


def left_study_on(person: Any) -> date | None:
    """The day on which a participant withdrew or died; data of later days are refused. None: neither. A participant
    whose treatment was terminated by others is still followed up."""
    return began({_S.withdrawn, _S.died}, person)


def died_on(person: Any) -> date | None:
    """The day of death by the participant's status. None: not dead."""
    return began({_S.died}, person)


def began(statuses: Collection[str], person: Any) -> date | None:
    """The first day on which a participant had one of these statuses; date.min: the day is unknown; None: never. The
    present status counts and so do the ends before it, since a death that is reported later does not undo a withdrawal.
    `person` is a row, or part of one, with `status`, `status_on` and `earlier_ends`."""
    earlier = [one["status_on"] for one in _parsed(person.earlier_ends) if one["status"] in statuses]
    days = [date.fromisoformat(day) if day else date.min for day in earlier]
    if person.status in statuses:
        days.append(person.status_on or date.min)
    return min(days, default=None)


def ends_before(person: "Participant", status: ParticipantStatus, *, correction: bool) -> str | None:
    """The `earlier_ends` of a participant whose status becomes `status`: the ends that it can have followed. The
    present status is one of them, unless this is a `correction`, which replaces it."""
    ends = _parsed(person.earlier_ends)
    if not correction and person.status not in IN_STUDY:
        ends.append({"status": person.status, "status_on": person.status_on and str(person.status_on)})
    while ends and (status in IN_STUDY or status not in STATUS_TRANSITIONS[ParticipantStatus(ends[-1]["status"])]):
        ends.pop()
    return canonical_json(ends) if ends else None


def _parsed(earlier_ends: str | None) -> list[dict[str, Any]]:
    ends: list[dict[str, Any]] = from_json(earlier_ends or "[]")
    return ends


class Participant(Voidable, table=True):
    """A person, known only by the pid."""

    __table_args__ = (
        one_of("sex", Sex),
        one_of("status", ParticipantStatus),
        CheckConstraint("age_at_consent BETWEEN 18 AND 120", name="adult"),
        voided_whole(),
        Index("ix_participant_pid", "pid"),
        Index("ix_participant_page", "site_id", "created_at", "pid"),
    )

    site_id: int = Field(foreign_key="site.id", primary_key=True)
    pid: str = Field(primary_key=True, max_length=12)
    """Twelve symbols without hyphens, drawn at random, so that it reveals nothing."""

    protocol_version_id: int = Field(foreign_key="protocol_version.id")
    status: ParticipantStatus = Field(sa_type=String(20))
    status_on: date | None = None
    earlier_ends: str | None = Field(default=None, sa_column=Column(Text))
    """Canonical JSON list of {status, status_on}, oldest first: the ends that the present one followed, such as the
    withdrawal of somebody who died later. NULL: there are none."""

    age_at_consent: int
    sex: Sex = Field(sa_type=String(16))
    race: str | None = Field(default=None, max_length=64)
    ethnicity: str | None = Field(default=None, max_length=64)
    planned_arm: str | None = Field(default=None, max_length=64)
    actual_arm: str | None = Field(default=None, max_length=64)
    screened_on: date | None = None
    enrolled_on: date | None = None
    eligible: bool
    unmet_criteria: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    findings: str = Field(default="[]", sa_column=Column(Text, nullable=False))
    version: int = 1
    created_by: UUID = Field(foreign_key="account.id")
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)


class VaultIdentity(SQLModel, table=True):
    """The site's own label of a participant, encrypted; the only identifying datum held."""

    __tablename__ = "vault_identity"
    __table_args__ = (UniqueConstraint("site_id", "blind_index"),)

    site_id: int = Field(primary_key=True)
    pid: str = Field(primary_key=True, max_length=12)
    blind_index: str = Field(max_length=32)
    kek_id: str = Field(max_length=32)
    wrapped_key: str = Field(max_length=200)
    ciphertext: str = Field(max_length=400)
    created_at: datetime = Field(default_factory=now)


def _no_identifier(label: str) -> str:
    if sum(character.isdigit() for character in label) >= 9:
        raise PydanticCustomError("looks_identifying", "Nine or more digits look like a phone or national number")
    return label


SiteLocalId = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/\-]{0,31}$"), AfterValidator(_no_identifier)
]
"""The site's own label: letters, digits, . _ / -; refused when it looks like a direct identifier."""

_EARLIEST_BIRTH = date(1900, 1, 1)


def _orders(label: str) -> Iterator[tuple[str, ...]]:
    """Year, month and day, if the label is a date, for each order in which people write them."""
    parts = re.split(r"[._/\-]", label)
    if len(parts) == 3:
        first, second, third = parts
        yield from ((first, second, third), (third, second, first), (third, first, second))
    elif len(label) == 8:
        yield from (
            (label[:4], label[4:6], label[6:]),
            (label[4:], label[2:4], label[:2]),
            (label[4:], label[:2], label[2:4]),
        )


def _no_birth_date(label: str) -> str:
    for order in _orders(label):
        try:
            day = date(*map(int, order))
        except (ValueError, OverflowError):
            continue
        if _EARLIEST_BIRTH <= day <= latest_day(now()):
            raise PydanticCustomError("looks_identifying", "A date may be that of somebody's birth")
    return label


NewSiteLocalId = Annotated[SiteLocalId, AfterValidator(_no_birth_date)]
"""The label of a new participant, which must not be a date of birth either. A participant whose label was accepted
before this rule is still found by it."""


class EligibilityAtEnrolment(Shape):
    """Either an answer to each criterion, or the overall answer with the exceptions, as CDISC IE keeps them."""

    met: bool | None = None
    unmet: Annotated[list[Code], Bounded(max_length=100)] = []
    answers: Annotated[dict[Code, Annotated[CriterionAnswer, Strict(False)]], Bounded(max_length=200)] | None = None
    """Criterion -> met, not_met or not_applicable; what is left out is open."""

    @model_validator(mode="after")
    def _met_means_nothing_unmet(self) -> "EligibilityAtEnrolment":
        if (self.met is None) == (self.answers is None) or (self.answers is not None and self.unmet):
            raise PydanticCustomError("eligibility_form", "Give either answers, or met with the criteria unmet")
        if self.met and self.unmet:
            raise contradiction("eligibility_contradiction", "Eligibility cannot be met with criteria unmet", "unmet")
        return self


class EnrolmentFields(Shape):
    """What was entered at enrolment and may be corrected; the same rules hold for both."""

    age_at_consent: Annotated[int, Bounded(ge=18, le=120)]
    sex: Annotated[Sex, Strict(False)]
    race: Label | None = None
    ethnicity: Label | None = None
    planned_arm: Code | None = None
    actual_arm: Code | None = None
    screened_on: PastDate | None = None
    enrolled_on: PastDate | None = None

    @model_validator(mode="after")
    def _days_in_order(self) -> "EnrolmentFields":
        if self.enrolled_on and self.screened_on and self.enrolled_on < self.screened_on:
            raise contradiction("enrolled_before_screened", "enrolled_on cannot lie before screened_on", "enrolled_on")
        return self


class ParticipantAmend(Shape):
    """A correction: only the fields sent change; null clears, but for the consent and the label."""

    reason: Reason
    age_at_consent: Annotated[int, Bounded(ge=18, le=120)] | None = None
    sex: Annotated[Sex, Strict(False)] | None = None
    race: Label | None = None
    ethnicity: Label | None = None
    planned_arm: Code | None = None
    actual_arm: Code | None = None
    screened_on: PastDate | None = None
    enrolled_on: PastDate | None = None
    consent: ConsentAmend | None = None
    site_local_id: NewSiteLocalId | None = None
    """The site's own label, where it was mistyped: the person is found by this one from now on."""


class ParticipantCreate(EnrolmentFields):
    study: Code
    site: Code
    site_local_id: NewSiteLocalId
    protocol_version: Code | None = None
    """Absent: the study's newest version."""

    pid: Pid | None = None
    """One that was reserved for this site and is on the person's label already; absent: a new one is drawn."""

    consent: ConsentGiven
    eligibility: EligibilityAtEnrolment

    @model_validator(mode="after")
    def _enrolled_means_eligible(self) -> "ParticipantCreate":
        if self.enrolled_on and self.eligibility.met is False:
            raise contradiction(
                "enrolled_not_eligible", "A person who is not eligible cannot be enrolled", "enrolled_on"
            )
        return self


class ParticipantLookup(Shape):
    study: Code
    site: Code
    site_local_id: SiteLocalId


class StatusChange(Shape):
    status: Annotated[ParticipantStatus, Strict(False)]
    effective_on: PastDate
    reason: Reason
    correction: bool = False
    """True: the present status, or its day, was entered by mistake, and this replaces it."""


class ProtocolMove(Shape):
    version: Code
    reason: Reason


class ParticipantRead(Answer):
    pid: PidShown
    study: str
    site: str
    protocol_version: str
    status: ParticipantStatus
    status_on: date | None
    age_at_consent: int
    sex: Sex
    race: str | None
    ethnicity: str | None
    planned_arm: str | None
    actual_arm: str | None
    screened_on: date | None
    enrolled_on: date | None
    eligible: bool
    unmet_criteria: list[str]
    findings: list[Finding]
    version: int
    created_at: InstantShown
    updated_at: InstantShown
    voided_at: InstantShown | None
    """When it was voided as enrolled in error; since then it counts as never enrolled."""

    voiding_reason: str | None


class ParticipantList(Answer):
    items: list[ParticipantRead]
    next: str | None


class ParticipantFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    status: ParticipantStatus | None = None
    voided: QueryBool = False
    """True: only what was voided."""

    limit: Limit = 50
    cursor: Cursor = None
