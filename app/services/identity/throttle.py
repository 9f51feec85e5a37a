"""Throttling of sign-in: after wrong passwords, codes or client secrets the account and the client address must wait.

Where an account signed in from lately, its failures are counted apart (decision 0036): an attacker elsewhere must not
be able to keep its owner waiting for as long as they like.

Failures are counted in the database, for all workers, in a transaction of their own, because the request that failed is
rolled back. Nothing is locked for good, so that an attacker cannot shut a site out.
"""

import ipaddress
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, update
from sqlmodel import Session

from app import audit
from app.database import Database
from app.errors import TooManyAttempts
from app.models.base import now, table_of
from app.models.sign_in import Throttle as Counted
from app.security.keys import Keyring
from app.services.trail.registry_chain import remember
from app.settings import Settings
from app.writing import upsert

FIRST_WAIT = timedelta(minutes=1)
LONGEST_WAIT = timedelta(minutes=15)
APART = timedelta(minutes=1)
"""How far apart two workers' clocks may be."""

FORGIVEN_EVERY = LONGEST_WAIT
"""A pause of this length takes one failure off the count, as people of a site who share an address mistype a few
passwords every day. It gives nobody more guesses: however long the waits have grown, one guess in each such pause is
free anyway."""

FORGOTTEN_AFTER = timedelta(hours=24)
KNOWN_FOR = timedelta(days=30)
"""How long after an account signed in from an address its failures there are counted apart."""

NOTED_EVERY = timedelta(days=1)
REMEMBERED_EVERY = timedelta(minutes=1)
UNKNOWN = "unknown"
_ROWS = table_of(Counted)


@dataclass(frozen=True)
class Failures:
    """A counter's key, and the number of failures that cause no waiting."""

    key: str
    allowed: float


@dataclass(frozen=True)
class Attempt:
    """One attempt to sign in: call `require_free`, check the secret, then report the result. All methods but
    `succeeded` use a connection of their own, so call them before the request's session has written anything, as SQLite
    has only one writer."""

    database: Database
    account: Failures
    """Of the account, from all addresses but those that are known."""

    account_here: Failures
    """Of the account, from this address, if it is known."""

    address: Failures
    unknown: Failures
    half: Failures
    known: str
    """The key of a row that says until when (`locked_until`) the address is known as one that the account uses."""

    network: str | None
    """The network of the client, for the audit trail: not the address of one person."""

    def require_free(self) -> None:
        """Raises TooManyAttempts while the account or the address has to wait. Call it before any hashing."""
        with self.database.read() as session:
            rows = _by_key(session, self._keys())
        self._require_past(rows)

    def failed(self, what: str, account_id: UUID | None) -> None:
        """Count a failure and remember it as `<what>:refused`, and as `<what>:throttled` when the waiting begins.
        `account_id` None: no account has this login. Such failures are counted in the same way but remembered only once
        a minute, as there is no limit to possible logins. Raises TooManyAttempts if parallel attempts have started the
        waiting meanwhile, so that parallel guesses get no more answers than sequential ones."""
        with self.database.write() as session:
            _forget_old(session)
            known = _by_key(session, [self.known])
            own = self._own(known)
            counters = [own, self.address] + ([self.unknown] if account_id is None else [])
            rows = {
                counter.key: _locked_row(session, counter) for counter in sorted(counters, key=lambda each: each.key)
            }
            self._require_past(known | rows)
            account, address = (_count(session, each, rows[each.key]) for each in (own, self.address))
            if account_id is None and not _is_due(session, self.unknown, rows[self.unknown.key]):
                return
            waiting = [name for name, wait in (("account", account), ("address", address)) if wait]
            events = [self._event(f"{what}:refused", account_id)]
            events += [self._event(f"{what}:throttled", account_id, waits=name) for name in waiting]
            remember(session, None, *events)

    def half_proven(self, what: str, account_id: UUID) -> None:
        """Remember as `<what>:code-asked-for`, at most once a minute, that the password was right and the second factor
        missing, as nothing else would show that a password was stolen. It is no failure: apps first send the password
        alone to learn that a code is needed."""
        with self.database.write() as session:
            _forget_old(session)
            if _is_due(session, self.half, _locked_row(session, self.half)):
                remember(session, None, self._event(f"{what}:code-asked-for", account_id))

    def succeeded(self, session: Session) -> None:
        """Forget the account's failures, where they are counted apart those of here, in the request's own transaction;
        the address keeps its count, and is known from now on.

        Raises TooManyAttempts if parallel failures have started the waiting meanwhile.
        """
        rows = _by_key(session, self._keys(), locked=True)
        self._require_past(rows)
        if (own := self._own(rows).key) in rows:
            session.execute(delete(_ROWS).where(_ROWS.c.key == own))
        if self.known not in rows or rows[self.known].locked_until < now() + KNOWN_FOR - NOTED_EVERY:
            noted = {"failures": 0, "last_failed_at": now(), "locked_until": now() + KNOWN_FOR}
            statement = upsert(session, _ROWS).values(key=self.known, **noted)
            session.execute(statement.on_conflict_do_update(index_elements=["key"], set_=noted))

    def _keys(self) -> list[str]:
        return [self.account.key, self.account_here.key, self.address.key, self.known]

    def _own(self, rows: Mapping[str, Any]) -> Failures:
        """What the account's failures are counted under here."""
        known = rows.get(self.known)
        return self.account_here if known is not None and known.locked_until > now() else self.account

    def _require_past(self, rows: Mapping[str, Any]) -> None:
        """A wait that is longer than the longest was set by a clock that ran ahead. The next failure sets another."""
        met = [rows[counter.key] for counter in (self._own(rows), self.address) if counter.key in rows]
        waits = [row.locked_until - now() for row in met if row.locked_until]
        left = max((wait for wait in waits if wait <= LONGEST_WAIT + APART), default=timedelta(0))
        if left > timedelta(0):
            raise TooManyAttempts(headers={"Retry-After": str(math.ceil(left.total_seconds()))})

    def _event(self, action: str, account_id: UUID | None, **more: str) -> audit.Event:
        return audit.event(action, "account", account_id or UNKNOWN, 1, {}, {"network": self.network, **more})


class Throttle:
    """The throttle of one application."""

    def __init__(self, database: Database, keyring: Keyring, settings: Settings) -> None:
        self._database, self._keyring, self._settings = database, keyring, settings

    def attempt(self, login: str, address: str) -> Attempt:
        """An attempt under a login (a username or a client id, whether it exists or not) from a client address."""
        host = _network(address, 32, 64) or address
        return Attempt(
            self._database,
            Failures(self._key("account", login), self._settings.throttle_account_failures),
            Failures(self._key("account-here", login, host), self._settings.throttle_account_failures),
            Failures(self._key("address", host), self._settings.throttle_address_failures),
            Failures(self._key("unknown", ""), math.inf),
            Failures(self._key("half", login), math.inf),
            self._key("known", login, host),
            _network(address, 24, 48),
        )

    def first_in_a_day(self, session: Session, kind: str, name: str) -> bool:
        """Whether this is the first call for this kind and name within a day, on any worker. Counted in the session's
        own transaction."""
        _forget_old(session)
        counter = Failures(self._key(kind, name), math.inf)
        row = _locked_row(session, counter)
        if row.failures == 0:
            _count(session, counter, row)
        return bool(row.failures == 0)

    def _key(self, kind: str, *names: str) -> str:
        return self._keyring.digest("throttle", kind.encode(), *(name.encode() for name in names))


def waiting_time(failures: int, allowed: float) -> timedelta:
    """A minute after the last allowed failure, twice as long after each further one, at most 15 minutes."""
    if failures < allowed:
        return timedelta(0)
    doubled = min(failures - int(allowed), 8)
    wait: timedelta = FIRST_WAIT * 2**doubled
    return min(wait, LONGEST_WAIT)


def remaining(failures: int, pause: timedelta) -> int:
    """The number of failures that still count after a pause without failures."""
    return max(0, failures - max(0, pause // FORGIVEN_EVERY))


def _network(address: str, ipv4_bits: int, ipv6_bits: int) -> str | None:
    """The network of an address; None if it is not an address. An IPv6 client can choose its address in a whole /64,
    and a proxy may write the address of an IPv4 client as IPv6."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return str(ipaddress.ip_network((parsed, ipv4_bits if parsed.version == 4 else ipv6_bits), strict=False))


def _by_key(session: Session, keys: Sequence[str], locked: bool = False) -> dict[str, Any]:
    """The rows that are there; `locked` in the same order by everybody, so that none waits for one who waits."""
    statement = select(_ROWS).where(_ROWS.c.key.in_(keys)).order_by(_ROWS.c.key)
    return {row.key: row for row in session.execute(statement.with_for_update() if locked else statement)}


def _locked_row(session: Session, counter: Failures) -> Any:
    """The counter's row, created if missing, locked. An upsert: SELECT FOR UPDATE of a missing row locks nothing."""
    statement = upsert(session, _ROWS).values(key=counter.key, failures=0, last_failed_at=now())
    locking = statement.on_conflict_do_update(index_elements=["key"], set_={"failures": _ROWS.c.failures})
    return session.execute(locking.returning(*_ROWS.c)).one()


def _count(session: Session, counter: Failures, row: Any) -> timedelta:
    failures = remaining(row.failures, now() - row.last_failed_at) + 1
    wait = waiting_time(failures, counter.allowed)
    changed = {"failures": failures, "last_failed_at": now(), "locked_until": now() + wait if wait else None}
    session.execute(update(_ROWS).where(_ROWS.c.key == counter.key).values(changed))
    return wait


def _is_due(session: Session, counter: Failures, row: Any) -> bool:
    """Whether an event that is remembered at most once a minute is to be remembered now; if so, it is counted."""
    due = not row.failures or abs(now() - row.last_failed_at) >= REMEMBERED_EVERY
    if due:
        _count(session, counter, row)
    return due


def _forget_old(session: Session) -> None:
    until = func.coalesce(_ROWS.c.locked_until, _ROWS.c.last_failed_at)
    old = select(_ROWS.c.key).where(_ROWS.c.last_failed_at < now() - FORGOTTEN_AFTER, until < now())
    session.execute(delete(_ROWS).where(_ROWS.c.key.in_(old.with_for_update(skip_locked=True))))
