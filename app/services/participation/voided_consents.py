"""Voiding consents and withdrawals that a site recorded in error. Both are the participant's own acts (GDPR, articles
4(11) and 7(3)); what is corrected is the site's record of them, which can still be read (ICH E6(R3), 4.2.4)."""

from sqlmodel import Session

from app import audit
from app.access import Actor, found
from app.errors import Conflict
from app.models.base import now
from app.models.consent import ConsentState, VoidingCreate, WithdrawalScope, consent_name
from app.models.voided import VOIDING_FIELDS, RecordVoiding
from app.services.participation import consent_history, consents, sharing
from app.services.participation.participants import Hold, move_on, visible_person
from app.services.quality import dependent_findings, rule_queries
from app.services.unlocked import require_not_voided, require_unlocked
from app.web.conditional import Seen


class WithdrawalVoided(Conflict):
    """This withdrawal was voided already."""


class IdentityErased(Conflict):
    """A withdrawal of the identity cannot be voided: the site's label was erased for good."""


def void_consent(
    session: Session,
    actor: Actor,
    seen: Seen,
    symbols: str,
    version: str,
    number: int,
    body: RecordVoiding,
) -> tuple[ConsentState, int]:
    """Void a consent; `seen` is the participant's ETag, as for a correction of it. What was recorded on the strength of
    it stays, with findings where no other consent allows it. Also gives the site's key.

    Raises NotFound, RecordVoided, VersionStale, DataLocked.
    """
    person = visible_person(session, actor, symbols, hold=Hold.change)
    recorded = consents.consents_of(session, person)
    row = found(next((one for one in recorded if (one.version, one.number) == (version, number)), None))
    require_not_voided(row)
    seen.require_current(person.pid, person.row.version, VOIDING_FIELDS)
    require_unlocked(session, person.site_id, person.pid)
    before, counted = audit.snapshot(row), consent_history.history_of(session, person)
    row.void(actor.account_id, now(), body.reason)
    move_on(person.row)
    session.flush()
    sharing.notify_if_ended(session, person, counted)
    subject = consent_name(row.pid, row.version, row.number)
    event = audit.changed("consent:voided", row, subject, person.row.version, before, body.reason)
    judged = dependent_findings.after_further_consent(session, person)
    rule_queries.settle_all(session, row.site_id, *judged.turned)
    audit.append(session, actor.account_id, row.site_id, [event, *judged.events])
    return consents.state(session, person), row.site_id


def void_withdrawal(
    session: Session, actor: Actor, symbols: str, number: int, body: VoidingCreate
) -> tuple[ConsentState, int]:
    """Void a withdrawal, with the findings on doses that came from it; also gives the site's key.

    Raises NotFound, IdentityErased, WithdrawalVoided, DataLocked.
    """
    person = visible_person(session, actor, symbols, hold=Hold.change)
    withdrawals = consents.withdrawals_of(session, person)
    row = found(next((one for one in withdrawals if one.number == number), None))
    if row.scope == WithdrawalScope.identity:
        raise IdentityErased
    if row.voided_at is not None:
        raise WithdrawalVoided
    require_unlocked(session, person.site_id, person.row.pid)
    before = audit.snapshot(row)
    row.void(actor.account_id, now(), body.reason)
    move_on(person.row)
    session.flush()
    event = audit.changed("consent:withdrawal-voided", row, f"{row.pid}/{row.number}", 2, before, body.reason)
    judged = dependent_findings.after_withdrawal(session, person)
    rule_queries.settle_all(session, row.site_id, *judged.turned)
    audit.append(session, actor.account_id, row.site_id, [event, *judged.events])
    return consents.state(session, person), row.site_id
