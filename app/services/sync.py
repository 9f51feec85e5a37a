"""Sync: the acts of an app that was offline, carried out in the order sent as far as possible.

Each act is sent through the very route that it names, as the caller, with its id as idempotency key: every rule,
refusal and audit entry is that of the single request. This module only decides what to send when; `sync_shelf` keeps
what waits.
"""

import json
from collections.abc import Container, Iterable, Mapping, Sequence, Set
from typing import Any
from uuid import UUID

import httpx
import sqlalchemy as sa
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlmodel import Session

from app import audit
from app.access import Actor, Rows, found
from app.errors import Conflict, DatabaseUnavailable, Fault, RegistryError
from app.models.base import columns, now
from app.models.sync import Operation, Resolution, SyncItem, SyncOperation, SyncResult, SyncState, Unreadable
from app.request_id import current_request_id
from app.services import pid_reservations
from app.services.registry_chain import remember
from app.services.sync_shelf import (
    PARTS,
    Act,
    ActMade,
    OperationIdReused,
    OperationMalformed,
    Shelf,
    address,
    filled,
    is_name,
    path_of,
    pids_in,
    refusal,
)
from app.web.once import Once, answers_of
from app.web.prefix import inner
from app.web.problems import document, fault_of, result_of
from app.web.rates import uncounted

_EVERYTHING = frozenset({401, 429, 502, 504, 507})
"""Answers that every other act would get too: the rest waits for the next call."""

MOST_WAITING = 5_000
"""Acts of an account that wait for others, or for data to be opened: more than a tablet's backlog. Each call looks at
all of them."""


class ActSettled(Conflict):
    """This act was already stored or discarded. Only one that waits or was refused can be sent again or discarded."""


class TooManyActsWait(Conflict):
    """This account has too many waiting acts. Send what they wait for, or have the data unlocked, and then send this
    one again."""


class ReferenceDiscarded(Conflict):
    """This act refers to one that was discarded: let it refer to something else, or discard it too."""


class SyncCourier:
    """Delivers what waits for one caller."""

    def __init__(self, request: Request, actor: Actor) -> None:
        self._request, self._actor, self._authorization = request, actor, request.headers["authorization"]
        self.shelf = Shelf(request.app.state.database, request.app.state.keyring, actor.account_id)
        client = (request.client.host if request.client else "unknown", 0)
        self._known: dict[str, Any] = {}
        app = uncounted(request.app, self._known)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=client)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://registry")
        self.replayed: set[UUID] = set()
        self.later: dict[UUID, httpx.Response] = {}
        """The answers to acts that cannot be done just now; nothing is wrong with the acts themselves."""

        self.held: set[UUID] = set()
        self._standing: set[str] = set()
        """Refusals that last until somebody lifts a lock or gives a role, with the acts that met them."""

    def settle(self) -> list[UUID]:
        """Note the acts that single requests have done meanwhile, and give them."""
        settled = settle(self._request, self._actor, self.shelf)
        self.replayed.update(settled)
        return settled

    async def deliver(self, brought: Container[UUID] = ()) -> tuple[list[UUID], dict[UUID, set[str]]]:
        """Do whatever can be done of what was `brought` and what waits, until nothing more can; gives what was tried,
        in that order, and the names and pids that each act that still waits lacks."""
        waiting, made, gone = await run_in_threadpool(self.shelf.waiting)
        tried = [act.operation.id for act in waiting if act.names & gone]
        await self._refuse(tried, ReferenceDiscarded())
        waiting = [act for act in waiting if not act.names & gone]
        unborn = await run_in_threadpool(self._unborn, waiting)
        refused: dict[UUID, int] = {}
        async with self._http:
            while ready := _turn([act for act in waiting if not act.lacking(made, unborn)], refused, len(made)):
                seen, done = {act.corrects for act in waiting}, set()
                for place, act in enumerate(ready):
                    one = act.operation
                    done.add(one.id)
                    if one.id not in refused and self._stands_before(act, brought):
                        self.held.add(one.id)
                        continue
                    self._known["refused_before"] = act.met and json.loads(act.met)["code"]
                    answer = await self._sent(one, made)
                    if _concerns_everything(answer):
                        self.later |= {act.operation.id: answer for act in ready[place:]}
                        return tried, {act.operation.id: act.lacking(made, unborn) for act in waiting}
                    refused.pop(one.id, None)
                    if await self._waits_on(one, answer):
                        continue
                    tried.append(one.id)
                    there = await self._noted(one, answer, made)
                    if answer.status_code == Conflict.status:
                        refused[one.id] = len(made)
                    if there is not None:
                        made[f"@{one.id}"] = there
                        unborn -= pids_in(there.id)
                        if f"@{one.id}" in seen:
                            break  # its correction may come first now
                waiting = [act for act in waiting if act.operation.id in refused or act.operation.id not in done]
        return tried, {
            act.operation.id: act.lacking(made, unborn) for act in waiting if act.operation.id not in refused
        }

    def _stands_before(self, act: Act, brought: Container[UUID]) -> bool:
        """Whether another act has met the same refusal in this call. A refusal names its locks. One for want of a role
        does not say at which site, so an act that was sent again is tried all the same."""
        if act.met is None or act.met not in self._standing:
            return False
        return act.operation.id not in brought or "locks" in json.loads(act.met)

    async def _waits_on(self, one: Operation, answer: httpx.Response) -> bool:
        """Whether an act cannot be done just now; this affects only acts that refer to it. Where a person has to act
        first, the reason is kept: people look for it, and later calls try one act for each reason."""
        if answer.is_server_error or "Retry-After" in answer.headers:
            self.later[one.id] = answer
            return True
        if result_of(answer.status_code) != "blocked":
            return False
        self.later[one.id] = answer
        self.held.add(one.id)
        self._standing.add(refusal(answer.json()))
        await run_in_threadpool(self.shelf.note, one.id, None, answer.json(), SyncState.waiting)
        return True

    async def bound(self, brought: Mapping[UUID, SyncState | None], lacking: Mapping[UUID, Set[str]]) -> None:
        """Refuse the last of the acts that this call brought and that have to wait, where they are more than may.
        Whatever can be done, and so all that others wait for, was done before."""
        waiting = lacking.keys() | self.held
        surplus = len(waiting) - MOST_WAITING
        if surplus <= 0 or not all(lacking.values()):  # some could have been done, were the registry well
            return
        anew = [one for one, before in brought.items() if before != SyncState.waiting and one in waiting]
        await self._refuse(anew[-surplus:], TooManyActsWait())

    async def _refuse(self, acts: Iterable[UUID], why: Conflict) -> None:
        for one in acts:
            await run_in_threadpool(self.shelf.note, one, None, document(why, "/v1/sync"))

    async def _noted(self, one: Operation, answer: httpx.Response, made: Mapping[str, ActMade]) -> ActMade | None:
        """What an act has made, once it is kept what became of it."""
        there, problem = _read(one, answer, made)
        await run_in_threadpool(self.shelf.note, one.id, there, problem)
        if answer.headers.get("Idempotent-Replayed") == "true":
            self.replayed.add(one.id)
        return there

    def _unborn(self, waiting: Iterable[Act]) -> set[str]:
        """The reserved pids that acts refer to and that nobody is enrolled under yet."""
        referred = {symbols for act in waiting for symbols in act.pids}
        if not referred:
            return set()
        with self.shelf.database.read(self._request) as session:
            return pid_reservations.unborn(session, self._actor, referred)

    async def _sent(self, one: Operation, made: Mapping[str, ActMade]) -> httpx.Response:
        headers = {"Authorization": self._authorization, "Idempotency-Key": str(one.id)}
        headers["X-Request-Id"] = current_request_id() or str(one.id)  # in the trail it is one request
        if one.if_match is not None:
            headers["If-Match"] = (made[one.if_match.lower()].etag or "") if is_name(one.if_match) else one.if_match
        body = filled(one.body, made)
        return await self._http.request(one.method, path_of(one.path, made), json=body, headers=headers)


def _turn(ready: Sequence[Act], refused: Mapping[UUID, int], stored: int) -> list[Act]:
    """The acts to do next, first those that correct the version that an act left, before others leave another; then
    whatever is new, doses after the vital signs of their day, which may hold them; then what was refused for the state
    of a record when less was `stored`; and last those that close a session, as nothing can be added to it
    afterwards."""

    def rank(act: Act) -> int:
        if act.closes:
            return 4
        if act.operation.id in refused:
            return 3
        return 0 if act.corrects else 2 if act.doses else 1

    able = [act for act in ready if refused.get(act.operation.id, -1) < stored]
    first = min(map(rank, able), default=0)
    return [act for act in able if rank(act) == first]


def _concerns_everything(answer: httpx.Response) -> bool:
    if answer.status_code == DatabaseUnavailable.status:
        return bool(answer.json().get("code") == DatabaseUnavailable.code())
    return answer.status_code in _EVERYTHING


def _read(
    one: Operation, answer: httpx.Response, made: Mapping[str, ActMade]
) -> tuple[ActMade | None, dict[str, Any] | None]:
    """What an act made, or the problem. A correction that differs in nothing from the record counts as done, by
    somebody else (a retry gets the first answer): nobody at this app has seen the version that it left."""
    told = answer.json()
    done = answer.status_code == httpx.codes.PRECONDITION_FAILED and told.get("differing_fields") == []
    if answer.is_success or done:
        location = inner(answer.headers.get("Location") or path_of(one.path, made))
        return _made(one, location, None if done else answer.headers.get("ETag"), told), None
    return None, told


def _made(one: Operation, location: str, etag: str | None, told: Mapping[str, Any]) -> ActMade:
    if one.method == "POST" and (parts := one.path.rpartition("/")[2]) in PARTS:
        location += f"#{_made_of(one, told[parts])}"
    return ActMade(location, etag)


def _made_of(one: Operation, parts: Sequence[Mapping[str, Any]]) -> str:
    """The id of the dose or reading that an act made: of all in its session the one most like what was sent, and of
    equal ones the newest."""

    def likeness(part: Mapping[str, Any]) -> tuple[int, str]:
        return sum(part.get(name) == value for name, value in one.body.items()), part["created_at"]

    return str(max(parts, key=likeness)["id"])


def result(row: SyncOperation, before: SyncState | None, courier: SyncCourier, lacking: Set[str]) -> SyncResult:
    """The result of an act, as its app is told."""
    problem = json.loads(row.problem) if row.problem and row.state == SyncState.refused else None
    if row.state == SyncState.stored:
        kind = "replayed" if row.id in courier.replayed or before == SyncState.stored else "created"
    elif row.state == SyncState.discarded:
        kind = "discarded"
    elif problem is None:
        kind = "blocked"
    else:
        kind = result_of(problem["status"])
    names = sorted(UUID(name[1:]) for name in lacking if is_name(name))
    pids = sorted(symbols for symbols in lacking if not is_name(symbols))
    told: dict[str, Any] = {"location": row.location and address(row.location), "etag": row.etag, "problem": problem}
    if row.state == SyncState.waiting and (later := courier.later.get(row.id)) is not None:
        told |= {"problem": later.json(), "retry_after": later.headers.get("Retry-After")}
    elif row.state == SyncState.waiting and row.id in courier.held and row.problem:
        told["problem"] = json.loads(row.problem)
    return SyncResult(id=row.id, result=kind, waits_for=names, waits_for_pids=pids, **told)


def not_kept(place: int, one: Operation | Unreadable) -> SyncResult:
    """The result of an operation that cannot be read, or whose id was used for another act."""
    at = ("body", "operations", place)
    if isinstance(one, Unreadable):
        faults = [fault_of({**fault, "loc": (*at, *fault["loc"])}) for fault in one.faults]
        why: RegistryError = OperationMalformed(*faults)
    else:
        why = OperationIdReused(Fault(f"/operations/{place}/id", "reused", "Used for another act"))
    problem = document(why, "/v1/sync")
    kind = result_of(why.status)
    return SyncResult(
        id=one.id, result=kind, waits_for=[], waits_for_pids=[], location=None, etag=None, problem=problem
    )


def settle(request: Request, actor: Actor, shelf: Shelf) -> list[UUID]:
    """Note acts that are not settled here but that single requests have done under their ids; gives these. An act is
    done once, whichever way it came, and is then no longer listed as left to do."""
    asked = {one: Once(request.app.state.keyring, _ANYWHERE, str(one)) for one in shelf.unsettled()}
    if not asked:
        return []
    with shelf.database.read(request) as session:
        answers = answers_of(session, actor, asked.values())
    told = {one: answers[once.digest] for one, once in asked.items() if once.digest in answers}
    settled = []
    for row in shelf.rows(told).values():
        one = shelf.opened(row)
        there = _made_singly(one, told[row.id], actor) if one is not None else None
        if there is not None:
            shelf.note(row.id, there, None)
            settled.append(row.id)
    return settled


def _made_singly(one: Operation, answer: Mapping[str, Any], actor: Actor) -> ActMade | None:
    """What a single request made under the act's id, if the actor may see it. A key may have been used for something
    else by mistake: then the act stays, and nothing is lost."""
    noun, parts, told = "/".join(one.path.split("/")[:3]), one.path.rpartition("/")[2], json.loads(answer["body"])
    seen = answer["site_id"] is None or answer["site_id"] in actor.site_ids
    if not seen or not f"{answer['location']}/".startswith(f"{noun}/") or (parts in PARTS and not told.get(parts)):
        return None
    return _made(one, answer["location"], answer["etag"], told)


_ANYWHERE = ("", "")
"""A key is looked for, whatever was asked under it."""


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
    remember(session, actor, event)


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
        location=row.location and address(row.location),
        problem=json.loads(row.problem) if row.problem else None,
        created_at=row.created_at,
    )
