"""What a protocol says must hold together: faults beyond the shape of the file, all found in one pass."""

from collections.abc import Collection, Iterator, Mapping

from app.protocol.base import ProtocolFault, repeated, similar, unknown
from app.protocol.clinical_validation import clinical_faults
from app.protocol.consent import ConsentScope, ConsentVersion
from app.protocol.definition import Protocol, Threshold, VisitDefinition
from app.protocol.instruments import Instrument, instruments, shipped
from app.protocol.safety_validation import safety_faults
from app.protocol.verification import verification_faults

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
        yield from _order_faults(f"/visits/{position}/before", visit, visits, protocol)
        if visit.needs_scope is not None and visit.needs_scope not in protocol.scopes:
            message = f"{visit.code}: no consent version has the scope {visit.needs_scope}"
            yield ProtocolFault(f"/visits/{position}/needs_scope", "unknown_scope", message)
    for position, consent in enumerate(protocol.consents):
        yield from _consent_faults(f"/consents/{position}", consent)
    asked = {code for visit in protocol.visits for code in visit.instruments}
    for position, threshold in enumerate(protocol.thresholds):
        yield from _threshold_faults(f"/thresholds/{position}", threshold, visits, asked)
    yield from _amendment_faults(protocol)
    yield from safety_faults(protocol)
    if protocol.verification is not None:
        yield from verification_faults(protocol.verification, frozenset(asked))
    yield from clinical_faults(protocol)


def _repeats(protocol: Protocol) -> Iterator[ProtocolFault]:
    yield from repeated("/study_day_anchors/*", "study_day_anchor", protocol.study_day_anchors)
    yield from similar("/arms/*/code", "arm", (arm.code for arm in protocol.arms))
    yield from repeated("/visits/*/code", "visit", (visit.code for visit in protocol.visits))
    for position, visit in enumerate(protocol.visits):
        yield from repeated(f"/visits/{position}/instruments/*", "instrument", visit.instruments)
    yield from similar("/consents/*/version", "consent", (consent.version for consent in protocol.consents))
    for position, consent in enumerate(protocol.consents):
        yield from repeated(f"/consents/{position}/scopes/*", "scope", consent.scopes)
    yield from similar("/eligibility/*/code", "criterion", (criterion.code for criterion in protocol.eligibility))
    scored = (f"{threshold.instrument} {threshold.score}" for threshold in protocol.thresholds)
    yield from repeated("/thresholds/*", "threshold", scored)
    scales = {scale.code for scale in instruments().values() if scale.scores}
    yield from unknown("/historical_totals/*", "scored_instrument", protocol.historical_totals, scales)
    known = {visit.code for visit in protocol.visits}
    yield from unknown("/exposure_visits/*", "visit", protocol.exposure_visits, known)
    interests = (interest.code for interest in protocol.special_interest)
    yield from similar("/special_interest/*/code", "special_interest", interests)


def _visit_faults(path: str, visit: VisitDefinition, visits: Visits) -> Iterator[ProtocolFault]:
    for place, code in enumerate(visit.instruments):
        if shipped(code) is None:
            message = f"{visit.code}: no instrument {code} is shipped"
            yield ProtocolFault(f"{path}/instruments/{place}", "unknown_instrument", message)
    if visit.anchor is not None and visit.anchor not in visits:
        message = f"{visit.code}: {visit.anchor} is no visit of the schedule"
        yield ProtocolFault(f"{path}/anchor", "unknown_anchor", message)
    anchor = visits.get(visit.anchor or "")
    if visit.has_window and anchor is not None and anchor.repeats == 0:
        message = f"{visit.code}: {visit.anchor} takes place any number of times, so no one day counts"
        yield ProtocolFault(f"{path}/anchor", "unusable_anchor", message)
    if _circular(visit, visits):
        message = f"{visit.code}: its anchors lead back to itself"
        yield ProtocolFault(f"{path}/anchor", "circular_anchors", message)
    if reason := _impossible_window(visit):
        yield ProtocolFault(path, "impossible_window", f"{visit.code}: {reason}")
    yield from _repeat_faults(f"{path}/repeat_every_days", visit)


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
    if not visit.has_window:
        wide = visit.offset_days or visit.window_before or visit.window_after
        return "a window needs another visit as its anchor" if wide else None
    return None if "offset_days" in visit.model_fields_set else "offset_days is missing"


def _repeat_faults(path: str, visit: VisitDefinition) -> Iterator[ProtocolFault]:
    every = visit.repeat_every_days
    if every is None:
        return
    if visit.repeats == 1 or not visit.has_window:
        message = f"{visit.code}: only a visit with a window that repeats can repeat every {every} days"
        yield ProtocolFault(path, "nothing_to_repeat", message)
    elif every <= visit.window_before + visit.window_after:
        wide = visit.window_before + visit.window_after + 1
        message = f"{visit.code}: windows of {wide} days every {every} days overlap"
        yield ProtocolFault(path, "colliding_windows", message)


def _order_faults(path: str, visit: VisitDefinition, visits: Visits, protocol: Protocol) -> Iterator[ProtocolFault]:
    """What a visit must precede has to be there, and to be able to come later."""
    if visit.before is None:
        return
    later = visits.get(visit.before)
    if later is None:
        yield ProtocolFault(path, "unknown_visit", f"{visit.code}: {visit.before} is no visit of the schedule")
        return
    opens = visit.offset_days - visit.window_before
    too_late = visit.has_window and visit.anchor == later.code and opens > 0
    if visit.has_window and later.has_window and visit.anchor == later.anchor:
        too_late = opens > later.offset_days + later.window_after
    if later is visit or too_late:
        message = f"{visit.code}: its window opens only after {later.code}, which it must precede"
        yield ProtocolFault(path, "impossible_order", message)
    elif visit.code in protocol.after(visit.code):
        message = f"{visit.code}: what must come after it leads back to it"
        yield ProtocolFault(path, "circular_order", message)


def _consent_faults(path: str, consent: ConsentVersion) -> Iterator[ProtocolFault]:
    for place, scope in enumerate(consent.scopes):
        if scope not in set(ConsentScope):
            message = f"{scope} is none of {', '.join(ConsentScope)}"
            yield ProtocolFault(f"{path}/scopes/{place}", "unknown_scope", message)
    for place, scope in enumerate(consent.required):
        if scope not in consent.scopes:
            message = f"Consent {consent.version} requires {scope}, which is none of its scopes"
            yield ProtocolFault(f"{path}/required/{place}", "unknown_scope", message)


def _amendment_faults(protocol: Protocol) -> Iterator[ProtocolFault]:
    amendments, consents = protocol.amendments, {consent.version for consent in protocol.consents}
    yield from similar("/amendments/*/version", "amendment", (one.version for one in amendments))
    for position, one in enumerate(amendments):
        path = f"/amendments/{position}"
        if position and one.valid_from < amendments[position - 1].valid_from:
            message = f"Version {one.version} holds from an earlier day than the amendment before it"
            yield ProtocolFault(f"{path}/valid_from", "amendment_order", message)
        if one.consent is not None and one.consent not in consents:
            message = f"Version {one.version}: there is no consent version {one.consent}"
            yield ProtocolFault(f"{path}/consent", "unknown_consent", message)
        if bool(one.reconsent) != (one.consent is not None):
            message = f"Version {one.version}: who consents again, and to which version, go together"
            yield ProtocolFault(f"{path}/reconsent", "unusable_amendment", message)
    if amendments and amendments[-1].version != protocol.version:
        message = f"The last amendment makes version {amendments[-1].version}, the file is {protocol.version}"
        yield ProtocolFault(f"/amendments/{len(amendments) - 1}/version", "amendment_version", message)


def _threshold_faults(
    path: str, threshold: Threshold, visits: Visits, asked: Collection[str]
) -> Iterator[ProtocolFault]:
    rules = [threshold.remission_max, threshold.response_fraction, threshold.response_max]
    nothing = not any(rule is not None for rule in rules) and not threshold.bands
    if nothing or None not in rules[1:]:
        message = "Needs remission_max, bands, or one of response_fraction and response_max, not both of these"
        yield ProtocolFault(path, "unusable_threshold", message)
    scale = shipped(threshold.instrument)
    if scale is None:
        message = f"No instrument {threshold.instrument} is shipped"
        yield ProtocolFault(f"{path}/instrument", "unknown_instrument", message)
        return
    if threshold.score not in {rule.name for rule in scale.scores}:
        message = f"{threshold.instrument} has no score {threshold.score}"
        yield ProtocolFault(f"{path}/score", "unknown_score", message)
    else:
        yield from _band_faults(f"{path}/bands", threshold, scale)
        if scale.direction_of(threshold.score) != "higher_is_worse":
            message = f"{threshold.instrument}: response and remission are falls, but higher is better here"
            yield ProtocolFault(f"{path}/instrument", "threshold_direction", message)
    if visits and threshold.instrument not in asked:
        message = f"No visit has the instrument {threshold.instrument}"
        yield ProtocolFault(f"{path}/instrument", "instrument_never_asked", message)
    for name, code in (("baseline", threshold.baseline), ("endpoint", threshold.endpoint)):
        if code is not None and (code not in visits or threshold.instrument not in visits[code].instruments):
            message = f"{code} is no visit with the instrument {threshold.instrument}"
            yield ProtocolFault(f"{path}/{name}", "unknown_visit", message)


def _band_faults(path: str, threshold: Threshold, scale: Instrument) -> Iterator[ProtocolFault]:
    """Bands in ascending order must cover the score's range, each value once."""
    if not threshold.bands:
        return
    lowest, highest = scale.bounds(threshold.score)
    starts = [lowest, *(band.maximum + 1 for band in threshold.bands)]
    for place, (band, expected) in enumerate(zip(threshold.bands, starts, strict=False)):
        if band.minimum != expected or band.maximum < band.minimum:
            message = f"{band.label} must start at {expected} and not end before it"
            yield ProtocolFault(f"{path}/{place}", "band_order", message)
    if starts[-1] != highest + 1:
        yield ProtocolFault(path, "band_gap", f"The bands end at {starts[-1] - 1}, the score at {highest}")
