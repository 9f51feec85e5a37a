"""What a protocol says must hold together: faults beyond the shape of the file, all found in one pass."""

from collections.abc import Iterator, Mapping

from app.protocol.base import ProtocolFault, repeated
from app.protocol.definition import Protocol, Threshold, VisitDefinition
from app.protocol.instruments import UnknownInstrument, instrument

Visits = Mapping[str, VisitDefinition]


def protocol_faults(protocol: Protocol) -> Iterator[ProtocolFault]:
    visits = {visit.code: visit for visit in protocol.visits}
    if not visits:
        yield ProtocolFault("/visits", "empty_schedule", "A protocol needs at least one visit")
    yield from _repeats(protocol)
    for position, code in enumerate(protocol.study_day_anchors):
        if code not in visits:
            path = f"/study_day_anchors/{position}"
            yield ProtocolFault(path, "unknown_study_day_anchor", f"{code} is no visit of the schedule")
    for position, visit in enumerate(protocol.visits):
        yield from _visit_faults(f"/visits/{position}", visit, visits)
    for position, threshold in enumerate(protocol.thresholds):
        yield from _threshold_faults(f"/thresholds/{position}", threshold)


def _repeats(protocol: Protocol) -> Iterator[ProtocolFault]:
    yield from repeated("/study_day_anchors/*", "study_day_anchor", protocol.study_day_anchors)
    yield from repeated("/arms/*/code", "arm", (arm.code for arm in protocol.arms))
    yield from repeated("/visits/*/code", "visit", (visit.code for visit in protocol.visits))
    for position, visit in enumerate(protocol.visits):
        yield from repeated(f"/visits/{position}/instruments/*", "instrument", visit.instruments)
    yield from repeated("/consents/*/version", "consent", (consent.version for consent in protocol.consents))
    for position, consent in enumerate(protocol.consents):
        yield from repeated(f"/consents/{position}/scopes/*", "scope", consent.scopes)
    yield from repeated("/eligibility/*/code", "criterion", (criterion.code for criterion in protocol.eligibility))
    scored = (f"{threshold.instrument} {threshold.score}" for threshold in protocol.thresholds)
    yield from repeated("/thresholds/*", "threshold", scored)
    interests = (interest.code for interest in protocol.special_interest)
    yield from repeated("/special_interest/*/code", "special_interest", interests)


def _visit_faults(path: str, visit: VisitDefinition, visits: Visits) -> Iterator[ProtocolFault]:
    for place, code in enumerate(visit.instruments):
        if not _known(code):
            message = f"{visit.code}: no instrument {code} is shipped"
            yield ProtocolFault(f"{path}/instruments/{place}", "unknown_instrument", message)
    if visit.anchor is not None and visit.anchor not in visits:
        message = f"{visit.code}: {visit.anchor} is no visit of the schedule"
        yield ProtocolFault(f"{path}/anchor", "unknown_anchor", message)
    if _circular(visit, visits):
        message = f"{visit.code}: its anchors lead back to itself"
        yield ProtocolFault(f"{path}/anchor", "circular_anchors", message)
    if reason := _impossible_window(visit):
        yield ProtocolFault(path, "impossible_window", f"{visit.code}: {reason}")


def _circular(visit: VisitDefinition, visits: Visits) -> bool:
    """Whether following the anchors from this visit comes back to it. Being one's own anchor is no circle."""
    passed: set[str] = set()
    code = visit.code
    while code in visits and code not in passed:
        passed.add(code)
        anchor = visits[code].anchor
        if anchor is None or anchor == code:
            return False
        code = anchor
    return code == visit.code


def _impossible_window(visit: VisitDefinition) -> str | None:
    if visit.window_before < 0 or visit.window_after < 0:
        return "a window cannot be narrower than its planned day"
    if visit.anchor in (None, visit.code):
        wide = visit.offset_days or visit.window_before or visit.window_after
        return "a window needs another visit as its anchor" if wide else None
    return None if "offset_days" in visit.model_fields_set else "offset_days is missing"


def _threshold_faults(path: str, threshold: Threshold) -> Iterator[ProtocolFault]:
    rules = [threshold.remission_max, threshold.response_fraction, threshold.response_max]
    if not any(rule is not None for rule in rules) or None not in rules[1:]:
        message = "Needs remission_max, or one of response_fraction and response_max, not both of these"
        yield ProtocolFault(path, "unusable_threshold", message)
    if not _known(threshold.instrument):
        message = f"No instrument {threshold.instrument} is shipped"
        yield ProtocolFault(f"{path}/instrument", "unknown_instrument", message)
        return
    scale = instrument(threshold.instrument)
    if threshold.score not in {rule.name for rule in scale.scores}:
        message = f"{threshold.instrument} has no score {threshold.score}"
        yield ProtocolFault(f"{path}/score", "unknown_score", message)
    if scale.direction != "higher_is_worse":
        message = f"{threshold.instrument}: response and remission are falls, but higher is better here"
        yield ProtocolFault(f"{path}/instrument", "threshold_direction", message)


def _known(code: str) -> bool:
    try:
        instrument(code)
    except UnknownInstrument:
        return False
    return True
