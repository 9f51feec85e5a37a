"""The rules of a protocol for dosing sessions: doses, preconditions, and the checklist at discharge."""

from typing import Annotated, Literal

from pydantic import Field

from app.protocol.base import Code, Codes, Definition, Listed, Share, SomeCodes, Text, Title, VisitCode

Milligrams = Annotated[float, Field(gt=0, le=10_000)]
Minutes = Annotated[int, Field(ge=0, le=1_440)]


class Supplemental(Definition):
    """When and how much may follow the initial dose."""

    code: Code
    max_share: Share
    """At most this share of the initial dose given, plus `tolerance_mg`."""

    tolerance_mg: Annotated[float, Field(ge=0, le=1_000)] = 0
    earliest_minutes: Minutes
    latest_minutes: Minutes
    """After the initial dose."""

    otherwise: Literal["refuse", "flag"]
    """Whether a dose outside amount or time is refused or flagged. A dose that was given is better stored and
    flagged."""

    measures: Codes = ()
    """Vitals taken before it."""

    source: Text


class PlannedDose(Definition):
    """The initial dose of one dosing visit, and what may follow. A fixed dose has both limits the same."""

    visit: VisitCode
    initial_min_mg: Milligrams
    initial_max_mg: Milligrams
    supplemental: Supplemental | None = None
    source: Text


class _Precondition(Definition):
    code: Code
    """What a refusal names."""

    source: Text


class ConsentInForce(_Precondition):
    rule: Literal["consent"]
    scopes: SomeCodes
    current: bool = True
    """The consent must be of the newest version that the participant was asked for by that day."""


class EligibilityConfirmed(_Precondition):
    rule: Literal["eligibility"]


class MinimumInterval(_Precondition):
    """Calendar days between the dates of two doses."""

    rule: Literal["minimum_interval"]
    days: Annotated[int, Field(ge=1, le=3_650)]


class StaffPresent(_Precondition):
    """So many different members of staff."""

    rule: Literal["staff"]
    minimum: Annotated[int, Field(ge=1, le=20)]


class NoOpenSignal(_Precondition):
    """Every safety signal that stops dosing has been reviewed."""

    rule: Literal["no_open_signal"]


class Confirmed(_Precondition):
    """A member of staff answers yes on the day, or, if the protocol allows it, that it does not apply."""

    rule: Literal["confirmed"]
    label: Title
    may_not_apply: bool = False


class VisitsHeld(_Precondition):
    """These visits took place before the dosing visit; of who was screened again, since the last screening began."""

    rule: Literal["visits_held"]
    dosing: VisitCode
    visits: Annotated[tuple[VisitCode, ...], Listed, Field(min_length=1)]


class VitalAtMost(_Precondition):
    """Measured on the day before the dose, and at most this."""

    rule: Literal["vital_at_most"]
    measure: Code
    at_most: float


Precondition = Annotated[
    ConsentInForce
    | EligibilityConfirmed
    | MinimumInterval
    | StaffPresent
    | NoOpenSignal
    | Confirmed
    | VisitsHeld
    | VitalAtMost,
    Field(discriminator="rule"),
]


class DischargeItem(Definition):
    """One item that must be complete before a session is closed."""

    code: Code
    label: Title
    needs: Literal["release_time", "vitals", "instrument", "confirmation"]
    of: Code | None = None
    """The time point of the vitals, or the instrument; else nothing."""

    source: Text


class Dosing(Definition):
    substance: Title
    amount_as: Literal["salt", "base"]
    """What the amounts in mg refer to."""

    doses: Annotated[tuple[PlannedDose, ...], Listed, Field(min_length=1)]
    preconditions: Annotated[tuple[Precondition, ...], Listed] = ()
    discharge: Annotated[tuple[DischargeItem, ...], Listed] = ()
    source: Text

    def dose(self, visit: str) -> PlannedDose | None:
        return next((dose for dose in self.doses if dose.visit == visit), None)
