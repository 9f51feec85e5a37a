"""Faults in what a protocol says of vital signs and dosing."""

from collections.abc import Iterator
from typing import assert_never

from app.protocol.base import ProtocolFault, repeated, similar, unknown
from app.protocol.definition import Protocol, VisitDefinition, VisitKind
from app.protocol.dosing import (
    ConsentInForce,
    DischargeItem,
    Dosing,
    EligibilityConfirmed,
    MinimumInterval,
    NoOpenSignal,
    PlannedDose,
    Precondition,
    VisitsHeld,
    VitalAtMost,
)
from app.protocol.instruments import instruments
from app.protocol.vitals import Measure, Vitals


def clinical_faults(protocol: Protocol) -> Iterator[ProtocolFault]:
    if protocol.vitals is not None:
        yield from _vitals_faults(protocol.vitals)
    if protocol.dosing is not None:
        yield from _dosing_faults(protocol, protocol.dosing)


def _vitals_faults(vitals: Vitals) -> Iterator[ProtocolFault]:
    known = {measure.code for measure in vitals.measures}
    yield from similar("/vitals/measures/*/code", "measure", (measure.code for measure in vitals.measures))
    yield from similar("/vitals/timepoints/*/code", "timepoint", (point.code for point in vitals.timepoints))
    for position, measure in enumerate(vitals.measures):
        yield from _limit_faults(f"/vitals/measures/{position}", measure)
    for position, pair in enumerate(vitals.pairs):
        for name, code in (("higher", pair.higher), ("lower", pair.lower)):
            yield from unknown(f"/vitals/pairs/{position}/{name}", "measure", [code], known)
        if pair.higher == pair.lower:
            message = f"{pair.higher} cannot be above itself"
            yield ProtocolFault(f"/vitals/pairs/{position}", "cannot_hold", message)
    for position, point in enumerate(vitals.timepoints):
        path = f"/vitals/timepoints/{position}/measures/*"
        yield from repeated(path, "measure", point.measures)
        yield from unknown(path, "measure", point.measures, known)


def _limit_faults(path: str, measure: Measure) -> Iterator[ProtocolFault]:
    if measure.lowest >= measure.highest:
        yield ProtocolFault(f"{path}/lowest", "empty_range", f"{measure.code}: lowest must lie below highest")
    for name, limit in (("warn_below", measure.warn_below), ("warn_above", measure.warn_above)):
        if limit is not None and not measure.lowest <= limit <= measure.highest:
            message = f"{measure.code}: a warning outside the hard limits is never given"
            yield ProtocolFault(f"{path}/{name}", "never_true", message)
    if measure.warn_below is not None and measure.warn_above is not None and measure.warn_below > measure.warn_above:
        message = f"{measure.code}: every value is below warn_below or above warn_above"
        yield ProtocolFault(f"{path}/warn_below", "always_true", message)


def _dosing_faults(protocol: Protocol, dosing: Dosing) -> Iterator[ProtocolFault]:
    visits = {visit.code: visit for visit in protocol.visits}
    given = [visit.code for visit in protocol.visits if visit.kind is VisitKind.dosing]
    yield from repeated("/dosing/doses/*/visit", "dose", (dose.visit for dose in dosing.doses))
    for code in sorted(set(given) - {dose.visit for dose in dosing.doses}):
        yield ProtocolFault("/dosing/doses", "dose_missing", f"No dose is planned for the dosing visit {code}")
    for position, dose in enumerate(dosing.doses):
        path = f"/dosing/doses/{position}"
        if dose.visit not in given:
            message = f"{dose.visit} is no dosing visit of the schedule"
            yield ProtocolFault(f"{path}/visit", "no_dosing_visit", message)
        yield from _dose_faults(path, dose, protocol)
    yield from _rule_codes(protocol, dosing)
    for position, rule in enumerate(dosing.preconditions):
        yield from _precondition_faults(f"/dosing/preconditions/{position}", rule, protocol, visits)
    for position, item in enumerate(dosing.discharge):
        yield from _discharge_faults(f"/dosing/discharge/{position}", item, protocol, dosing)


def _dose_faults(path: str, dose: PlannedDose, protocol: Protocol) -> Iterator[ProtocolFault]:
    if dose.initial_min_mg > dose.initial_max_mg:
        message = f"{dose.visit}: no amount is at least the smallest and at most the largest initial dose"
        yield ProtocolFault(f"{path}/initial_min_mg", "cannot_hold", message)
    extra = dose.supplemental
    if extra is not None:
        if extra.earliest_minutes > extra.latest_minutes:
            message = f"{dose.visit}: a supplemental dose would end before it may start"
            yield ProtocolFault(f"{path}/supplemental/earliest_minutes", "cannot_hold", message)
        yield from unknown(f"{path}/supplemental/measures/*", "measure", extra.measures, protocol.measures)


def _rule_codes(protocol: Protocol, dosing: Dosing) -> Iterator[ProtocolFault]:
    """A refusal names only the code of its rule, so a code must be unique in all lists of rules."""
    yield from similar("/dosing/preconditions/*/code", "rule", (rule.code for rule in dosing.preconditions))
    yield from similar("/dosing/discharge/*/code", "rule", (item.code for item in dosing.discharge))
    elsewhere = {rule.code for rule in dosing.preconditions} | {rule.code for rule in protocol.safety_rules}
    for position, item in enumerate(dosing.discharge):
        if item.code in elsewhere:
            message = f"{item.code} is the code of another rule too"
            yield ProtocolFault(f"/dosing/discharge/{position}/code", "duplicate_rule", message)


def _precondition_faults(
    path: str, rule: Precondition, protocol: Protocol, visits: dict[str, VisitDefinition]
) -> Iterator[ProtocolFault]:
    if isinstance(rule, ConsentInForce):
        yield from unknown(f"{path}/scopes/*", "scope", rule.scopes, protocol.scopes)
    if isinstance(rule, EligibilityConfirmed) and not protocol.eligibility:
        yield ProtocolFault(path, "checks_nothing", f"{rule.code}: the protocol has no eligibility criteria")
    if isinstance(rule, NoOpenSignal) and not any(one.holds_dosing for one in protocol.safety_rules):
        yield ProtocolFault(path, "checks_nothing", f"{rule.code}: no safety rule holds dosing")
    if isinstance(rule, MinimumInterval):
        yield from _interval_faults(f"{path}/days", rule, visits)
    if isinstance(rule, VisitsHeld):
        yield from _held_faults(path, rule, protocol, visits)
    if isinstance(rule, VitalAtMost):
        yield from unknown(f"{path}/measure", "measure", [rule.measure], protocol.measures)
        measure = protocol.measures.get(rule.measure)
        if measure is not None and rule.at_most < measure.lowest:
            message = f"{rule.code}: values so low are refused by the hard limits"
            yield ProtocolFault(f"{path}/at_most", "cannot_hold", message)
        if measure is not None and rule.at_most >= measure.highest:
            message = f"{rule.code}: no value that the hard limits take is above it"
            yield ProtocolFault(f"{path}/at_most", "checks_nothing", message)


def _interval_faults(path: str, rule: MinimumInterval, visits: dict[str, VisitDefinition]) -> Iterator[ProtocolFault]:
    """A dosing visit whose window is counted from another one must not close before the interval between doses is over,
    as it could then never be in time."""
    for visit in visits.values():
        anchor = visits.get(visit.anchor or "")
        if visit.kind is not VisitKind.dosing or anchor is None or anchor.kind is not VisitKind.dosing:
            continue
        if visit.has_window and visit.offset_days + visit.window_after < rule.days:
            message = f"{rule.code}: the window of {visit.code} closes before {rule.days} days are over"
            yield ProtocolFault(path, "cannot_hold", message)


def _held_faults(
    path: str, rule: VisitsHeld, protocol: Protocol, visits: dict[str, VisitDefinition]
) -> Iterator[ProtocolFault]:
    if rule.dosing not in visits or visits[rule.dosing].kind is not VisitKind.dosing:
        message = f"{rule.dosing} is no dosing visit of the schedule"
        yield ProtocolFault(f"{path}/dosing", "no_dosing_visit", message)
    yield from unknown(f"{path}/visits/*", "visit", rule.visits, visits)
    last = {visit.code for visit in visits.values() if visit.kind is VisitKind.early_termination}
    for place, code in enumerate(rule.visits):
        if code in protocol.after(rule.dosing) | last | {rule.dosing}:
            message = f"{rule.code}: {code} comes after {rule.dosing}"
            yield ProtocolFault(f"{path}/visits/{place}", "cannot_hold", message)


def _discharge_faults(path: str, item: DischargeItem, protocol: Protocol, dosing: Dosing) -> Iterator[ProtocolFault]:
    points = {point.code: point for point in protocol.vitals.timepoints} if protocol.vitals else {}
    match item.needs:
        case "vitals":
            yield from unknown(f"{path}/of", "timepoint", [item.of or "(none)"], points)
            point = points.get(item.of or "")
            untimed = [dose.visit for dose in dosing.doses if dose.supplemental is None]
            if point is not None and point.counted_from == "supplemental_dose" and untimed:
                message = f"{item.code}: no supplemental dose is planned at {untimed[0]} to time {point.code} by"
                yield ProtocolFault(f"{path}/of", "never_timed", message)
        case "instrument":
            shipped = {one.code for one in instruments().values()}
            yield from unknown(f"{path}/of", "instrument", [item.of or "(none)"], shipped)
            given = {dose.visit for dose in dosing.doses}
            asked = {code for visit in protocol.visits if visit.code in given for code in visit.instruments}
            if item.of in shipped - asked:
                message = f"{item.code}: no dosing visit has the instrument {item.of}"
                yield ProtocolFault(f"{path}/of", "instrument_never_asked", message)
        case "release_time" | "confirmation":
            if item.of is not None:
                message = f"{item.code}: {item.needs} is of nothing else"
                yield ProtocolFault(f"{path}/of", "needless_reference", message)
        case _:
            assert_never(item.needs)
