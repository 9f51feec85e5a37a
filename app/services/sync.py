"""Sync: acts of an app that was offline, done in the order sent as far as they can be.

Each act is sent through the very route that it names, as the caller, under its id as idempotency key: every rule,
refusal and audit entry is that of the single request. Here is only what a courier has to know: what refers to what, and
what is kept until it can be delivered, or until somebody decides.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import sqlalchemy as sa
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from app import audit, pid
from app.access import Actor, Rows, found
from app.database import Database
from app.errors import Conflict, DatabaseUnavailable, Fault
from app.models.audit import REGISTRY_CHAIN
from app.models.base import canonical_json, columns, now, table_of, values
from app.models.sync import Operation, Resolution, SyncItem, SyncOperation, SyncResult, SyncState
from app.request_id import current_request_id
from app.security.keys import Keyring
from app.security.sealing import seal, unseal
from app.services import pid_reservations
from app.web.prefix import inner
from app.web.problems import document
from app.web.rates import uncounted

_ACTS = table_of(SyncOperation)
_NAME = re.compile(r"@[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_EVERYTHING = frozenset({401, 429, 502, 504, 507})
"""Answers that any other act would get as well: what is left waits for the next call."""

_ENROLMENTS = "/v1/participants"

MOST_WAITING = 5_000
"""Acts of an account that wait for others: more than a tablet's backlog. Each call looks at all of them."""

_CONFLICT, _BLOCKED = frozenset({409, 412}), frozenset({403, 423})


class OperationIdReused(Conflict):
    """This id was used for another act."""


class ActSettled(Conflict):
    """This act was stored or discarded; only one that waits or was refused is sent again or discarded."""


class TooManyActsWait(Conflict):
    """This account has as many acts that wait for others as it may. Send those others first, and then this one again,
    by its resolution."""


class ReferenceDiscarded(Conflict):
    """This act refers to one that was discarded: let it refer to something else, or discard it too."""


class Made(NamedTuple):
    """What an act made."""

    location: str
    etag: str | None


class Act(NamedTuple):
    """An act that waits, and what it refers to: looked for once, and not where it would hold up other requests."""

    operation: Operation
    names: frozenset[str]
    pids: frozenset[str]

    @classmethod
    def of(cls, one: Operation) -> "Act":
        return cls(one, _named(one), _referred(one))

    def lacking(self, made: Mapping[str, Made], unborn: Set[str]) -> set[str]:
        """The names and pids that it refers to and that are of nothing and nobody yet."""
        return {*(self.names - made.keys()), *(self.pids & unborn)}

    @property
    def closes(self) -> bool:
        """Whether nothing can be added to its record afterwards."""
        return self.operation.path.endswith("/close")


class Shelf:
    """The acts of one account, as they are kept."""

    def __init__(self, database: Database, keyring: Keyring, account_id: UUID) -> None:
        self.database, self._keyring, self._account_id = database, keyring, account_id

    def keep(self, operations: Sequence[Operation]) -> dict[UUID, SyncState | None]:
        """Store what is new, before anything is tried; gives how each stood before. The same may come in two calls at
        once: in the order of their ids, so that neither waits for the other for ever. Raises OperationIdReused."""
        sent = {one.id: one for one in operations}
        fresh = [
            values(
                SyncOperation(account_id=self._account_id, id=one.id, digest=self._digest(one), sealed=self.sealed(one))
            )
            for one in sent.values()
        ]
        with self.database.write() as session:
            dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
            kept = dialect.insert(_ACTS).values(sorted(fresh, key=lambda row: row["id"])).on_conflict_do_nothing()
            new = set(session.execute(kept.returning(_ACTS.c.id)).scalars())
            mine = sa.select(_ACTS.c.id, _ACTS.c.digest, _ACTS.c.state).where(
                _ACTS.c.account_id == self._account_id, _ACTS.c.id.in_(sent)
            )
            there = {row.id: row for row in session.execute(mine)}
            reused = [place for place, one in enumerate(operations) if there[one.id].digest != self._digest(one)]
            if reused:
                raise OperationIdReused(
                    *(Fault(f"/operations/{n}/id", "reused", "Used for another act") for n in reused)
                )
            if refused := [one for one in sent if there[one].state == SyncState.refused]:
                self._try_again(session, refused)
        return {one: None if one in new else SyncState(there[one].state) for one in sent}

    def _try_again(self, session: Session, sent: Sequence[UUID]) -> None:
        """What was refused for the state of a record may be right by now; what else was refused is for somebody to
        decide."""
        mine = select(SyncOperation).where(
            SyncOperation.account_id == self._account_id,
            col(SyncOperation.id).in_(sent),
            SyncOperation.state == SyncState.refused,
        )
        refused = {row.id: row for row in session.exec(mine.order_by(col(SyncOperation.id)).with_for_update())}
        for row in (refused[one] for one in sent if one in refused):
            if json.loads(row.problem or "{}").get("status") == Conflict.status:
                row.state, row.problem, row.updated_at = SyncState.waiting, None, now()

    def _digest(self, one: Operation) -> str:
        return self._keyring.digest("sync", canonical_json(one.model_dump(mode="json")).encode())

    def sealed(self, one: Operation) -> str:
        text = canonical_json(one.model_dump(mode="json")).encode()
        return seal(self._keyring.derived("sync"), text, self._context(one.id))

    def opened(self, row: SyncOperation) -> Operation | None:
        """As it was kept, by whatever rules were then: what is kept can always be listed and discarded."""
        if row.sealed is None:
            return None
        text = unseal(self._keyring.derived("sync"), row.sealed, self._context(row.id))
        return Operation.model_construct(**{**json.loads(text), "id": row.id})

    def _context(self, operation_id: UUID) -> bytes:
        return self._account_id.bytes + operation_id.bytes

    def waiting(self) -> tuple[list[Act], dict[str, Made], set[str]]:
        """What is to be done, in the order in which it was sent, and what it refers to: what has been made, by name,
        and the names of what was discarded."""
        mine = select(SyncOperation).where(
            SyncOperation.account_id == self._account_id, SyncOperation.state == SyncState.waiting
        )
        with self.database.read() as session:
            rows = session.exec(mine.order_by(col(SyncOperation.updated_at))).all()
        waiting = [Act.of(one) for row in rows if (one := self.opened(row))]
        named = self.rows({UUID(name[1:]) for act in waiting for name in act.names})
        made = {f"@{row.id}": Made(row.location, row.etag) for row in named.values() if row.location is not None}
        gone = {f"@{row.id}" for row in named.values() if row.state == SyncState.discarded}
        return waiting, made, gone

    def note(self, operation_id: UUID, made: Made | None, problem: Mapping[str, Any] | None) -> None:
        """What became of an act. What is stored stays so, and a refusal does not bring back what somebody discarded: a
        slower call may be told one."""
        with self.database.write() as session:
            row = session.get_one(SyncOperation, (self._account_id, operation_id), with_for_update=True)
            if row.state == SyncState.stored or (made is None and row.state == SyncState.discarded):
                return
            row.updated_at = now()
            if made is not None:
                row.state, row.location, row.etag = SyncState.stored, made.location, made.etag
                row.sealed, row.problem = None, None
            else:
                row.state, row.problem = SyncState.refused, json.dumps(problem)

    def rows(self, ids: Iterable[UUID]) -> dict[UUID, SyncOperation]:
        mine = select(SyncOperation).where(
            SyncOperation.account_id == self._account_id, col(SyncOperation.id).in_(list(ids))
        )
        with self.database.read() as session:
            return {row.id: row for row in session.exec(mine)}


class Courier:
    """Delivers what waits for one caller."""

    def __init__(self, request: Request, actor: Actor) -> None:
        self._request, self._actor, self._authorization = request, actor, request.headers["authorization"]
        self.shelf = Shelf(request.app.state.database, request.app.state.keyring, actor.account_id)
        client = (request.client.host if request.client else "unknown", 0)
        transport = httpx.ASGITransport(app=uncounted(request.app), raise_app_exceptions=False, client=client)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://registry")
        self.replayed: set[UUID] = set()
        self.later: dict[UUID, httpx.Response] = {}
        """Why the registry could not do an act just now; nothing is wrong with the act itself."""

    async def deliver(self) -> tuple[list[UUID], dict[UUID, set[str]]]:
        """Do whatever can be done, until nothing more can; gives what was tried, in that order, and the names and pids
        that each act that still waits lacks."""
        waiting, made, gone = await run_in_threadpool(self.shelf.waiting)
        tried = [act.operation.id for act in waiting if act.names & gone]
        for one_id in tried:
            await run_in_threadpool(self.shelf.note, one_id, None, document(ReferenceDiscarded(), "/v1/sync"))
        waiting = [act for act in waiting if not act.names & gone]
        unborn = await run_in_threadpool(self._unborn, waiting)
        refused: dict[UUID, int] = {}
        async with self._http:
            while ready := _turn([act for act in waiting if not act.lacking(made, unborn)], refused, len(made)):
                for place, (one, _, _) in enumerate(ready):
                    answer = await self._sent(one, made)
                    if _concerns_everything(answer):
                        self.later |= {act.operation.id: answer for act in ready[place:]}
                        return tried, {act.operation.id: act.lacking(made, unborn) for act in waiting}
                    refused.pop(one.id, None)
                    if answer.is_server_error or "Retry-After" in answer.headers:
                        self.later[one.id] = answer  # this act waits on, and holds up only what hangs on it
                        continue
                    tried.append(one.id)
                    there, problem = _read(one, answer, made)
                    await run_in_threadpool(self.shelf.note, one.id, there, problem)
                    if answer.status_code == Conflict.status:
                        refused[one.id] = len(made)
                    if there is not None:
                        made[f"@{one.id}"] = there
                        unborn -= _pids(there.location.rpartition("/")[2])
                    if answer.headers.get("Idempotent-Replayed") == "true":
                        self.replayed.add(one.id)
                done = {one.id for one, _, _ in ready}
                waiting = [act for act in waiting if act.operation.id in refused or act.operation.id not in done]
        return tried, {act.operation.id: act.lacking(made, unborn) for act in waiting}

    async def bound(self, brought: Mapping[UUID, SyncState | None], lacking: Mapping[UUID, Set[str]]) -> None:
        """Refuse the last of what this call brought to wait, where that is more than may. What can be done, and so all
        that others wait for, was done before."""
        surplus = len(lacking) - MOST_WAITING
        if surplus <= 0 or not all(lacking.values()):  # some could have been done, were the registry well
            return
        anew = [one for one, before in brought.items() if before != SyncState.waiting and one in lacking]
        for one in anew[-surplus:]:
            await run_in_threadpool(self.shelf.note, one, None, document(TooManyActsWait(), "/v1/sync"))

    def _unborn(self, waiting: Iterable[Act]) -> set[str]:
        """The reserved pids that acts refer to and that nobody is enrolled under yet."""
        referred = {symbols for act in waiting for symbols in act.pids}
        if not referred:
            return set()
        with self.shelf.database.read(self._request) as session:
            return pid_reservations.unborn(session, self._actor, referred)

    async def _sent(self, one: Operation, made: Mapping[str, Made]) -> httpx.Response:
        headers = {"Authorization": self._authorization, "Idempotency-Key": str(one.id)}
        headers["X-Request-Id"] = current_request_id() or str(one.id)  # in the trail it is one request
        if one.if_match is not None:
            headers["If-Match"] = (made[one.if_match.lower()].etag or "") if _is_name(one.if_match) else one.if_match
        body = _filled(one.body, made)
        return await self._http.request(one.method, _path(one.path, made), json=body, headers=headers)


def _named(one: Operation) -> frozenset[str]:
    """The names that an act refers to."""
    return frozenset(text.lower() for text in _texts([one.path.split("/"), one.body, one.if_match]) if _is_name(text))


def _referred(one: Operation) -> frozenset[str]:
    """The pids that an act refers to. An enrolment does not refer to the reserved pid that it gives to somebody."""
    body = {**one.body, "pid": None} if one.path == _ENROLMENTS else one.body
    return frozenset().union(*(_pids(text) for text in _texts([one.path.split("/"), body])))


def _pids(text: str) -> set[str]:
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


def _filled(value: Any, made: Mapping[str, Made]) -> Any:
    """With ids in place of names."""
    if isinstance(value, Mapping):
        return {name: _filled(one, made) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, made) for one in value]
    if isinstance(value, str) and _is_name(value):
        return made[value.lower()].location.rpartition("/")[2]
    return value


def _path(path: str, made: Mapping[str, Made]) -> str:
    return "/".join(_filled(part, made) for part in path.split("/"))


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _turn(ready: Sequence[Act], refused: Mapping[UUID, int], stored: int) -> list[Act]:
    """What to do next: whatever is new; then what was refused for the state of a record when less was `stored`; and to
    close a session last, as nothing can be added to it afterwards."""

    def rank(act: Act) -> int:
        return 2 if act.closes else int(act.operation.id in refused)

    able = [act for act in ready if refused.get(act.operation.id, -1) < stored]
    first = min(map(rank, able), default=0)
    return [act for act in able if rank(act) == first]


def _concerns_everything(answer: httpx.Response) -> bool:
    if answer.status_code == DatabaseUnavailable.status:
        return bool(answer.json().get("code") == DatabaseUnavailable.code())
    return answer.status_code in _EVERYTHING


def _read(
    one: Operation, answer: httpx.Response, made: Mapping[str, Made]
) -> tuple[Made | None, dict[str, Any] | None]:
    """What was made, or the problem. A correction that differs in nothing from what is there is done, by somebody else
    (a retry is answered as the first try was): which version that left, with what else in it, nobody here has seen."""
    told = answer.json()
    done = answer.status_code == httpx.codes.PRECONDITION_FAILED and told.get("differing_fields") == []
    if answer.is_success or done:
        location = answer.headers.get("Location") or _path(one.path, made)
        return Made(inner(location), None if done else answer.headers.get("ETag")), None
    return None, told


def result(row: SyncOperation, before: SyncState | None, courier: Courier, lacking: Set[str]) -> SyncResult:
    """How an act stands now, as its app is told."""
    problem = json.loads(row.problem) if row.problem and row.state == SyncState.refused else None
    if row.state == SyncState.stored:
        kind = "replayed" if row.id in courier.replayed or before == SyncState.stored else "created"
    elif row.state == SyncState.discarded:
        kind = "discarded"
    elif problem is None:
        kind = "blocked"
    else:
        status = problem["status"]
        kind = "conflict" if status in _CONFLICT else "blocked" if status in _BLOCKED else "invalid"
    names = sorted(UUID(name[1:]) for name in lacking if _is_name(name))
    pids = sorted(symbols for symbols in lacking if not _is_name(symbols))
    told: dict[str, Any] = {"location": row.location, "etag": row.etag, "problem": problem}
    if row.state == SyncState.waiting and (later := courier.later.get(row.id)) is not None:
        told |= {"problem": later.json(), "retry_after": later.headers.get("Retry-After")}
    return SyncResult(id=row.id, result=kind, waits_for=names, waits_for_pids=pids, **told)


def resolve(session: Session, shelf: Shelf, actor: Actor, operation_id: UUID, body: Resolution) -> None:
    """Send an act again that was refused or waits, or give it up. Raises NotFound, ActSettled."""
    row = found(session.get(SyncOperation, (actor.account_id, operation_id), with_for_update=True))
    before, was = row.state, shelf.opened(row)
    if was is None:
        raise ActSettled
    row.updated_at = now()
    if body.decision == "discard":
        row.state, row.sealed = SyncState.discarded, None
    else:
        changed = {name: value for name in ("body", "if_match") if (value := getattr(body, name)) is not None}
        row.sealed, row.state, row.problem = shelf.sealed(was.model_copy(update=changed)), SyncState.waiting, None
    session.flush()
    noted = [{"field": "state", "old": before, "new": row.state}]
    event = audit.Event(f"sync:{body.decision}", "sync_operation", str(operation_id), 1, noted, body.reason)
    audit.append(session, str(actor.account_id), REGISTRY_CHAIN, [event])


def rows() -> Rows:
    """Operations; narrow it with `visible`."""
    return sa.select(*columns(SyncOperation))


def item(row: SyncOperation, one: Operation | None) -> SyncItem:
    return SyncItem(
        id=row.id,
        state=row.state,
        method=one.method if one else None,
        path=one.path if one else None,
        body=one.body if one else None,
        location=row.location,
        problem=json.loads(row.problem) if row.problem else None,
        created_at=row.created_at,
    )
