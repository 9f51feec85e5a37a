"""Consent: what was given, what was taken back, and what therefore holds on a day."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Table
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor
from app.database import before_commit, unique_or
from app.errors import Conflict, Fault, Invalid
from app.models.among import among
from app.models.base import canonical_json, now, table_of
from app.models.course import (
    HOLDS,
    ConsentCreate,
    ConsentRead,
    ConsentState,
    Withdrawal,
    WithdrawalCreate,
    WithdrawalRead,
    WithdrawalScope,
)
from app.models.participant import Consent, ParticipantStatus
from app.privacy import vault
from app.privacy.erasure_journal import ErasureJournal
from app.protocol.clocks import local_day
from app.protocol.consent import ConsentScope, to_reconsent
from app.protocol.definition import Protocol
from app.services.participants import DATA_SHARING, Enrolled, Hold, enrolled
from app.services.studies import zone_of
from app.services.unlocked import require_unlocked

_CONSENTS, _WITHDRAWALS = table_of(Consent), table_of(Withdrawal)


class ConsentAlreadyRecorded(Conflict):
    """This consent version was recorded for the participant already; versions are given once."""


class CollectionWithdrawn(Conflict):
    """The participant had taken back the collection of data before that day; adverse events are still reported."""


class ConsentUnknown(Invalid):
    """The participant's protocol version has no such consent version or scope; see errors."""


_TAKES_AWAY = {
    WithdrawalScope.sharing: frozenset({ConsentScope.data_sharing}),
    WithdrawalScope.contact: frozenset({ConsentScope.recontact, ConsentScope.long_follow_up}),
}
"""The scopes of a consent that end with a withdrawal. Dosing, collection and identity are gates of their own."""


def give(session: Session, actor: Actor, symbols: str, body: ConsentCreate) -> tuple[ConsentState, int]:
    """Record a further consent; also gives the site's key. Raises NotFound, ConsentUnknown, ConsentAlreadyRecorded."""
    person = enrolled(session, actor, symbols, hold=Hold.change)
    if faults := faults_of(person.protocol, body.version, body.scopes):
        raise ConsentUnknown(*faults)
    require_unlocked(session, person.site_id, person.row.pid)
    row = Consent(
        site_id=person.site_id,
        pid=person.row.pid,
        version=body.version,
        given_on=body.given_on,
        scopes=canonical_json(sorted(set(body.scopes))),
        data_sharing=DATA_SHARING in body.scopes,
    )
    session.add(row)
    with unique_or(ConsentAlreadyRecorded):
        session.flush()
    subject = f"{row.pid}/{row.version}"
    event = audit.created("consent:recorded", row, subject, reason=body.reason)
    audit.append(session, actor.account_id, row.site_id, [event])
    return state(session, person), row.site_id


def faults_of(protocol: Protocol, version: str, scopes: Iterable[str], at: str = "") -> list[Fault]:
    """What the protocol does not know of a consent, or requires of it. `at` points at the consent in what was sent."""
    known = next((one for one in protocol.consents if one.version == version), None)
    if known is None:
        return [Fault(f"{at}/version", "unknown_consent", "The protocol has no such consent version")]
    if not set(scopes) <= set(known.scopes):
        return [Fault(f"{at}/scopes", "unknown_scope", "The consent version has no such scope")]
    if not set(known.required) <= set(scopes):
        return [Fault(f"{at}/scopes", "required_scope", "Nobody takes part without the scopes that it requires")]
    return []


def withdraw(
    session: Session, actor: Actor, journal: ErasureJournal, symbols: str, body: WithdrawalCreate
) -> tuple[ConsentState, int]:
    """Record what a participant takes back, from a day on; also gives the site's key. Taking back the identity erases
    the site's label for good. Raises NotFound, ErasureJournalUnavailable."""
    person = enrolled(session, actor, symbols, hold=Hold.change)
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
    events = [audit.created("consent:withdrawn", row, f"{row.pid}/{row.number}", reason=body.reason)]
    if body.scope is WithdrawalScope.identity:
        vault.erase(session, person.site_id, person.row.pid)
        before_commit(session, lambda: journal.note(person.row.pid, now()))
        events.append(audit.Event("vault:erased", "participant", person.row.pid, person.row.version, [], body.reason))
    audit.append(session, actor.account_id, row.site_id, events)
    return state(session, person), row.site_id


class Given(NamedTuple):
    """A consent, as far as it says what holds."""

    version: str
    given_on: date | None
    scopes: str


class Taken(NamedTuple):
    """A withdrawal, as far as it says what holds."""

    scope: str
    effective_on: date


class Agreed(NamedTuple):
    """What a participant gave and took back, and what therefore holds on a day."""

    given: list[Given]
    taken: list[Taken]

    def newest(self, on: date) -> Given | None:
        """The newest consent given by a day."""
        given = [one for one in self.given if one.given_on is None or one.given_on <= on]
        return max(given, key=lambda one: one.given_on or date.min, default=None)

    def scopes(self, on: date) -> frozenset[str]:
        """The scopes in force on a day: of the newest consent given by then, without what was taken back since. Of
        several consents of one day only what all of them say holds: consent has to be shown (GDPR, article 7(1)), and
        which of them was the last word cannot be."""
        newest = self.newest(on)
        if newest is None:
            return frozenset()
        that_day = [frozenset(json.loads(one.scopes)) for one in self.given if one.given_on == newest.given_on]
        taken = [
            _TAKES_AWAY.get(WithdrawalScope(one.scope), frozenset())
            for one in self.taken
            if one.effective_on <= on and (newest.given_on is None or one.effective_on >= newest.given_on)
        ]
        return frozenset.intersection(*that_day).difference(*taken)

    def withdrawn(self, on: date) -> Mapping[str, date]:
        """What is taken back on a day and not given anew by a later consent, and from when on. The identity never comes
        back."""
        if not self.taken:
            return {}
        newest = self.newest(on)
        since = newest.given_on if newest and newest.given_on else date.min
        days: dict[str, date] = {}
        for one in self.taken:
            if one.effective_on <= on and (one.effective_on >= since or one.scope == WithdrawalScope.identity):
                days[one.scope] = min(one.effective_on, days.get(one.scope, one.effective_on))
        return days

    def require_collection(self, on: date) -> None:
        """Raises CollectionWithdrawn."""
        if WithdrawalScope.collection in self.withdrawn(on):
            raise CollectionWithdrawn


def agreed(session: Session, person: Enrolled) -> Agreed:
    """What a participant gave and took back until now."""
    return agreed_by(session, [person.site_id], [person.row.pid])[person.row.pid]


def agreed_by(session: Session, sites: Sequence[int], pids: Sequence[str]) -> Mapping[str, Agreed]:
    """The same of many participants of these sites, by pid."""
    found = {pid: Agreed([], []) for pid in pids}
    for one in session.execute(_of_these(_CONSENTS, "version", "given_on", "scopes", sites=sites, pids=pids)):
        found[one.pid].given.append(Given(*one[1:]))
    taken = _of_these(_WITHDRAWALS, "scope", "effective_on", sites=sites, pids=pids).where(HOLDS)
    for one in session.execute(taken):
        found[one.pid].taken.append(Taken(*one[1:]))
    return found


def _of_these(table: Table, *names: str, sites: Sequence[int], pids: Sequence[str]) -> Any:
    wanted = sa.select(table.c.pid, *(table.c[name] for name in names))
    return wanted.where(table.c.site_id.in_(sites), among(table.c.pid, "pids", pids))


def reconsents(person: Enrolled, record: Agreed, on: date) -> list[str]:
    """Consent versions that amendments ask this participant to sign."""
    signed = [one.version for one in record.given]
    status = ParticipantStatus(person.row.status)
    asked = to_reconsent(person.protocol.amendments, on, status, signed)
    return sorted({one.consent for one in asked if one.consent is not None})


def state(session: Session, person: Enrolled) -> ConsentState:
    """What was given and taken back, and what holds today at the site."""
    record, on = agreed(session, person), local_day(now(), zone_of(session, person.site_id))
    return ConsentState(
        participant=person.row.pid,
        consents=[_consent_read(one) for one in _consents(session, person)],
        withdrawals=[_withdrawal_read(one) for one in withdrawals_of(session, person)],
        scopes_today=sorted(record.scopes(on)),
        withdrawn_today=sorted(WithdrawalScope(scope) for scope in record.withdrawn(on)),
        reconsent_to=reconsents(person, record, on),
    )


def _consents(session: Session, person: Enrolled) -> list[Consent]:
    theirs = select(Consent).where(Consent.site_id == person.site_id, Consent.pid == person.row.pid)
    return list(session.exec(theirs.order_by(col(Consent.given_on), col(Consent.version))))


def withdrawals_of(session: Session, person: Enrolled) -> list[Withdrawal]:
    """All that were recorded, also those that were voided."""
    theirs = select(Withdrawal).where(Withdrawal.site_id == person.site_id, Withdrawal.pid == person.row.pid)
    return list(session.exec(theirs.order_by(col(Withdrawal.number))))


def _consent_read(row: Consent) -> ConsentRead:
    return ConsentRead(version=row.version, given_on=row.given_on, scopes=json.loads(row.scopes))


def _withdrawal_read(row: Withdrawal) -> WithdrawalRead:
    same: Iterable[str] = WithdrawalRead.model_fields
    shown: dict[str, Any] = {name: getattr(row, name) for name in same}
    return WithdrawalRead(**shown)
