"""Dosing sessions: started where the protocol allows it, closed when the checklist is complete."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlmodel import Session, select

from app import audit
from app.access import Actor, found, visible
from app.database import unique_or
from app.errors import Conflict, Fault, Invalid, ValidationFailed
from app.models.base import canonical_json, now
from app.models.dosing_session import DosingSession, SessionState
from app.models.dosing_shapes import (
    DosingSessionAmend,
    DosingSessionClose,
    DosingSessionCreate,
    DosingSessionDetail,
    DosingSessionFields,
)
from app.models.finding import Finding
from app.models.visit import HELD, Visit, VisitStatus
from app.models.voided import counts
from app.protocol.dosing import Confirmed, StaffPresent
from app.protocol.dosing_checks import SessionFacts, start_refusals
from app.protocol.safety import VitalsSeen, evaluate
from app.services.assessments import outcomes, raters
from app.services.dosing import dosing_day, vital_readings
from app.services.dosing.discharge import lacking, require_complete, require_still_complete
from app.services.dosing.dosing_day import DosingDay, MomentOutsideVisit
from app.services.dosing.dosing_reads import detail_of
from app.services.participation.participants import Hold
from app.services.safety import safety_signals
from app.web.conditional import Seen
from app.web.merging import corrected, sent_fields


class DosingNotAllowed(Conflict):
    """The protocol does not allow this dosing session; see errors, one for each rule that does not hold."""


class DosingSessionExists(Conflict):
    """A dosing session of this visit was started already."""


class DosingSessionOpen(Conflict):
    """Another dosing session of this participant is still open."""


class ConfirmationUnknown(Invalid):
    """The protocol asks for no such confirmation; see errors."""


def start(session: Session, actor: Actor, body: DosingSessionCreate) -> tuple[DosingSessionDetail, int]:
    """Start the session of a dosing visit with the vital signs before it; also gives the site's key.

    Raises NotFound, NotADosingVisit, VisitNotHeld, MomentOutsideVisit, ConfirmationUnknown, VitalsRefused,
    DosingSessionExists, DosingSessionOpen, DosingNotAllowed, TherapistIsRater.
    """
    pid = found(session.exec(visible(select(Visit.pid).where(Visit.id == body.visit), actor)).first())
    day = dosing_day.dosing_day(session, actor, pid, body.visit, Hold.change)
    if VisitStatus(day.visit.status) not in HELD:
        raise outcomes.VisitNotHeld
    facts = _facts(session, day, body)
    findings = _require_taken_before(day, body)
    _require_known(day, body.confirmations)
    _require_on_the_day(day, body)
    row = DosingSession(
        site_id=day.person.site_id,
        pid=day.person.row.pid,
        visit_id=day.visit.id,
        started_at=body.started_at,
        staff=canonical_json(body.staff),
        confirmations=canonical_json(body.confirmations),
        medications=canonical_json(_written(body)),
        created_by=actor.account_id,
    )
    _require_first(session, row)
    if refused := start_refusals(day.dosing, facts):
        raise DosingNotAllowed(*(Fault("", one.rule, one.message) for one in refused))
    raters.require_not_raters(session, day.person, body.staff, "/staff")
    session.add(row)
    with unique_or(DosingSessionExists):
        session.flush()
    events = [audit.created("dosing-session:started", row, row.id)]
    if body.vitals:
        events += vital_readings.store(session, actor, row, body.vitals, findings)
        dosing_day.follow_queries(session, row)
    audit.append(session, actor.account_id, row.site_id, events)
    return detail_of(session, day, row), row.site_id


def _facts(session: Session, day: DosingDay, body: DosingSessionCreate) -> SessionFacts:
    person, on = day.person, day.require_start(body.started_at)
    current, scopes = dosing_day.consent_in_force(session, person, on)
    signals = safety_signals.rules_holding(session, day.visit, body.started_at, on)
    measured = body.vitals.values if body.vitals else {}
    raised = evaluate(day.protocol.safety_rules, VitalsSeen(measured))
    since = dosing_day.screened_again_on(session, person)
    return SessionFacts(
        visit=day.visit.visit_code,
        on=on,
        consent_current=current,
        consent_scopes=scopes,
        eligible=dosing_day.eligibility_confirmed(person, on),
        earlier_doses=[*dosing_day.other_doses(session, day), *dosing_day.days_without_session(session, day, on)],
        staff=body.staff,
        open_signals=signals | {signal.rule for signal in raised if signal.holds_dosing},
        confirmed=body.confirmations,
        held=dosing_day.held_visits(session, person, since),
        held_since=since,
        vitals=measured,
    )


def _require_taken_before(day: DosingDay, body: DosingSessionCreate) -> list[Finding]:
    """The findings on the vital signs taken before the start. Raises VitalsRefused, MomentOutsideVisit."""
    if body.vitals is None:
        return []
    findings = vital_readings.require_plausible(day, body.vitals, "/vitals")
    if body.vitals.taken_at > body.started_at:
        raise MomentOutsideVisit(Fault("/vitals/taken_at", "after_start", "Taken before the session starts"))
    day.require_moment("/vitals/taken_at", body.vitals.taken_at)
    return findings


def _require_first(session: Session, row: DosingSession) -> None:
    others = select(DosingSession.visit_id, DosingSession.state).where(
        DosingSession.site_id == row.site_id, DosingSession.pid == row.pid, counts(DosingSession)
    )
    states = dict(session.exec(others).all())
    if row.visit_id in states:
        raise DosingSessionExists
    if SessionState.open in states.values():
        raise DosingSessionOpen


def _require_known(day: DosingDay, codes: Iterable[str]) -> None:
    defined = {rule.code for rule in day.dosing.preconditions if isinstance(rule, Confirmed)}
    if not set(codes) <= defined:
        message = f"The protocol asks for {', '.join(sorted(defined)) or 'none'}, and for no other"
        raise ConfirmationUnknown(Fault("/confirmations", "unknown_confirmation", message))


def _require_on_checklist(day: DosingDay, codes: Iterable[str]) -> None:
    defined = {item.code for item in day.dosing.discharge if item.needs == "confirmation"}
    unknown = [place for place, code in enumerate(codes) if code not in defined]
    if unknown:
        message = "The checklist has no such item to confirm"
        raise ConfirmationUnknown(*(Fault(f"/discharge/{place}", "unknown_item", message) for place in unknown))


def _require_on_the_day(
    day: DosingDay,
    body: DosingSessionCreate | DosingSessionClose | DosingSessionAmend,
    stored: Iterable[Mapping[str, Any]] = (),
) -> None:
    """Check that medication given as needed was given in the session; other medication may have been taken before.
    Raises MomentOutsideVisit."""
    stored_times = {datetime.fromisoformat(one["given_at"]) for one in stored if one["given_at"]}
    for place, one in enumerate(body.medications or []):
        if one.kind == "as_needed":
            day.require_moment(f"/medications/{place}/given_at", one.given_at, stored=stored_times)


def _written(body: DosingSessionCreate | DosingSessionClose | DosingSessionAmend) -> list[dict[str, Any]]:
    return [medication.model_dump(mode="json") for medication in body.medications or []]


def _ticked(discharge: Iterable[str]) -> list[str]:
    """A checklist has no order."""
    return sorted(set(discharge))


def close(
    session: Session, actor: Actor, session_id: UUID, body: DosingSessionClose
) -> tuple[DosingSessionDetail, int]:
    """Close a session whose checklist is complete; also gives the site's key.

    Raises NotFound, DosingSessionClosed, ValidationFailed, MomentOutsideVisit, ConfirmationUnknown,
    DischargeIncomplete.
    """
    day, row = dosing_day.hold_session(session, actor, session_id)
    dosing_day.require_open(row)
    _require_on_the_day(day, body)
    before, current = audit.snapshot(row), _fields(row)
    closing = body.model_dump(include={"ended_at", "released_at", "discharge"})
    fields = {**current, **closing, "medications": [*current["medications"], *_written(body)]}
    _keep(session, day, row, corrected(DosingSessionFields, fields))
    require_complete(session, day, row)
    row.state, row.closed_at = SessionState.closed, now()
    dosing_day.touch(session, row)
    event = audit.changed("dosing-session:closed", row, row.id, row.version, before, None)
    audit.append(session, actor.account_id, row.site_id, [event])
    return detail_of(session, day, row), row.site_id


def amend(
    session: Session, actor: Actor, seen: Seen, session_id: UUID, body: DosingSessionAmend
) -> tuple[DosingSessionDetail, int]:
    """Correct a session, open or closed; also gives the site's key.

    Raises NotFound, VersionStale, ValidationFailed, MomentOutsideVisit, ConfirmationUnknown, DosingNotAllowed,
    TherapistIsRater, DischargeIncomplete.
    """
    day, row = dosing_day.hold_session(session, actor, session_id)
    before, current, changes = audit.snapshot(row), _fields(row), sent_fields(body)
    if body.medications is not None:
        _require_on_the_day(day, body, current["medications"])
        changes["medications"] = _written(body)
    if body.discharge is not None:
        changes["discharge"] = _ticked(body.discharge)
    differing = {name for name, value in changes.items() if current[name] != value}
    seen.require_current(row.id, row.version, differing)
    if not differing:
        return detail_of(session, day, row), row.site_id
    fields = corrected(DosingSessionFields, {**current, **changes})
    if row.state == SessionState.closed and fields.ended_at is None:
        raise ValidationFailed(Fault("/ended_at", "missing", "A closed session has ended_at"))
    lacked = lacking(session, day, row)
    _keep(session, day, row, fields)
    _require_start_rules(day, fields)
    raters.require_not_raters(session, day.person, fields.staff, "/staff")
    require_still_complete(session, day, row, lacked)
    dosing_day.touch(session, row)
    event = audit.changed("dosing-session:amended", row, row.id, row.version, before, body.reason)
    audit.append(session, actor.account_id, row.site_id, [event])
    return detail_of(session, day, row), row.site_id


def _fields(row: DosingSession) -> dict[str, Any]:
    lists = ("staff", "confirmations", "discharge", "medications")
    plain = {name: getattr(row, name) for name in ("started_at", "ended_at", "released_at")}
    return {**plain, **{name: json.loads(getattr(row, name)) for name in lists}}


def _keep(session: Session, day: DosingDay, row: DosingSession, fields: DosingSessionFields) -> None:
    """Write the fields into the row once they fit the visit, the doses and the protocol."""
    day.require_start(fields.started_at)
    day.require_moment("/ended_at", fields.ended_at, stored=(row.ended_at,))
    day.require_release(fields.released_at)
    given = [dose.given_at for dose in dosing_day.doses_of(session, row) if dose.given_at is not None]
    if given and fields.started_at > min(given):
        raise MomentOutsideVisit(Fault("/started_at", "after_dose", "Cannot lie after a dose"))
    if given and fields.ended_at is not None and fields.ended_at < max(given):
        raise MomentOutsideVisit(Fault("/ended_at", "before_dose", "Cannot lie before a dose"))
    _require_known(day, fields.confirmations)
    _require_on_checklist(day, fields.discharge)
    row.started_at, row.ended_at, row.released_at = fields.started_at, fields.ended_at, fields.released_at
    row.staff, row.confirmations = canonical_json(fields.staff), canonical_json(fields.confirmations)
    row.discharge = canonical_json(_ticked(fields.discharge))
    row.medications = canonical_json([one.model_dump(mode="json") for one in fields.medications])


def _require_start_rules(day: DosingDay, fields: DosingSessionFields) -> None:
    """What can be corrected of the start still has to allow it: the staff and the confirmations."""
    facts = SessionFacts(
        visit=day.visit.visit_code,
        on=day.require_start(fields.started_at),
        staff=fields.staff,
        confirmed=fields.confirmations,
    )
    if refused := day.unmet(StaffPresent | Confirmed, facts):
        raise DosingNotAllowed(*(Fault("", one.rule, one.message) for one in refused))
