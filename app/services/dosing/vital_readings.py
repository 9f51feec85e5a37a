"""Vital signs of a dosing session: hard limits refuse, warning limits and safety rules speak up."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlmodel import Session, select

from app import audit
from app.access import Actor, found
from app.errors import Fault, Invalid
from app.models.base import canonical_json, now
from app.models.dosing_session import DosingSession, VitalReading
from app.models.dosing_shapes import DosingSessionDetail, VitalsAmend, VitalsCreate
from app.models.finding import Finding, findings_text
from app.protocol.vitals import vital_findings
from app.services.dosing import doses, dosing_day
from app.services.dosing.discharge import lacking, require_still_complete
from app.services.dosing.dosing_day import DosingDay, doses_of
from app.services.dosing.dosing_reads import detail_of
from app.services.safety import safety_signals
from app.services.unlocked import require_not_voided
from app.web.conditional import Seen
from app.web.merging import corrected, sent_fields


class VitalsRefused(Invalid):
    """A vital sign lies outside the protocol's limits, or the protocol does not know it; see errors."""


def record_vitals(
    session: Session, actor: Actor, session_id: UUID, body: VitalsCreate
) -> tuple[DosingSessionDetail, int]:
    """Add a reading to an open session, or with the reason to a closed one; also gives the site's key.

    Raises NotFound, DosingSessionClosed, MomentOutsideVisit, VitalsRefused.
    """
    day, row = dosing_day.hold_session(session, actor, session_id)
    dosing_day.require_open(row, body.reason)
    findings = require_plausible(day, body, "")
    findings += doses.order_findings(day, row, doses_of(session, row), body.timepoint, body.taken_at)
    day.require_moment("/taken_at", body.taken_at)
    events = store(session, actor, row, body, findings)
    events += doses.flagged_again(session, day, row)
    dosing_day.touch(session, row)
    audit.append(session, actor.account_id, row.site_id, events)
    return detail_of(session, day, row), row.site_id


def require_plausible(day: DosingDay, asked: VitalsCreate, pointer: str) -> list[Finding]:
    """The findings on a reading. Raises VitalsRefused, with every value that is impossible."""
    faults, findings = [], []
    if asked.timepoint is not None and asked.timepoint not in {point.code for point in day.vitals.timepoints}:
        faults.append(Fault(f"{pointer}/timepoint", "unknown_timepoint", "The protocol has no such time point"))
    known = day.protocol.measures
    for one in vital_findings(day.vitals, asked.values):
        if one.level == "refuse":
            place = one.measure if one.measure in known else "?"
            faults.append(Fault(f"{pointer}/values/{place}", one.code, one.message))
        else:
            findings.append(Finding(code=f"vital_{one.code}", field=f"/values/{one.measure}", message=one.message))
    if faults:
        raise VitalsRefused(*faults)
    return findings


def store(
    session: Session, actor: Actor, row: DosingSession, asked: VitalsCreate, findings: list[Finding]
) -> list[audit.Event]:
    """Add a reading and the signals that it raises; the caller remembers the events."""
    reading = VitalReading(
        site_id=row.site_id,
        pid=row.pid,
        session_id=row.id,
        timepoint=asked.timepoint,
        taken_at=asked.taken_at,
        measured=canonical_json(asked.values),
        findings=findings_text(findings),
        created_by=actor.account_id,
    )
    session.add(reading)
    session.flush()
    event = audit.changed("vitals:recorded", reading, reading.id, 1, {}, asked.reason, after=_remembered(reading))
    return safety_signals.seen_in_reading(session, reading, event)


def _remembered(row: VitalReading) -> dict[str, Any]:
    """What the trail keeps: each measure as a field of its own."""
    plain = audit.snapshot(row)
    return {**plain, **{f"values.{code}": value for code, value in plain.pop("measured").items()}}


def amend_vitals(
    session: Session,
    actor: Actor,
    seen: Seen,
    session_id: UUID,
    reading_id: UUID,
    body: VitalsAmend,
) -> tuple[DosingSessionDetail, int]:
    """Correct a reading, also of a closed session; `seen` is the session's ETag. Also gives the site's key.

    Raises NotFound, RecordVoided, VersionStale, ValidationFailed, MomentOutsideVisit, VitalsRefused,
    DischargeIncomplete.
    """
    day, row = dosing_day.hold_session(session, actor, session_id)
    reading = not_voided(session, row, reading_id)
    merged, differing = _merged(reading, sent_fields(body))
    seen.require_current(row.id, row.version, differing)
    if not differing:
        return detail_of(session, day, row), row.site_id
    asked = corrected(VitalsCreate, merged)
    findings, before, lacked = require_plausible(day, asked, ""), _remembered(reading), lacking(session, day, row)
    findings += doses.order_findings(day, row, doses_of(session, row), asked.timepoint, asked.taken_at)
    day.require_moment("/taken_at", asked.taken_at, stored=(reading.taken_at,))
    reading.taken_at, reading.timepoint = asked.taken_at, asked.timepoint
    reading.measured, reading.findings = canonical_json(asked.values), findings_text(findings)
    reading.version, reading.updated_at = reading.version + 1, now()
    session.flush()
    event = audit.changed(
        "vitals:amended", reading, reading.id, reading.version, before, body.reason, after=_remembered(reading)
    )
    events = safety_signals.seen_in_reading(session, reading, event)
    events += doses.flagged_again(session, day, row)
    require_still_complete(session, day, row, lacked)
    dosing_day.touch(session, row)
    audit.append(session, actor.account_id, row.site_id, events)
    return detail_of(session, day, row), row.site_id


def not_voided(session: Session, row: DosingSession, reading_id: UUID) -> VitalReading:
    """A reading of a session that is to be changed. Raises NotFound, RecordVoided."""
    of_session = VitalReading.site_id == row.site_id, VitalReading.session_id == row.id
    reading = found(session.exec(select(VitalReading).where(*of_session, VitalReading.id == reading_id)).first())
    require_not_voided(reading)
    return reading


def _merged(reading: VitalReading, changes: Mapping[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """The corrected reading, and the names of the fields that then differ."""
    old = json.loads(reading.measured)
    sent = changes.get("values") or {}
    measured = {code: value for code, value in {**old, **sent}.items() if value is not None}
    plain = {"taken_at": reading.taken_at, "timepoint": reading.timepoint}
    merged = {**plain, **{name: value for name, value in changes.items() if name in plain}}
    differing = {name for name in plain if merged[name] != plain[name]}
    differing |= {f"values.{code}" for code in sent if old.get(code) != sent[code]}
    return {**merged, "values": measured}, differing
