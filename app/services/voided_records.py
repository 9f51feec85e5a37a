"""Records that a site entered in error, voided with the reason. What they said stays to be read by their id, and counts
nowhere (app/models/voided.py). There is no way back: what was right after all is recorded anew."""

from uuid import UUID

from sqlmodel import Session, col, exists, select

from app import audit
from app.access import Actor, visible_row
from app.errors import Conflict
from app.models.adverse_event import AdverseEvent
from app.models.adverse_event_shapes import AdverseEventRead
from app.models.base import now
from app.models.outcome import Outcome, OutcomeRead
from app.models.safety_report import STANDS, AeReview, ReviewKind, SaeReport
from app.models.voided import RecordVoiding
from app.security.keys import Keyring
from app.services import adverse_events, outcomes, rule_queries, safety_signals
from app.services.unlocked import require_not_voided, require_unlocked
from app.web.conditional import require_current


class EventReported(Conflict):
    """The sponsor has a report of this event, or an authority was informed of it, so it is not taken out: correct it,
    and send a follow-up report that says so."""


def void_adverse_event(
    session: Session, actor: Actor, keyring: Keyring, seen: str, event_id: UUID, body: RecordVoiding
) -> tuple[AdverseEventRead, int]:
    """Let an event count as never recorded; also gives the site's key.

    Raises NotFound, RecordVoided, VersionStale, EventReported, DataLocked.
    """
    row = visible_row(session, actor, AdverseEvent, event_id, lock=True)
    require_not_voided(row)
    require_current(keyring, seen, row.id, row.version, _CHANGED)
    _require_told_nobody(session, row)
    require_unlocked(session, row.site_id, row.pid)
    event = _voided(session, actor, row, "adverse-event:voided", body.reason)
    rule_queries.settle_all(session, row.site_id, rule_queries.gone_with(session, row.site_id, row.pid, row.id))
    audit.append(session, actor.account_id, row.site_id, [event])
    return adverse_events.read(adverse_events.row_of(session, actor, row.id), actor), row.site_id


def void_outcome(
    session: Session, actor: Actor, keyring: Keyring, seen: str, outcome_id: UUID, body: RecordVoiding
) -> tuple[OutcomeRead, int]:
    """The same of an outcome. A safety signal that it raised waits for its review all the same.

    Raises NotFound, RecordVoided, VersionStale, DataLocked.
    """
    row, person = outcomes.held(session, actor, outcome_id)
    visit = outcomes.visit_of(session, actor, row)
    require_current(keyring, seen, row.id, row.version, _CHANGED)
    require_unlocked(session, row.site_id, row.pid, visit.id, visit.visit_code)
    events = [_voided(session, actor, row, "outcome:voided", body.reason), *safety_signals.source_voided(session, row)]
    rule_queries.settle_all(session, row.site_id, rule_queries.gone_with(session, row.site_id, row.pid, row.id))
    audit.append(session, actor.account_id, row.site_id, events)
    scores = outcomes.scores_of(session, [row])[row.id]
    return outcomes.outcome_read(row, visit.visit_code, person.place, scores), row.site_id


_CHANGED = ("voided_at", "voiding_reason")


def _voided(session: Session, actor: Actor, row: AdverseEvent | Outcome, action: str, reason: str) -> audit.Event:
    """A record's own event."""
    before, at = audit.snapshot(row), now()
    row.voided_by, row.voided_at, row.voiding_reason = actor.account_id, at, reason
    row.version, row.updated_at = row.version + 1, at
    session.flush()
    return audit.changed(action, row, row.id, row.version, before, reason)


def _require_told_nobody(session: Session, event: AdverseEvent) -> None:
    """What was reported is taken back by a further report (ICH E2B(R3), C.1.11: nullification), and the records of the
    site agree with what the sponsor has (ICH E6(R2), 4.11). Raises EventReported."""
    reported = exists().where(col(SaeReport.site_id) == event.site_id, col(SaeReport.adverse_event_id) == event.id)
    informed = exists().where(
        col(AeReview.site_id) == event.site_id,
        col(AeReview.adverse_event_id) == event.id,
        col(AeReview.kind) == ReviewKind.authority_informed,
        STANDS,
    )
    if session.execute(select(reported | informed)).scalar_one():
        raise EventReported
