"""Voiding a participant who was enrolled in error: the same person a second time, or somebody who does not exist.

Voiding hides no data: whatever was recorded after the enrolment is voided before, record by record and by somebody who
saw it. What the enrolment itself recorded, one consent and the first screening, goes with it (docs/decisions/0041).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlmodel import Session, select

from app import audit
from app.access import Actor
from app.errors import Conflict
from app.models.adverse_event import AdverseEvent
from app.models.base import now, values
from app.models.consent import Consent, Withdrawal, WithdrawalScope, consent_name
from app.models.participant import ParticipantRead
from app.models.screening import Screening
from app.models.treatment import TreatmentTrial
from app.models.visit import Visit
from app.models.voided import VOIDING_FIELDS, RecordVoiding, counts
from app.privacy.erasure_journal import ErasureJournal
from app.services.participation import consent_history, consents, screenings, sharing
from app.services.participation.participants import Hold, Person, participant_read, visible_person
from app.services.quality import rule_queries
from app.services.unlocked import require_unlocked
from app.web.conditional import Seen


class ParticipantHasRecords(Conflict):
    """Records of this participant count that the enrolment did not make: void each of them first. `records` names their
    kinds."""


def void_participant(
    session: Session,
    actor: Actor,
    journal: ErasureJournal,
    seen: Seen,
    symbols: str,
    body: RecordVoiding,
) -> tuple[ParticipantRead, int]:
    """Void a participant, and erase the site's label, which is free for somebody else then; also gives the site's key.
    The pid is never used again.

    Raises NotFound, RecordVoided, VersionStale, ParticipantHasRecords, DataLocked, ErasureJournalUnavailable.
    """
    person = visible_person(session, actor, symbols, hold=Hold.change)
    row = person.row
    seen.require_current(row.pid, row.version, VOIDING_FIELDS)
    _require_nothing_more(session, person)
    require_unlocked(session, row.site_id, row.pid)
    before, shared, at = audit.snapshot(row), consent_history.history_of(session, person), now()
    events = _with_enrolment(session, actor, person, body.reason, at)
    row.void(actor.account_id, at, body.reason)
    row.version, row.updated_at = row.version + 1, at
    session.flush()
    sharing.notify_if_ended(session, person, shared)
    events.append(audit.changed("participant:voided", row, row.pid, row.version, before, body.reason))
    events.append(consents.erase_label(session, journal, person, body.reason))
    rule_queries.settle_all(session, row.site_id, rule_queries.gone_with(session, row))
    audit.append(session, actor.account_id, row.site_id, events)
    return participant_read(values(row), person.place, person.protocol_version), row.site_id


_MOST: Mapping[str, tuple[Any, int]] = {
    "adverse_events": (AdverseEvent, 0),
    "consents": (Consent, 1),
    "screenings": (Screening, 1),
    "treatments": (TreatmentTrial, 0),
    "visits": (Visit, 0),
    "withdrawals": (Withdrawal, 0),
}
"""How many of each the enrolment itself can have made. Outcomes and dosing sessions count with their visit."""


def _require_nothing_more(session: Session, person: Person) -> None:
    """A withdrawal of the identity cannot be voided, and need not be: the label is gone either way. Raises
    ParticipantHasRecords."""
    kept = []
    for kind, (table, most) in _MOST.items():
        theirs = select(table).where(table.site_id == person.site_id, table.pid == person.pid, counts(table))
        if table is Withdrawal:
            theirs = theirs.where(table.scope != WithdrawalScope.identity)
        if len(session.exec(theirs.limit(most + 1)).all()) > most:
            kept.append(kind)
    if kept:
        raise ParticipantHasRecords(records=kept)


def _with_enrolment(session: Session, actor: Actor, person: Person, reason: str, at: datetime) -> list[audit.Event]:
    """Void the consent and the screening that the enrolment recorded, if they still count; gives the audit events."""
    events = []
    own = select(Consent).where(Consent.site_id == person.site_id, Consent.pid == person.pid, counts(Consent))
    for consent in session.exec(own):
        before = audit.snapshot(consent)
        consent.void(actor.account_id, at, reason)
        session.flush()
        subject = consent_name(consent.pid, consent.version, consent.number)
        events.append(audit.changed("consent:voided", consent, subject, person.row.version, before, reason))
    for screening in session.exec(screenings.of_person(person.row)):
        events.append(screenings.voided(session, actor, screening, reason, at))
    return events
