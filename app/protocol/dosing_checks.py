"""Whether a session may start, a dose may be given and a session may be closed: facts checked by the protocol's rules,
with the name of each rule that is broken."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from fractions import Fraction
from typing import Literal, NamedTuple, assert_never

from app.protocol.clocks import instant
from app.protocol.dosing import (
    Confirmed,
    ConsentInForce,
    DischargeItem,
    Dosing,
    EligibilityConfirmed,
    MinimumInterval,
    NoOpenSignal,
    PlannedDose,
    Precondition,
    StaffPresent,
    VisitsHeld,
    VitalAtMost,
)

INITIAL_DOSE, NO_SUPPLEMENTAL = "INITIAL-DOSE", "NO-SUPPLEMENTAL-DOSE"
"""Names of the two rules that have no code of their own: the initial dose's amount, and that none may follow."""

_SIGNAL_OPEN = "A safety signal that holds dosing is not reviewed"


class Breach(NamedTuple):
    """A rule of the protocol that is broken. The message says what is required, never what was sent."""

    rule: str
    level: Literal["refuse", "flag"]
    message: str


@dataclass(frozen=True)
class SessionFacts:
    """The facts of the day on which a dosing session is to start. A fact that is left out counts as not given."""

    visit: str
    on: date
    consent_current: bool = False
    """The consent in force is of the protocol's version of that day."""

    consent_scopes: Collection[str] = ()
    """Scopes in force that day, given and not withdrawn."""

    eligible: bool | None = None
    earlier_doses: Sequence[date] = ()
    staff: Collection[str] = ()
    open_signals: Collection[str] = ()
    """Rules of signals that hold dosing and are not reviewed."""

    confirmed: Mapping[str, Literal["yes", "no", "not_applicable"]] = field(default_factory=dict)
    """By the code of the precondition."""

    held: Mapping[str, date] = field(default_factory=dict)
    """Visits that took place, with their first date."""

    held_since: date | None = None
    """Of who was screened again, when the last screening began: `held` has no visit of before."""

    vitals: Mapping[str, float] = field(default_factory=dict)


def start_refusals(dosing: Dosing, facts: SessionFacts) -> list[Breach]:
    """The preconditions that are not met, in the protocol's order; without any, the session may start."""
    wanted = [(rule.code, _unmet(rule, facts)) for rule in dosing.preconditions]
    return [Breach(code, "refuse", message) for code, message in wanted if message is not None]


def _unmet(rule: Precondition, facts: SessionFacts) -> str | None:
    """What is missing for a precondition, or None if it is met."""
    match rule:
        case ConsentInForce():
            return _consent(rule, facts)
        case VisitsHeld():
            return _visits(rule, facts)
        case EligibilityConfirmed():
            holds, wanted = facts.eligible is True, "Eligibility is not confirmed"
        case MinimumInterval():
            holds = all(abs((facts.on - earlier).days) >= rule.days for earlier in facts.earlier_doses)
            wanted = f"Needs {rule.days} days between doses"
        case StaffPresent():
            holds, wanted = len(set(facts.staff)) >= rule.minimum, f"Needs {rule.minimum} members of staff"
        case NoOpenSignal():
            holds, wanted = not facts.open_signals, _SIGNAL_OPEN
        case Confirmed():
            fine = ("yes", "not_applicable") if rule.may_not_apply else ("yes",)
            holds, wanted = facts.confirmed.get(rule.code) in fine, f"Not confirmed: {rule.label}"
        case VitalAtMost():
            value = facts.vitals.get(rule.measure)
            holds = value is not None and value <= rule.at_most
            wanted = f"{rule.measure} must be measured and at most {rule.at_most:g}"
        case _:
            assert_never(rule)
    return None if holds else wanted


def _consent(rule: ConsentInForce, facts: SessionFacts) -> str | None:
    missing = [scope for scope in rule.scopes if scope not in facts.consent_scopes]
    if missing:
        return f"No consent in force for: {', '.join(missing)}"
    return "The consent is not of the current version" if rule.current and not facts.consent_current else None


def _visits(rule: VisitsHeld, facts: SessionFacts) -> str | None:
    if facts.visit != rule.dosing:
        return None
    missing = [code for code in rule.visits if code not in facts.held or facts.held[code] > facts.on]
    since = "yet" if facts.held_since is None else f"since the last screening began, on {facts.held_since}"
    return f"Not held {since}: {', '.join(missing)}" if missing else None


def initial_breaches(dose: PlannedDose, given_mg: float) -> list[Breach]:
    """A dose that was given is stored, and flagged if it differs from the plan."""
    if dose.initial_min_mg <= given_mg <= dose.initial_max_mg:
        return []
    message = f"The plan is {dose.initial_min_mg:g} to {dose.initial_max_mg:g} mg"
    return [Breach(INITIAL_DOSE, "flag", message)]


def supplemental_breaches(
    dose: PlannedDose,
    initial: tuple[float, datetime],
    supplemental: tuple[float, datetime],
    measured: Collection[str],
    open_signals: Collection[str] = (),
) -> list[Breach]:
    """Amounts in mg, each with its moment; `measured`: vitals taken between the doses.

    An open signal that holds dosing refuses; amount, time and vitals do as the protocol says.
    Raises ValueError for a moment without time zone.
    """
    rule = dose.supplemental
    if rule is None:
        return [Breach(NO_SUPPLEMENTAL, "flag", "The plan has no supplemental dose")]
    wrong = []
    share = Fraction(str(rule.max_share))  # exact, as thresholds are
    most = share * Fraction(initial[0]) + Fraction(rule.tolerance_mg)
    if not supplemental[0] <= most:
        wrong.append(f"At most {rule.max_share:g} of the initial dose")
    minutes = (instant(supplemental[1]) - instant(initial[1])).total_seconds() / 60
    if not rule.earliest_minutes <= minutes <= rule.latest_minutes:
        wrong.append(f"From {rule.earliest_minutes} to {rule.latest_minutes} minutes after the initial dose")
    if lacking := [code for code in rule.measures if code not in measured]:
        wrong.append(f"Not measured before it: {', '.join(lacking)}")
    breaches = [Breach(rule.code, rule.otherwise, message) for message in wrong]
    if open_signals:
        breaches.append(Breach(rule.code, "refuse", _SIGNAL_OPEN))
    return breaches


@dataclass(frozen=True)
class DischargeFacts:
    released_at: datetime | None = None
    vitals: Collection[str] = ()
    """Time points of which every vital was taken."""

    instruments: Collection[str] = ()
    confirmed: Collection[str] = ()
    """Codes of the checklist that were answered yes."""


def discharge_breaches(dosing: Dosing, facts: DischargeFacts) -> list[Breach]:
    """The items of the checklist that are missing; without any, the session may be closed."""
    return [Breach(item.code, "refuse", f"Missing: {item.label}") for item in dosing.discharge if _lacks(item, facts)]


def _lacks(item: DischargeItem, facts: DischargeFacts) -> bool:
    match item.needs:
        case "release_time":
            return facts.released_at is None
        case "vitals":
            return item.of not in facts.vitals
        case "instrument":
            return item.of not in facts.instruments
        case "confirmation":
            return item.code not in facts.confirmed
    assert_never(item.needs)
