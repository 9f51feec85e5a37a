"""Consent: recorded, withdrawn, and shown with what is in force today."""

import json
from collections.abc import Collection, Iterable
from typing import Any

from sqlmodel import Session, col, select

from app import audit
from app.access import Actor
from app.database import before_commit
from app.errors import Conflict, Fault, Invalid
from app.models.base import canonical_json, now, values
from app.models.consent import (
    Consent,
    ConsentCreate,
    ConsentRead,
    ConsentState,
    Withdrawal,
    WithdrawalCreate,
    WithdrawalRead,
    WithdrawalScope,
    consent_name,
)
from app.privacy import vault
from app.privacy.erasure_journal import ErasureJournal
from app.protocol.clocks import local_day
from app.protocol.consent import ConsentScope
from app.protocol.definition import Protocol
from app.security.keys import Keyring
from app.services.offline import sync_shelf
from app.services.participation import consent_history, sharing
from app.services.participation.participants import Hold, Person, move_on, visible_person
from app.services.quality import dependent_findings, rule_queries
from app.services.site_days import require_past
from app.services.studies import zone_of
from app.services.trail.registry_chain import remember
from app.services.unlocked import require_unlocked


class ConsentAlreadyRecorded(Conflict):
    """This consent version was recorded for the participant already, and nothing was withdrawn between the two."""


class ConsentUnknown(Invalid):
    """The participant's protocol version has no such consent version or scope; see errors."""


def give(session: Session, actor: Actor, symbols: str, body: ConsentCreate) -> tuple[ConsentState, int]:
    """Record a further consent; also gives the site's key. Raises NotFound, ConsentUnknown, ConsentAlreadyRecorded."""
    person = visible_person(session, actor, symbols, hold=Hold.change)
    require_past(actor, person.site_id, body)
    if faults := faults_of(person.protocol, body.version, body.scopes):
        raise ConsentUnknown(*faults)
    require_unlocked(session, person.site_id, person.row.pid)
    before = consent_history.history_of(session, person)
    if not before.is_new(body.version, body.given_on):
        raise ConsentAlreadyRecorded
    recorded = consents_of(session, person)
    number = 1 + sum(one.version == body.version for one in recorded)
    if any(one.voided_at for one in recorded):
        move_on(person.row)  # it may be the right one in the place of that
    row = Consent(
        site_id=person.site_id,
        pid=person.row.pid,
        version=body.version,
        number=number,
        given_on=body.given_on,
        **ticked(body.scopes),
    )
    session.add(row)
    session.flush()
    sharing.notify_if_ended(session, person, before)
    event = audit.created("consent:recorded", row, consent_name(row.pid, row.version, number), reason=body.reason)
    judged = dependent_findings.after_further_consent(session, person)
    rule_queries.settle_all(session, row.site_id, *judged.turned)
    audit.append(session, actor.account_id, row.site_id, [event, *judged.events])
    return state(session, person), row.site_id


def ticked(scopes: Collection[str]) -> dict[str, Any]:
    """The columns of a consent that say its scopes."""
    return {"scopes": canonical_json(sorted(set(scopes))), "data_sharing": ConsentScope.data_sharing in scopes}


def faults_of(protocol: Protocol, version: str, scopes: Iterable[str], at: str = "") -> list[Fault]:
    """The faults of a consent by the protocol: an unknown version or scope, or a required scope that is missing. `at`
    is the JSON pointer of the consent in the request."""
    defined = next((one for one in protocol.consents if one.version == version), None)
    if defined is None:
        return [Fault(f"{at}/version", "unknown_consent", "The protocol has no such consent version")]
    if not set(scopes) <= set(defined.scopes):
        return [Fault(f"{at}/scopes", "unknown_scope", "The consent version has no such scope")]
    if not set(defined.required) <= set(scopes):
        return [Fault(f"{at}/scopes", "required_scope", "Nobody takes part without the scopes that it requires")]
    return []


def withdraw(
    session: Session, actor: Actor, journal: ErasureJournal, symbols: str, body: WithdrawalCreate
) -> tuple[ConsentState, int]:
    """Record a withdrawal from a day on; also gives the site's key. A withdrawal of the identity erases the site's
    label for good, also in operations that sync keeps. Raises NotFound, WithdrawalBeforeConsent,
    ErasureJournalUnavailable."""
    person = visible_person(session, actor, symbols, hold=Hold.change)
    require_past(actor, person.site_id, body)
    if body.scope is not WithdrawalScope.identity:
        consent_history.history_of(session, person).require_given(body.effective_on, "/effective_on")
    row = Withdrawal(
        site_id=person.site_id,
        pid=person.row.pid,
        number=len(withdrawals_of(session, person)) + 1,
        recorded_by=actor.account_id,
        recorded_at=now(),
        **body.model_dump(),
    )
    session.add(row)
    session.flush()
    if row.scope in sharing.REPORTED:
        sharing.notify(session, row.site_id, row.pid)
    events = [audit.created("consent:withdrawn", row, f"{row.pid}/{row.number}", reason=body.reason)]
    forgotten: list[audit.Event] = []
    if body.scope is WithdrawalScope.identity:
        forgotten = _forget_kept_enrolments(session, journal.keyring, person, body.reason)
        events.append(erase_label(session, journal, person, body.reason))
    judged = dependent_findings.after_withdrawal(session, person)
    rule_queries.settle_all(session, row.site_id, *judged.turned)
    remember(session, actor, *forgotten)
    audit.append(session, actor.account_id, row.site_id, [*events, *judged.events])
    return state(session, person), row.site_id


def erase_label(session: Session, journal: ErasureJournal, person: Person, reason: str) -> audit.Event:
    """Erase the site's label of a participant for good, also from backups that are restored later; gives the audit
    event. Raises ErasureJournalUnavailable at the commit."""
    vault.erase(session, person.site_id, person.pid)
    before_commit(session, lambda: journal.note(person.pid, now()))
    return audit.Event("vault:erased", "participant", person.pid, person.row.version, [], reason)


def _forget_kept_enrolments(session: Session, keyring: Keyring, person: Person, reason: str) -> list[audit.Event]:
    """Erase the content of operations that sync keeps and that have this label too, such as an enrolment that was sent
    twice and refused."""
    label = vault.find(session, person.site_id, person.row.pid)
    if label is None:
        return []
    same = (label.site_id, label.blind_index)
    enrolments = sync_shelf.kept_enrolments(session, keyring)
    acts = [one.row for one in enrolments if (one.site_id, one.blind_index) == same]
    return sync_shelf.forget_erased(session, acts, reason)


def state(session: Session, person: Person) -> ConsentState:
    """Consents given and withdrawn, and what is in force today at the site."""
    history, on = consent_history.history_of(session, person), local_day(now(), zone_of(session, person.site_id))
    return ConsentState(
        participant=person.row.pid,
        consents=[
            ConsentRead.of_row(values(one), scopes=json.loads(one.scopes)) for one in consents_of(session, person)
        ],
        withdrawals=[WithdrawalRead.of_row(values(one)) for one in withdrawals_of(session, person)],
        scopes_today=sorted(history.scopes(on)),
        withdrawn_today=sorted(WithdrawalScope(scope) for scope in history.withdrawn(on)),
        reconsent_to=consent_history.reconsents(person.row, person.protocol, person.amendments, history, on),
    )


def consents_of(session: Session, person: Person) -> list[Consent]:
    """All recorded consents of a participant, also voided ones, oldest first."""
    theirs = select(Consent).where(Consent.site_id == person.site_id, Consent.pid == person.row.pid)
    ordered = col(Consent.given_on).nulls_first(), col(Consent.version), col(Consent.number)
    return list(session.exec(theirs.order_by(*ordered)))


def withdrawals_of(session: Session, person: Person) -> list[Withdrawal]:
    """All recorded withdrawals of a participant, also voided ones."""
    theirs = select(Withdrawal).where(Withdrawal.site_id == person.site_id, Withdrawal.pid == person.row.pid)
    return list(session.exec(theirs.order_by(col(Withdrawal.number))))
