"""Doses: kept as they were given, flagged where the plan has another, refused while a safety signal holds dosing."""

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlmodel import Session

from app import audit
from app.access import Actor, found
from app.database import unique_or
from app.errors import Conflict, Fault
from app.models.base import now
from app.models.dosing_session import Dose, DoseKind, DosingSession, VitalReading
from app.models.dosing_shapes import DoseAmend, DoseCreate, DoseFields, DosingSessionDetail
from app.models.finding import Finding, findings_text
from app.protocol.dosing import NoOpenSignal
from app.protocol.dosing_checks import Breach, initial_breaches, supplemental_breaches
from app.security.keys import Keyring
from app.services import dosing_day, safety_signals
from app.services.dosing_day import DosingDay, doses_of, readings_of
from app.services.dosing_reads import detail_of
from app.web.conditional import require_current
from app.web.merging import checked, sent_fields

PLANNED_DOSE = "PLANNED-DOSE"
"""Name of the rule that has no code of its own: what was planned is given."""


class DoseAlreadyRecorded(Conflict):
    """This dose of the session was recorded already; correct it instead."""


class InitialDoseMissing(Conflict):
    """No initial dose of this session was given, so none can follow."""


class DoseRefused(Conflict):
    """The protocol does not allow this dose; see errors, one for each rule that does not hold."""


class DoseOffPlan(Conflict):
    """The dose is not as planned and no deviation reason was given; see errors."""


def record_dose(session: Session, actor: Actor, session_id: UUID, body: DoseCreate) -> tuple[DosingSessionDetail, int]:
    """Add a dose to an open session; also gives the site's key.

    Raises NotFound, DosingSessionClosed, MomentOutsideVisit, InitialDoseMissing, DoseRefused, DoseOffPlan,
    DoseAlreadyRecorded.
    """
    day, row = dosing_day.held(session, actor, session_id)
    dosing_day.require_open(row)
    day.require_moment("/given_at", body.given_at, row.started_at)
    dose = Dose(
        site_id=row.site_id,
        pid=row.pid,
        session_id=row.id,
        created_by=actor.account_id,
        **body.model_dump(),
    )
    earlier, readings = doses_of(session, row), readings_of(session, row)
    session.add(dose)
    with unique_or(DoseAlreadyRecorded):
        session.flush()
    signals = [signal.rule for signal in safety_signals.holding(session, row.site_id, row.pid)]
    breaches = _breaches(day, dose, earlier, readings, signals)
    if refused := [one for one in breaches if one.level == "refuse"]:
        raise DoseRefused(*(Fault("", one.rule, one.message) for one in refused))
    _require_explained(dose, breaches)
    dose.findings = _findings(breaches)
    dosing_day.touch(session, row)
    audit.append(session, str(actor.account_id), row.site_id, [audit.created("dose:recorded", dose, dose.id)])
    return detail_of(session, day, row), row.site_id


def _breaches(
    day: DosingDay,
    dose: Dose,
    others: Sequence[Dose],
    readings: Sequence[VitalReading],
    signals: Collection[str] = (),
) -> list[Breach]:
    """What the protocol has against a dose that was given. Raises InitialDoseMissing."""
    initial = _given(next((one for one in others if one.kind == DoseKind.initial), None))
    supplemental = dose.kind == DoseKind.supplemental
    given = _given(dose)
    if given is None:
        return []
    if supplemental and initial is None:
        raise InitialDoseMissing
    other = [] if dose.planned_mg == dose.given_mg else [Breach(PLANNED_DOSE, "flag", "Not the dose that was planned")]
    if supplemental and initial is not None:
        between = [one for one in readings if initial[1] <= one.taken_at <= given[1]]
        measured = {code for one in between for code in json.loads(one.measured)}
        return other + supplemental_breaches(day.plan, initial, given, measured, signals)
    held = [rule for rule in day.dosing.preconditions if isinstance(rule, NoOpenSignal)] if signals else []
    message = "A safety signal that holds dosing is not reviewed"
    return other + initial_breaches(day.plan, given[0]) + [Breach(rule.code, "refuse", message) for rule in held]


def _given(dose: Dose | None) -> tuple[float, datetime] | None:
    if dose is None or dose.given_mg is None or dose.given_at is None:
        return None
    return dose.given_mg, dose.given_at


def _require_explained(dose: Dose, breaches: Sequence[Breach]) -> None:
    if breaches and dose.deviation_reason is None:
        raise DoseOffPlan(*(Fault("/deviation_reason", one.rule, one.message) for one in breaches))


def _findings(breaches: Sequence[Breach]) -> str:
    remarks = [
        Finding(code="dose_off_plan", field="/given_mg", message=f"{one.rule}: {one.message}") for one in breaches
    ]
    return findings_text(remarks)


def flagged_again(session: Session, day: DosingDay, row: DosingSession) -> list[audit.Event]:
    """Hold the doses against the plan once more, after something that they are judged by changed."""
    events, doses, readings = [], doses_of(session, row), readings_of(session, row)
    for dose in doses:
        before = audit.snapshot(dose)
        dose.findings = _findings(_breaches(day, dose, doses, readings))
        if audit.snapshot(dose) != before:
            dose.version += 1
            after = audit.snapshot(dose)
            events.append(audit.changed("dose:flagged", dose, dose.id, dose.version, before, after, None))
    session.flush()
    return events


def amend_dose(
    session: Session, actor: Actor, keyring: Keyring, seen: str, session_id: UUID, dose_id: UUID, body: DoseAmend
) -> DosingSessionDetail:
    """Correct a dose, also of a closed session; `seen` is the session's ETag.

    Raises NotFound, VersionStale, ValidationFailed, MomentOutsideVisit, InitialDoseMissing, DoseRefused, DoseOffPlan.
    """
    day, row = dosing_day.held(session, actor, session_id)
    doses = doses_of(session, row)
    dose: Dose = found(next((one for one in doses if one.id == dose_id), None))
    changes = sent_fields(body)
    differing = {name for name, value in changes.items() if getattr(dose, name) != value}
    require_current(keyring, seen, row.id, row.version, differing)
    if not differing:
        return detail_of(session, day, row)
    fields: dict[str, Any] = {name: getattr(dose, name) for name in DoseFields.model_fields}
    merged, before = checked(DoseFields, {**fields, **changes}), audit.snapshot(dose)
    day.require_moment("/given_at", merged.given_at, row.started_at)
    for name, value in merged.model_dump().items():
        setattr(dose, name, value)
    breaches = _breaches(day, dose, doses, readings_of(session, row))
    _require_explained(dose, breaches)
    dose.findings = _findings(breaches)
    dose.version, dose.updated_at = dose.version + 1, now()
    session.flush()
    events = [audit.changed("dose:amended", dose, dose.id, dose.version, before, audit.snapshot(dose), body.reason)]
    events += flagged_again(session, day, row)
    dosing_day.touch(session, row)
    audit.append(session, str(actor.account_id), row.site_id, events)
    return detail_of(session, day, row)
