"""What participants consented to and withdrew, and what is therefore in force on a day."""

import json
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple, get_args

import sqlalchemy as sa
from sqlalchemy import Table
from sqlmodel import Session

from app.errors import Conflict, Fault, Invalid
from app.models.among import among
from app.models.base import table_of
from app.models.consent import Consent, Withdrawal, WithdrawalScope
from app.models.voided import counts
from app.protocol.consent import Amendment, ConsentScope, Standing, wanted_consent
from app.protocol.definition import Protocol
from app.services.participation.participants import Person

_CONSENTS, _WITHDRAWALS = table_of(Consent), table_of(Withdrawal)


class CollectionWithdrawn(Conflict):
    """The participant had withdrawn from the collection of data before that day; adverse events are still reported."""


class WithdrawalBeforeConsent(Invalid):
    """On the day of the withdrawal the participant had no consent that could be withdrawn."""


_TAKES_AWAY = {
    WithdrawalScope.sharing: frozenset({ConsentScope.data_sharing}),
    WithdrawalScope.contact: frozenset({ConsentScope.recontact, ConsentScope.long_follow_up}),
}
"""The scopes of a consent that a withdrawal ends. Withdrawals of dosing, collection and identity are checked where
these are done."""


class GivenConsent(NamedTuple):
    """The parts of a consent that say what is in force."""

    version: str
    given_on: date | None
    scopes: str


class ConsentWithdrawal(NamedTuple):
    """The parts of a withdrawal that say what is in force."""

    scope: str
    effective_on: date


class ConsentHistory(NamedTuple):
    """A participant's consents and withdrawals, and what is therefore in force on a day."""

    consents: list[GivenConsent]
    withdrawals: list[ConsentWithdrawal]

    @property
    def first(self) -> date | None:
        """The day of the first consent; None: there is none, or the day of one is unknown."""
        days = [one.given_on for one in self.consents]
        return None if None in days else min(filter(None, days), default=None)

    def newest(self, on: date) -> GivenConsent | None:
        """The newest consent given by a day."""
        given = [one for one in self.consents if one.given_on is None or one.given_on <= on]
        return max(given, key=lambda one: one.given_on or date.min, default=None)

    def scopes(self, on: date) -> frozenset[str]:
        """The scopes in force on a day: those of the newest consent given by then, without what was withdrawn since. If
        several consents have the same day, only scopes that are in all of them: consent must be demonstrated (GDPR,
        article 7(1)), and it cannot be demonstrated which of them came last."""
        newest = self.newest(on)
        if newest is None:
            return frozenset()
        that_day = [frozenset(json.loads(one.scopes)) for one in self.consents if one.given_on == newest.given_on]
        taken = [
            _TAKES_AWAY.get(WithdrawalScope(one.scope), frozenset())
            for one in self.withdrawals
            if one.effective_on <= on and (newest.given_on is None or one.effective_on >= newest.given_on)
        ]
        return frozenset.intersection(*that_day).difference(*taken)

    def withdrawn(self, on: date) -> Mapping[str, date]:
        """The scopes withdrawn on a day and not restored by a later consent, each with the day of its withdrawal. A
        withdrawn identity is never restored."""
        if not self.withdrawals:
            return {}
        newest = self.newest(on)
        since = newest.given_on if newest and newest.given_on else date.min
        days: dict[str, date] = {}
        for one in self.withdrawals:
            if one.effective_on <= on and (one.effective_on >= since or one.scope == WithdrawalScope.identity):
                days[one.scope] = min(one.effective_on, days.get(one.scope, one.effective_on))
        return days

    def is_new(self, version: str, on: date) -> bool:
        """Whether a consent of this day is a new one of its version, and not the same form sent again: something other
        than the identity was withdrawn between it and each of the others. Only the days count, not the order of
        recording."""
        others = [one.given_on or date.min for one in self.consents if one.version == version]
        taken = [one.effective_on for one in self.withdrawals if one.scope != WithdrawalScope.identity]
        apart = (any(min(on, other) <= day <= max(on, other) for day in taken) for other in others)
        return on not in others and all(apart)

    def allows(self, on: date, scope: str | None) -> bool:
        """Whether a consent given by that day allows what needs `scope` (None: any consent does). Withdrawals do not
        count: one that is told later leaves what was recorded before it."""
        given = self._replace(withdrawals=[])
        return given.newest(on) is not None and (scope is None or scope in given.scopes(on))

    def require_given(self, on: date, pointer: str) -> None:
        """Only a consent that was given can be withdrawn (GDPR, article 7(3)): a later consent overrides an earlier
        withdrawal, which would never be in force. Raises WithdrawalBeforeConsent."""
        if self.newest(on) is None:
            message = "No consent had been given by the day of the withdrawal"
            raise WithdrawalBeforeConsent(Fault(pointer, "before_consent", message))

    def require_collection(self, on: date) -> None:
        """Raises CollectionWithdrawn."""
        if WithdrawalScope.collection in self.withdrawn(on):
            raise CollectionWithdrawn


def history_of(session: Session, person: Person) -> ConsentHistory:
    """The consents and withdrawals of a participant that are recorded and not voided."""
    return histories_of(session, [person.site_id], [person.row.pid])[person.row.pid]


def histories_of(session: Session, sites: Sequence[int], pids: Sequence[str]) -> Mapping[str, ConsentHistory]:
    """The same for many participants of these sites, by pid."""
    histories = {pid: ConsentHistory([], []) for pid in pids}
    given = _of_these(_CONSENTS, "version", "given_on", "scopes", sites=sites, pids=pids).where(counts(_CONSENTS))
    for one in session.execute(given):
        histories[one.pid].consents.append(GivenConsent(*one[1:]))
    taken = _of_these(_WITHDRAWALS, "scope", "effective_on", sites=sites, pids=pids).where(counts(_WITHDRAWALS))
    for one in session.execute(taken):
        histories[one.pid].withdrawals.append(ConsentWithdrawal(*one[1:]))
    return histories


def _of_these(table: Table, *names: str, sites: Sequence[int], pids: Sequence[str]) -> Any:
    wanted = sa.select(table.c.pid, *(table.c[name] for name in names))
    return wanted.where(table.c.site_id.in_(sites), among(table.c.pid, "pids", pids))


def reconsents(
    person: Any, protocol: Protocol, amendments: Sequence[Amendment], history: ConsentHistory, on: date
) -> list[str]:
    """The consent versions that amendments ask a participant to sign; a voided one nothing."""
    if person.status not in get_args(Standing) or person.voided_at is not None:
        return []
    wanted = wanted_of(protocol, amendments, history, on, {person.status})
    of_amendments = {amendment.consent for amendment in amendments}
    signed = {consent.version for consent in history.consents}
    return [wanted] if wanted in of_amendments - signed and wanted is not None else []


def wanted_of(
    protocol: Protocol, amendments: Sequence[Amendment], history: ConsentHistory, on: date, statuses: Collection[str]
) -> str | None:
    """The consent version that a participant, who had one of these statuses on that day, was asked to sign by then."""
    since = min((one.given_on or date.min for one in history.consents), default=on)
    return wanted_consent(protocol.consents, amendments, on, statuses, since)
