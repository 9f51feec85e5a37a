"""What dosing sessions, doses and vital signs look like in requests and answers."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, Strict, StringConstraints, model_validator
from pydantic import Field as Bounded
from pydantic_core import PydanticCustomError

from app.models.base import (
    Answer,
    Code,
    Cursor,
    Filter,
    InstantShown,
    Limit,
    LongReason,
    PastInstant,
    QueryBool,
    Reason,
    Shape,
)
from app.models.contradiction import contradiction
from app.models.dosing_session import DoseKind, SessionState
from app.models.finding import Finding
from app.models.identifiers import Pid, PidShown, Staff
from app.models.safety_signal import SafetySignalRead

Milligrams = Annotated[float, Bounded(gt=0, le=10_000)]
_ANSWERS = ("yes", "no", "not_applicable")


def _answered(confirmations: Any) -> Any:
    """Each by its place, as the codes are what somebody sent."""
    if isinstance(confirmations, dict) and (
        wrong := [str(place) for place, one in enumerate(confirmations.values()) if one not in _ANSWERS]
    ):
        message = "Each is answered yes, no or not_applicable; not so, as they were sent and counted from 0: {places}"
        raise PydanticCustomError("confirmation_answer", message, {"places": ", ".join(wrong)})
    return confirmations


Confirmations = Annotated[
    dict[Code, Literal["yes", "no", "not_applicable"]], Bounded(max_length=50), BeforeValidator(_answered)
]
"""By the code of the protocol's precondition."""

Confirmed = Annotated[list[Code], Bounded(max_length=50)]
"""Codes of the discharge checklist that were answered yes."""

Value = Annotated[float, Bounded(ge=-1_000_000, le=1_000_000)]


class Medication(Shape):
    """What else was taken or given on the day, by its class of the WHO's ATC index; no brand, no free text."""

    atc: Annotated[str, StringConstraints(pattern=r"^[A-Z][0-9]{2}([A-Z]([A-Z]([0-9]{2})?)?)?$")]
    kind: Literal["concomitant", "as_needed"]
    amount_mg: Milligrams | None = None
    given_at: PastInstant | None = None


Medications = Annotated[list[Medication], Bounded(max_length=50)]


class VitalsCreate(Shape):
    taken_at: PastInstant
    timepoint: Code | None = None
    """Of the protocol's schedule; absent between its time points."""

    values: Annotated[dict[Code, Value], Bounded(min_length=1, max_length=50)]
    """By measure, in the protocol's unit."""

    reason: Reason | None = None
    """Why it is added to a session that is closed."""


class VitalsAmend(Shape):
    """A correction: the values sent replace those of the same measures; null takes one away."""

    reason: Reason
    taken_at: PastInstant | None = None
    timepoint: Code | None = None
    values: Annotated[dict[Code, Value | None], Bounded(max_length=50)] | None = None


class DoseFields(Shape):
    """The rules of a dose, the same when it is recorded and when it is corrected."""

    planned_mg: Milligrams
    given_mg: Milligrams | None = None
    given_at: PastInstant | None = None
    deviation_reason: LongReason | None = None
    """Why it was not given, or not as planned."""

    @model_validator(mode="after")
    def _given_at_a_time(self) -> "DoseFields":
        if (self.given_mg is None) != (self.given_at is None):
            raise contradiction(
                "given_half",
                "A dose that was given has both given_mg and given_at",
                "given_at" if self.given_at is None else "given_mg",
            )
        if self.given_mg is None and self.deviation_reason is None:
            raise contradiction(
                "deviation_reason_missing", "A dose that was not given needs deviation_reason", "deviation_reason"
            )
        return self


class DoseCreate(DoseFields):
    kind: Annotated[DoseKind, Strict(False)]
    reason: Reason | None = None
    """Why it is added to a session that is closed."""


class DoseAmend(Shape):
    """A correction: only the fields sent change; null clears."""

    reason: Reason
    planned_mg: Milligrams | None = None
    given_mg: Milligrams | None = None
    given_at: PastInstant | None = None
    deviation_reason: LongReason | None = None


class DosingSessionCreate(Shape):
    visit: UUID = Bounded(strict=False)
    started_at: PastInstant
    staff: Staff
    confirmations: Confirmations = {}
    medications: Medications = []
    vitals: VitalsCreate | None = None
    """Taken before the start, and compared with the protocol's limits for starting."""


class DosingSessionClose(Shape):
    ended_at: PastInstant
    released_at: PastInstant | None = None
    discharge: Confirmed = []
    medications: Medications = []
    """Added to what is there already."""


class DosingSessionFields(Shape):
    """What stays true of every session, however it came about."""

    started_at: PastInstant
    ended_at: PastInstant | None
    released_at: PastInstant | None
    staff: Staff
    confirmations: Confirmations
    discharge: Confirmed
    medications: Medications

    @model_validator(mode="after")
    def _moments_in_order(self) -> "DosingSessionFields":
        if self.ended_at is not None and self.ended_at < self.started_at:
            raise contradiction("ended_before_start", "ended_at cannot lie before started_at", "ended_at")
        if self.released_at is not None and (self.ended_at is None or self.released_at < self.ended_at):
            raise contradiction("released_before_end", "released_at cannot lie before ended_at", "released_at")
        return self


class DosingSessionAmend(Shape):
    """A correction: only the fields sent change, lists as a whole."""

    reason: Reason
    started_at: PastInstant | None = None
    ended_at: PastInstant | None = None
    released_at: PastInstant | None = None
    staff: Staff | None = None
    confirmations: Confirmations | None = None
    discharge: Confirmed | None = None
    medications: Medications | None = None


class MedicationRead(Answer):
    atc: str
    kind: str
    amount_mg: int | float | None
    given_at: InstantShown | None


class DoseRead(Answer):
    id: UUID
    kind: DoseKind
    planned_mg: int | float
    given_mg: int | float | None
    given_at: InstantShown | None
    deviation_reason: str | None
    findings: list[Finding]
    version: int
    created_at: InstantShown
    updated_at: InstantShown


class VitalReadingRead(Answer):
    id: UUID
    timepoint: str | None
    taken_at: InstantShown
    values: dict[str, int | float]
    findings: list[Finding]
    version: int
    created_at: InstantShown
    updated_at: InstantShown
    voided_at: InstantShown | None
    """When it was voided by itself as entered in error."""

    voiding_reason: str | None


class OpenVitalRead(Answer):
    """A timed measurement that the protocol asks for and that is not there."""

    timepoint: str
    measure: str
    due_at: InstantShown


class LackingRead(Answer):
    """A rule of the protocol that keeps the session from being closed."""

    rule: str
    message: str


class DosingSessionRead(Answer):
    id: UUID
    participant: PidShown
    study: str
    site: str
    visit: UUID
    visit_code: str
    state: SessionState
    started_at: InstantShown
    ended_at: InstantShown | None
    released_at: InstantShown | None
    closed_at: InstantShown | None
    staff: list[str]
    confirmations: dict[str, str]
    discharge: list[str]
    medications: list[MedicationRead]
    version: int
    created_at: InstantShown
    updated_at: InstantShown
    voided_at: InstantShown | None
    """Since when it counts as never recorded, with its doses and vital signs, as it was entered in error."""

    voiding_reason: str | None


class DosingSessionDetail(DosingSessionRead):
    doses: list[DoseRead]
    vitals: list[VitalReadingRead]
    voided_vitals: list[VitalReadingRead]
    """Those that were entered in error and do not count, in the order in which they were taken."""

    open_vitals: list[OpenVitalRead]
    """Measurements still missing, of the time points whose time is known."""

    lacking: list[LackingRead]
    """What the discharge checklist still asks for."""

    holding: list[SafetySignalRead]
    """Signals of the participant that hold dosing and are not reviewed."""


class DosingSessionList(Answer):
    items: list[DosingSessionRead]
    next: str | None


class DosingSessionFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    participant: Pid | None = None
    visit_code: Code | None = None
    state: SessionState | None = None
    voided: QueryBool = False
    """True: only what was voided."""

    limit: Limit = 50
    cursor: Cursor = None
