"""Doses: stored as they were given, with a finding where they differ from the plan, refused while an open safety signal
stops dosing."""

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlmodel import Session

from app import audit
from app.access import Actor, found
from app.errors import Conflict, Fault
from app.models.base import from_json, now
from app.models.dosing_session import Dose, DoseKind, DosingSession, VitalReading
from app.models.dosing_shapes import DoseAmend, DoseCreate, DoseFields, DosingSessionDetail
from app.models.finding import Finding, findings_text
from app.protocol.clocks import local_day
from app.protocol.dosing import ConsentInForce, MinimumInterval, NoOpenSignal, VisitsHeld
from app.protocol.dosing_checks import Breach, SessionFacts, initial_breaches, supplemental_breaches
from app.services.dosing import dosing_day
from app.services.dosing.dosing_day import DosingDay, doses_of, readings_of
from app.services.dosing.dosing_reads import detail_of
from app.services.participation.participants import Person
from app.services.quality.rule_queries import NOTHING, Judged
from app.services.safety import safety_signals
from app.web.conditional import Seen
from app.web.merging import corrected, sent_fields

PLANNED_DOSE = "PLANNED-DOSE"
"""Name of the rule that has no code of its own: what was planned is given."""

OFF_PLAN, OFF_COURSE, WITHOUT_CONSENT = "dose_off_plan", "dose_off_course", "dose_without_consent"
OUT_OF_ORDER = "vital_out_of_order"


class DoseAlreadyRecorded(Conflict):
    """This dose of the session was recorded already: correct the one at `existing`."""


class InitialDoseMissing(Conflict):
    """No initial dose of this session was given, so none can follow."""


class DoseRefused(Conflict):
    """The protocol does not allow this dose; see errors, one for each rule that does not hold."""


class DoseOffPlan(Conflict):
    """The dose is not as planned and no deviation reason was given; see errors."""


def record_dose(session: Session, actor: Actor, session_id: UUID, body: DoseCreate) -> tuple[DosingSessionDetail, int]:
    """Add a dose to an open session, or with the reason to a closed one; also gives the site's key.

    Raises NotFound, DosingSessionClosed, MomentOutsideVisit, InitialDoseMissing, DoseRefused, DoseOffPlan,
    DoseAlreadyRecorded.
    """
    day, row = dosing_day.hold_session(session, actor, session_id)
    dosing_day.require_open(row, body.reason)
    day.require_moment("/given_at", body.given_at, row)
    dose = Dose(
        site_id=row.site_id,
        pid=row.pid,
        session_id=row.id,
        created_by=actor.account_id,
        **body.model_dump(exclude={"reason"}),
    )
    earlier, readings = doses_of(session, row), readings_of(session, row)
    if existing := next((one for one in earlier if one.kind == dose.kind), None):
        fault = Fault("/kind", "already_recorded", "The session has this dose: correct it")
        raise DoseAlreadyRecorded(fault, existing=f"/v1/dosing-sessions/{row.id}/doses/{existing.id}")
    session.add(dose)
    session.flush()
    breaches = _breaches(day, dose, earlier, readings, _signals(session, day, dose))
    off_course = _off_course(session, day, row, dose)
    _require_allowed(breaches)
    unconsented = _without_consent(session, day, dose)
    _require_explained(dose, [*breaches, *off_course, *unconsented])
    dose.findings = _findings(breaches, off_course, _remarks(WITHOUT_CONSENT, unconsented))
    events = [audit.created("dose:recorded", dose, dose.id, reason=body.reason), *flagged_again(session, day, row)]
    dosing_day.touch(session, row)
    audit.append(session, actor.account_id, row.site_id, events)
    return detail_of(session, day, row), row.site_id


def _breaches(
    day: DosingDay,
    dose: Dose,
    others: Sequence[Dose],
    readings: Sequence[VitalReading],
    signals: Collection[str] = (),
) -> list[Breach]:
    """The rules of the protocol that a given dose breaks. Raises InitialDoseMissing."""
    given = _given(dose)
    if given is None:
        return []
    other = [] if dose.planned_mg == dose.given_mg else [Breach(PLANNED_DOSE, "flag", "Not the dose that was planned")]
    if dose.kind == DoseKind.supplemental:
        return other + _after_initial(day, given, others, readings, signals)
    facts = SessionFacts(day.visit.visit_code, local_day(given[1], day.zone), open_signals=signals)
    return other + initial_breaches(day.plan, given[0]) + day.unmet(NoOpenSignal, facts)


def _after_initial(
    day: DosingDay,
    given: tuple[float, datetime],
    others: Sequence[Dose],
    readings: Sequence[VitalReading],
    signals: Collection[str],
) -> list[Breach]:
    initial = _given(next((one for one in others if one.kind == DoseKind.initial), None))
    if initial is None:
        raise InitialDoseMissing
    measured = {code for one in readings if initial[1] <= one.taken_at <= given[1] for code in json.loads(one.measured)}
    return supplemental_breaches(day.plan, initial, given, measured, signals)


def _signals(session: Session, day: DosingDay, dose: Dose) -> Collection[str]:
    if dose.given_at is None:
        return ()
    on = local_day(dose.given_at, day.zone)
    return safety_signals.rules_holding(session, day.visit, dose.given_at, on)


def _require_allowed(breaches: Sequence[Breach]) -> None:
    """Raises DoseRefused."""
    if refused := [one for one in breaches if one.level == "refuse"]:
        raise DoseRefused(*(Fault("", one.rule, one.message) for one in refused))


def _off_course(session: Session, day: DosingDay, row: DosingSession, dose: Dose) -> list[Breach]:
    """Conditions to start that a correction may have undone since: the distance to other doses, the visits before."""
    on = _given_on(day, dose)
    if on is None or dose.kind != DoseKind.initial:
        return []
    since = dosing_day.screened_again_on(session, day.person)
    facts = SessionFacts(
        visit=day.visit.visit_code,
        on=on,
        earlier_doses=dosing_day.other_doses(session, day, row),
        held=dosing_day.held_visits(session, day.person, since),
        held_since=since,
    )
    return _flags(day.unmet(MinimumInterval | VisitsHeld, facts))


def _without_consent(session: Session, day: DosingDay, dose: Dose, *, stored: bool = False) -> list[Breach]:
    """The flag of a dose that was given without consent. Of a new one, a withdrawal later on the same day is not there
    yet. One that is `stored` already is not judged by a withdrawal on its day, as it is not known which came first; and
    by the visit's own protocol version, as the participant may have another one by now."""
    on = _given_on(day, dose)
    if on is None:
        return []
    person, ended_by = day.person, on
    if stored:
        person, ended_by = replace(day.person, protocol=day.protocol), on - timedelta(days=1)
    current, scopes = dosing_day.consent_in_force(session, person, on, ended_by)
    facts = SessionFacts(visit=day.visit.visit_code, on=on, consent_current=current, consent_scopes=scopes)
    return _flags(day.unmet(ConsentInForce, facts))


def _flags(breaches: Sequence[Breach]) -> list[Breach]:
    return [one._replace(level="flag") for one in breaches]


def _given_on(day: DosingDay, dose: Dose) -> date | None:
    """The site's calendar day on which it was given, if it was."""
    return None if dose.given_at is None else local_day(dose.given_at, day.zone)


def _consent_findings(dose: Dose) -> list[Finding]:
    """Those that are stored."""
    return [Finding(**one) for one in from_json(dose.findings) if one["code"] == WITHOUT_CONSENT]


def _consent_findings_again(session: Session, day: DosingDay, dose: Dose, *, by_later_records: bool) -> list[Finding]:
    """The stored finding that consent was missing, unless that has changed: the withdrawal was voided, or a consent was
    added. Without one, `by_later_records` looks for a new one."""
    stored = _consent_findings(dose)
    if stored and _without_consent(session, day, dose):
        return stored
    return _remarks(WITHOUT_CONSENT, _without_consent(session, day, dose, stored=True)) if by_later_records else []


def _given(dose: Dose | None) -> tuple[float, datetime] | None:
    if dose is None or dose.given_mg is None or dose.given_at is None:
        return None
    return dose.given_mg, dose.given_at


def _require_explained(dose: Dose, breaches: Sequence[Breach]) -> None:
    if breaches and dose.deviation_reason is None:
        raise DoseOffPlan(*(Fault("/deviation_reason", one.rule, one.message) for one in breaches))


def _findings(breaches: Sequence[Breach], off_course: Sequence[Breach], consent: Sequence[Finding]) -> str:
    return findings_text([*_remarks(OFF_PLAN, breaches), *_remarks(OFF_COURSE, off_course), *consent])


def _remarks(code: str, breaches: Sequence[Breach]) -> list[Finding]:
    field = "/given_mg" if code == OFF_PLAN else "/given_at"
    return [Finding(code=code, field=field, message=f"{one.rule}: {one.message}") for one in breaches]


def flagged_again(session: Session, day: DosingDay, row: DosingSession, *, consent: bool = False) -> list[audit.Event]:
    """Work out the findings of doses and vital signs again after something changed that they depend on; with `consent`
    also those about consent."""
    events, doses, readings = [], doses_of(session, row), readings_of(session, row)
    for dose in doses:
        before = audit.snapshot(dose)
        breaches = _breaches(day, dose, doses, readings)
        missing = _consent_findings_again(session, day, dose, by_later_records=consent)
        dose.findings = _findings(breaches, _off_course(session, day, row, dose), missing)
        if audit.snapshot(dose) != before:
            dose.version += 1
            events.append(audit.changed("dose:flagged", dose, dose.id, dose.version, before, None))
    for reading in readings:
        old = from_json(reading.findings)
        reading.findings = findings_text(
            [Finding(**one) for one in old if one["code"] != OUT_OF_ORDER]
            + order_findings(day, row, doses, reading.timepoint, reading.taken_at)
        )
        if (new := from_json(reading.findings)) != old:
            reading.version += 1
            change = {"findings": old}, {"findings": new}
            events.append(audit.event("vitals:flagged", "vital_reading", reading.id, reading.version, *change))
    session.flush()
    return events


def order_findings(
    day: DosingDay, row: DosingSession, doses: Sequence[Dose], timepoint: str | None, taken_at: datetime
) -> list[Finding]:
    """The findings on the time of a reading."""
    message = dosing_day.out_of_order(day, row, doses, timepoint, taken_at)
    return [Finding(code=OUT_OF_ORDER, field="/taken_at", message=message)] if message else []


def judged_again(session: Session, person: Person, but: UUID | None = None) -> Judged:
    """Work out the findings of the doses in a participant's sessions (except `but`) again, after a visit, another dose
    or a consent changed."""
    events, turns = [], []
    for day, row in dosing_day.days_of(session, person, but):
        if flagged := flagged_again(session, day, row, consent=True):
            dosing_day.next_version(session, row)
            events += flagged
            turns.append(dosing_day.turned(session, row))
    return Judged(events, turns)


def amend_dose(
    session: Session, actor: Actor, seen: Seen, session_id: UUID, dose_id: UUID, body: DoseAmend
) -> tuple[DosingSessionDetail, int]:
    """Correct a dose, also of a closed session; `seen` is the session's ETag. Also gives the site's key.

    Raises NotFound, VersionStale, ValidationFailed, MomentOutsideVisit, InitialDoseMissing, DoseRefused, DoseOffPlan.
    """
    day, row = dosing_day.hold_session(session, actor, session_id)
    doses = doses_of(session, row)
    dose: Dose = found(next((one for one in doses if one.id == dose_id), None))
    changes = sent_fields(body)
    differing = {name for name, value in changes.items() if getattr(dose, name) != value}
    seen.require_current(row.id, row.version, differing)
    if not differing:
        return detail_of(session, day, row), row.site_id
    fields: dict[str, Any] = {name: getattr(dose, name) for name in DoseFields.model_fields}
    merged, before = corrected(DoseFields, {**fields, **changes}), audit.snapshot(dose)
    was = _given_on(day, dose)
    day.require_moment("/given_at", merged.given_at, row, stored=(dose.given_at,))
    for name, value in merged.model_dump().items():
        setattr(dose, name, value)
    on = _given_on(day, dose)
    signals = _signals(session, day, dose) if was is None else ()
    breaches = _breaches(day, dose, doses, readings_of(session, row), signals)
    off_course = _off_course(session, day, row, dose)
    if was is None:
        _require_allowed(breaches)  # as if it was recorded now
    unconsented = _without_consent(session, day, dose) if on != was else []
    _require_explained(dose, [*breaches, *off_course, *unconsented])
    consent = _consent_findings(dose) if on == was else _remarks(WITHOUT_CONSENT, unconsented)
    dose.findings = _findings(breaches, off_course, consent)
    dose.version, dose.updated_at = dose.version + 1, now()
    session.flush()
    events = [audit.changed("dose:amended", dose, dose.id, dose.version, before, body.reason)]
    events += flagged_again(session, day, row)
    others = judged_again(session, day.person, but=row.id) if on != was else NOTHING
    dosing_day.touch(session, row, *others.turned)
    audit.append(session, actor.account_id, row.site_id, [*events, *others.events])
    return detail_of(session, day, row), row.site_id
