"""Voiding records that a site entered in error, with the reason. They can still be read by their id and count nowhere
(app/models/voided.py). It cannot be undone: what was right after all is recorded anew."""

from datetime import datetime
from uuid import UUID

from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, found, visible, visible_row
from app.errors import Conflict
from app.models.adverse_event import AdverseEvent
from app.models.adverse_event_shapes import AdverseEventRead
from app.models.base import now, values
from app.models.dosing_session import DosingSession, VitalReading
from app.models.dosing_shapes import DosingSessionDetail
from app.models.outcome import Outcome, OutcomeRead
from app.models.visit import Visit, VisitDetail
from app.models.voided import VOIDING_FIELDS, RecordVoiding, counts
from app.services.assessments import outcome_corrections, outcome_reads, outcome_scores, visits
from app.services.dosing import doses, dosing_day, vital_readings
from app.services.dosing.dosing_reads import detail_of
from app.services.participation.participants import Hold, visible_person
from app.services.quality import dependent_findings, rule_queries
from app.services.safety import adverse_events, ae_reviews, safety_signals
from app.services.safety.nullifications import require_errors_told
from app.services.unlocked import require_not_voided, require_unlocked
from app.web.conditional import Seen


class VisitDosed(Conflict):
    """A dosing session of this visit counts: void it first, so that nobody voids doses that they have not seen."""


def void_adverse_event(
    session: Session, actor: Actor, seen: Seen, event_id: UUID, body: RecordVoiding
) -> tuple[AdverseEventRead, int]:
    """Void an adverse event, and close what a monitor wanted to know of it; also gives the site's key.

    Raises NotFound, RecordVoided, VersionStale, EventReported, DataLocked.
    """
    row = visible_row(session, actor, AdverseEvent, event_id, lock=True)
    require_not_voided(row)
    seen.require_current(row.id, row.version, VOIDING_FIELDS)
    require_errors_told(session, row)
    require_unlocked(session, row.site_id, row.pid)
    unanswered = ae_reviews.open_requests(session, row)
    event = _voided(session, actor, row, "adverse-event:voided", body.reason, now())
    rule_queries.settle_all(session, row.site_id, rule_queries.gone_with(session, row))
    audit.append(session, actor.account_id, row.site_id, [event, *(ae_reviews.closed(one, row) for one in unanswered)])
    return adverse_events.read(adverse_events.row_of(session, actor, row.id), actor), row.site_id


def void_outcome(
    session: Session, actor: Actor, seen: Seen, outcome_id: UUID, body: RecordVoiding
) -> tuple[OutcomeRead, int]:
    """Void an outcome; also gives the site's key. A safety signal that it raised must still be reviewed.

    Raises NotFound, RecordVoided, VersionStale, DataLocked.
    """
    row, person = outcome_corrections.lock_outcome(session, actor, outcome_id)
    visit = outcome_corrections.lock_visit(session, actor, row)
    seen.require_current(row.id, row.version, VOIDING_FIELDS)
    require_unlocked(session, row.site_id, row.pid, visit.id, visit.visit_code)
    event = _voided(session, actor, row, "outcome:voided", body.reason, now())
    events = [event, *safety_signals.source_voided(session, row)]
    rule_queries.settle_all(session, row.site_id, rule_queries.gone_with(session, row))
    audit.append(session, actor.account_id, row.site_id, events)
    scores = outcome_scores.scores_of(session, [row])[row.id]
    return outcome_reads.outcome_read(values(row), visit.visit_code, person.place, scores), row.site_id


def void_visit(
    session: Session, actor: Actor, seen: Seen, visit_id: UUID, body: RecordVoiding
) -> tuple[VisitDetail, int]:
    """Void a visit with its outcomes and therapy session; also gives the site's key. Findings that depend on the visit
    are worked out again.

    Raises NotFound, RecordVoided, VersionStale, VisitDosed, DataLocked.
    """
    pid = found(session.exec(visible(select(Visit.pid).where(Visit.id == visit_id), actor)).first())
    person = visible_person(session, actor, pid, hold=Hold.change)
    row = visible_row(session, actor, Visit, visit_id, lock=True)
    require_not_voided(row)
    seen.require_current(row.id, row.version, VOIDING_FIELDS)
    _require_not_dosed(session, row)
    require_unlocked(session, row.site_id, row.pid, row.id, row.visit_code)
    at = now()
    events = [_voided(session, actor, row, "visit:voided", body.reason, at)]
    gone = [rule_queries.gone_with(session, row)]
    theirs = select(Outcome).where(Outcome.site_id == row.site_id, Outcome.visit_id == row.id, counts(Outcome))
    for outcome in session.exec(theirs.order_by(col(Outcome.id)).with_for_update()):
        events.append(_voided(session, actor, outcome, "outcome:voided", body.reason, at))
        events += safety_signals.source_voided(session, outcome)
        gone.append(rule_queries.gone_with(session, outcome))
    judged = dependent_findings.after_visit_day(session, person, row)
    rule_queries.settle_all(session, row.site_id, *gone, *judged.turned)
    audit.append(session, actor.account_id, row.site_id, [*events, *judged.events])
    return visits.detail(session, actor, row.id), row.site_id


def void_dosing_session(
    session: Session, actor: Actor, seen: Seen, session_id: UUID, body: RecordVoiding
) -> tuple[DosingSessionDetail, int]:
    """Void a dosing session, with its doses and vital signs; also gives the site's key. Their safety signals still have
    to be reviewed.

    Raises NotFound, RecordVoided, VersionStale, DataLocked.
    """
    day, row = dosing_day.hold_session(session, actor, session_id)
    seen.require_current(row.id, row.version, VOIDING_FIELDS)
    events = [_voided(session, actor, row, "dosing-session:voided", body.reason, now())]
    for reading in dosing_day.readings_of(session, row):
        events += safety_signals.source_voided(session, reading)
    judged = dependent_findings.after_dosing_session(session, day.person)
    gone = rule_queries.gone_with(session, row)
    rule_queries.settle_all(session, row.site_id, gone, *judged.turned)
    audit.append(session, actor.account_id, row.site_id, [*events, *judged.events])
    return detail_of(session, day, row), row.site_id


def void_reading(
    session: Session, actor: Actor, seen: Seen, session_id: UUID, reading_id: UUID, body: RecordVoiding
) -> tuple[DosingSessionDetail, int]:
    """Void one reading of vital signs, also of a closed session; `seen` is the session's ETag. Also gives the site's
    key. Its safety signals still have to be reviewed. A checklist that lacks it now says so and holds nothing up: a
    reading that was never taken must not stay for its sake.

    Raises NotFound, RecordVoided, VersionStale, DataLocked.
    """
    day, row = dosing_day.hold_session(session, actor, session_id)
    reading = vital_readings.not_voided(session, row, reading_id)
    seen.require_current(row.id, row.version, VOIDING_FIELDS)
    events = [_voided(session, actor, reading, "vitals:voided", body.reason, now())]
    events += safety_signals.source_voided(session, reading)
    events += doses.flagged_again(session, day, row)
    dosing_day.touch(session, row)
    audit.append(session, actor.account_id, row.site_id, events)
    return detail_of(session, day, row), row.site_id


def _require_not_dosed(session: Session, visit: Visit) -> None:
    """A dosing session is safety data of its own, with doses, vital signs and safety signals. Raises VisitDosed."""
    of_visit = DosingSession.site_id == visit.site_id, DosingSession.visit_id == visit.id
    dosed = select(DosingSession.id).where(*of_visit, counts(DosingSession))
    if session.exec(dosed).first() is not None:
        raise VisitDosed


def _voided(
    session: Session,
    actor: Actor,
    row: AdverseEvent | DosingSession | Outcome | Visit | VitalReading,
    action: str,
    reason: str,
    at: datetime,
) -> audit.Event:
    """Void one record; gives its audit event."""
    before = audit.snapshot(row)
    row.void(actor.account_id, at, reason)
    row.version, row.updated_at = row.version + 1, at
    session.flush()
    return audit.changed(action, row, row.id, row.version, before, reason)
