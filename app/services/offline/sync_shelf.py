"""The shelf of sync: the acts of an account, encrypted, until they are carried out or somebody decides on them; and
which refers to which."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app import audit, pid
from app.database import Database
from app.errors import Conflict, Fault, Invalid
from app.models.base import canonical_json, now, table_of, values
from app.models.sync import Operation, SyncOperation, SyncState
from app.privacy import vault
from app.security.keys import Keyring
from app.security.sealing import seal, unseal
from app.services.studies import places
from app.writing import upsert

_ACTS = table_of(SyncOperation)
_NAME = re.compile(r"@[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_ENROLMENTS = "/v1/participants"
UNSETTLED = frozenset({SyncState.waiting, SyncState.refused})
PARTS = ("doses", "vitals")
"""Parts of a session. Recording one answers with the session's address."""


MOST_REFUSED = 10_000
"""Refused acts of an account that are kept: far more than its people can look at. Each call looks for answers to all of
them. A call that begins below it may pass it by the 200 that it brings."""


class TooManyActsRefused(Conflict):
    """This account has too many refused acts, so this one was neither kept nor tried. Settle or discard some of them,
    and send it again; or send it now as a single request, under the same key."""


class OperationIdReused(Conflict):
    """This id was used for another act, so this one is not kept: give it an id of its own."""


class OperationMalformed(Invalid):
    """This operation cannot be read, so it was not kept; `errors` says why. Correct it and send it again."""


class ActMade(NamedTuple):
    """What an act made."""

    location: str
    """The address, followed by `#` and the id of the dose or reading where it made one in a session."""

    etag: str | None

    @property
    def id(self) -> str:
        return address(self.location).rpartition("/")[2]

    @property
    def part(self) -> str:
        """The id of the dose or reading that it made or corrected in a session."""
        return self.location.partition("#")[2] or self.id


class Act(NamedTuple):
    """An act that waits, and what it refers to: looked for once, and not where it would hold up other requests."""

    operation: Operation
    names: frozenset[str]
    pids: frozenset[str]
    problem: Mapping[str, Any] | None = None
    """The refusal that it met in an earlier call."""

    obstacle: str | None = None
    """The same as text (`refusal`)."""

    @classmethod
    def of(cls, one: Operation, problem: str | None = None) -> "Act":
        met = json.loads(problem) if problem else None
        return cls(one, _named(one), _referred(one), met, refusal(met) if met else None)

    @property
    def id(self) -> UUID:
        return self.operation.id

    @property
    def name(self) -> str:
        """By which other acts refer to it."""
        return f"@{self.id}"

    @property
    def closes(self) -> bool:
        """Whether nothing can be added to its record afterwards."""
        return self.operation.path.endswith("/close")

    @property
    def corrects(self) -> str | None:
        """The name of the act that left the version which it corrects."""
        seen = self.operation.if_match
        return seen.lower() if seen is not None and is_name(seen) else None

    @property
    def doses(self) -> bool:
        return self.operation.path.endswith("/doses")


class Shelf:
    """The acts of one account, as they are kept."""

    def __init__(self, database: Database, keyring: Keyring, account_id: UUID) -> None:
        self.database, self._keyring, self._account_id = database, keyring, account_id

    def keep(self, sent: Mapping[int, Operation]) -> tuple[dict[UUID, SyncState | None], dict[int, Conflict]]:
        """Store new acts before anything is tried. Gives the state that each had before (None: it is new), and by its
        place why one is not kept."""
        first: dict[UUID, Operation] = {}
        for one in sent.values():
            first.setdefault(one.id, one)
        acts = [self._row(one) for one in first.values()]  # each is younger than the one before it
        if not acts:
            return {}, {}
        acts.sort(key=lambda row: row["id"])  # so that two calls with the same acts do not wait for each other for ever
        with self.database.write() as session:
            new = set()
            if self._refused(session) < MOST_REFUSED:
                stored = upsert(session, _ACTS).values(acts).on_conflict_do_nothing()
                new = set(session.execute(stored.returning(_ACTS.c.id)).scalars())
            mine = sa.select(_ACTS.c.id, _ACTS.c.digest, _ACTS.c.state).where(
                _ACTS.c.account_id == self._account_id, _ACTS.c.id.in_(first)
            )
            there = {row.id: row for row in session.execute(mine)}
            not_kept: dict[int, Conflict] = {}
            for place, one in sent.items():
                if one.id not in there:
                    not_kept[place] = TooManyActsRefused()
                elif there[one.id].digest != self._digest(one):
                    fault = Fault(f"/operations/{place}/id", "reused", "Used for another act")
                    not_kept[place] = OperationIdReused(fault)
            before = {
                one.id: None if one.id in new else SyncState(there[one.id].state)
                for place, one in sent.items()
                if place not in not_kept
            }
            self._try_again(session, [one for one, state in before.items() if state in UNSETTLED])
        return before, not_kept

    def _refused(self, session: Session) -> int:
        refused = (_ACTS.c.account_id == self._account_id, _ACTS.c.state == SyncState.refused)
        return int(session.execute(sa.select(sa.func.count()).where(*refused)).scalar_one())

    def _row(self, one: Operation) -> dict[str, Any]:
        row = SyncOperation(account_id=self._account_id, id=one.id, digest=self._digest(one), sealed=self.sealed(one))
        return values(row)

    def _try_again(self, session: Session, sent: Sequence[UUID]) -> None:
        """Let acts wait once more that were refused, in the order sent: a time may have come, a lock may be lifted, or
        missing data stored. What can never be right is refused once more."""
        if not sent:
            return
        mine = select(SyncOperation).where(
            SyncOperation.account_id == self._account_id,
            col(SyncOperation.id).in_(sent),
            col(SyncOperation.state).in_(UNSETTLED),
        )
        rows = {row.id: row for row in session.exec(mine.order_by(col(SyncOperation.id)).with_for_update())}
        for row in (rows[one] for one in sent if one in rows):
            if row.problem is not None:
                row.state, row.updated_at = SyncState.waiting, now()

    def _digest(self, one: Operation) -> str:
        return self._keyring.digest("sync", canonical_json(one.model_dump(mode="json")).encode())

    def sealed(self, one: Operation) -> str:
        text = canonical_json(one.model_dump(mode="json")).encode()
        return seal(self._keyring.derived("sync"), text, _context(self._account_id, one.id))

    def opened(self, row: SyncOperation) -> Operation | None:
        return _opened(self._keyring, row)

    def waiting(self) -> tuple[list[Act], dict[str, ActMade], set[str]]:
        """The acts to carry out, in the order in which they were sent; what those that they refer to have made, by
        name; and the names of those that were discarded."""
        mine = select(SyncOperation).where(
            SyncOperation.account_id == self._account_id, SyncOperation.state == SyncState.waiting
        )
        with self.database.read() as session:
            rows = session.exec(mine.order_by(col(SyncOperation.updated_at))).all()
        waiting = [Act.of(one, row.problem) for row in rows if (one := self.opened(row))]
        named = self.rows({UUID(name[1:]) for act in waiting for name in act.names})
        made = {f"@{row.id}": ActMade(row.location, row.etag) for row in named.values() if row.location is not None}
        discarded = {f"@{row.id}" for row in named.values() if row.state == SyncState.discarded}
        return waiting, made, discarded

    def unsettled(self) -> Sequence[UUID]:
        """Every act that waits or was refused, in the order in which it was sent."""
        mine = sa.select(_ACTS.c.id).where(_ACTS.c.account_id == self._account_id, _ACTS.c.state.in_(UNSETTLED))
        with self.database.read() as session:
            return session.execute(mine.order_by(_ACTS.c.updated_at)).scalars().all()

    def note(
        self,
        operation_id: UUID,
        made: ActMade | None,
        problem: Mapping[str, Any] | None,
        state: SyncState = SyncState.refused,
    ) -> None:
        """Note what became of an act: it made something, was refused, or goes on waiting in its turn. A slower call may
        come with a refusal of what another has stored or somebody has discarded meanwhile: that changes nothing."""
        with self.database.write() as session:
            row = session.get_one(SyncOperation, (self._account_id, operation_id), with_for_update=True)
            if row.state == SyncState.stored or (made is None and row.state == SyncState.discarded):
                return
            if made is not None:
                row.state, row.location, row.etag = SyncState.stored, made.location, made.etag
                row.sealed, row.problem = None, None
            else:
                row.state, row.problem = state, json.dumps(problem)
            if row.state != SyncState.waiting:
                row.updated_at = now()

    def rows(self, ids: Iterable[UUID]) -> dict[UUID, SyncOperation]:
        mine = select(SyncOperation).where(
            SyncOperation.account_id == self._account_id, col(SyncOperation.id).in_(list(ids))
        )
        with self.database.read() as session:
            return {row.id: row for row in session.exec(mine)}


def _opened(keyring: Keyring, row: SyncOperation) -> Operation | None:
    """The operation as it was kept, by the rules of that time: whatever is kept can always be listed and discarded."""
    if row.sealed is None:
        return None
    text = unseal(keyring.derived("sync"), row.sealed, _context(row.account_id, row.id))
    return Operation.model_construct(**{**json.loads(text), "id": row.id})


def _context(account_id: UUID, operation_id: UUID) -> bytes:
    return account_id.bytes + operation_id.bytes


class KeptEnrolment(NamedTuple):
    """An enrolment on somebody's shelf."""

    row: SyncOperation
    site_id: int
    blind_index: str
    """Of the label that it brings."""


def kept_enrolments(session: Session, keyring: Keyring) -> Iterator[KeptEnrolment]:
    """Every account's, of the sites that exist for the session."""
    sites = {"/".join(place): site_id for site_id, place in places(session).items()}
    kept = select(SyncOperation).where(col(SyncOperation.sealed).is_not(None))
    kept = kept.order_by(col(SyncOperation.account_id), col(SyncOperation.id))
    for row in session.exec(kept.execution_options(yield_per=500)):
        one = _opened(keyring, row)
        if one is None or one.path != _ENROLMENTS:
            continue
        label, site_id = one.body.get("site_local_id"), sites.get(f"{one.body.get('study')}/{one.body.get('site')}")
        if isinstance(label, str) and site_id is not None:
            yield KeptEnrolment(row, site_id, vault.blind_index(keyring, site_id, label))


def forget_erased(session: Session, of_erased: Iterable[SyncOperation], reason: str) -> list[audit.Event]:
    """Discard acts that have the label of somebody who was erased: sent again, they would enrol that person anew. Gives
    what is still to be remembered on the registry's own chain."""
    acts = list(of_erased)
    for row in acts:
        session.refresh(row, with_for_update=True)
    acts = [row for row in acts if row.sealed is not None]
    events = [
        audit.Event("sync:discard", "sync_operation", str(row.id), 1, [_discarded(row.state)], reason) for row in acts
    ]
    for row in acts:
        row.state, row.sealed, row.problem, row.updated_at = SyncState.discarded, None, None, now()
    session.flush()
    return events


def _discarded(before: SyncState) -> dict[str, Any]:
    return {"field": "state", "old": before, "new": SyncState.discarded}


def _named(one: Operation) -> frozenset[str]:
    """The names that an act refers to."""
    return frozenset(text.lower() for text in _texts([one.path.split("/"), one.body, one.if_match]) if is_name(text))


def _referred(one: Operation) -> frozenset[str]:
    """The pids that an act refers to. An enrolment under a reserved pid does not refer to it."""
    body = {**one.body, "pid": None} if one.path == _ENROLMENTS else one.body
    return frozenset().union(*(pids_in(text) for text in _texts([one.path.split("/"), body])))


def pids_in(text: str) -> set[str]:
    try:
        return {pid.normalise(text)}
    except ValueError:
        return set()


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, str):
        yield value


def filled(value: Any, made: Mapping[str, ActMade]) -> Any:
    """A value with ids in place of names."""
    if isinstance(value, Mapping):
        return {name: filled(one, made) for name, one in value.items()}
    if isinstance(value, list):
        return [filled(one, made) for one in value]
    if isinstance(value, str) and is_name(value):
        return made[value.lower()].id
    return value


def path_of(path: str, made: Mapping[str, ActMade]) -> str:
    steps = path.split("/")
    return "/".join(
        made[step.lower()].part if is_name(step) and before in PARTS else filled(step, made)
        for before, step in pairwise(["", *steps])
    )


def address(location: str) -> str:
    """The address of the record, without the part that was made in it."""
    return location.partition("#")[0]


def refusal(problem: Mapping[str, Any]) -> str:
    """A refusal as text: equal for all acts that meet the same obstacle, in whatever request."""
    return canonical_json({**problem, "request_id": None})


def is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None
