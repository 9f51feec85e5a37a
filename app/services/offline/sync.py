"""Sync: the acts of an app that was offline, carried out in the order sent as far as possible.

Each act is sent through the very route that it names, as the caller, with its id as idempotency key: every rule,
refusal and audit entry is that of the single request. `sync_shelf` keeps the acts, `sync_backlog` says which comes
next, and this module sends them and notes what became of them.
"""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import httpx
import sqlalchemy as sa
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from sqlmodel import Session

from app import audit
from app.access import Actor, Rows, found
from app.errors import Conflict, DatabaseUnavailable
from app.models.base import columns, now
from app.models.sync import Operation, SyncOperation, SyncResolution, SyncState
from app.request_id import current_request_id
from app.services.offline.sync_backlog import Backlog
from app.services.offline.sync_shelf import PARTS, Act, ActMade, Shelf, filled, is_name, path_of, refusal
from app.services.participation import pid_reservations
from app.services.trail.registry_chain import remember
from app.web.once import Once, answers_of
from app.web.prefix import inner
from app.web.problems import document, result_of
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


class Wait(NamedTuple):
    """Why an act waits that lacks nothing."""

    problem: Any
    retry_after: int | None = None
    """Seconds."""

    for_somebody: bool = False
    """Whether a person has to lift a lock or give a role first. Otherwise the registry cannot do it just now, and
    nothing is wrong with the act."""


class SyncCourier:
    """Carries out what waits for one caller, in one call; knows afterwards what became of it."""

    def __init__(self, request: Request, actor: Actor) -> None:
        self._request, self._actor, self._authorization = request, actor, request.headers["authorization"]
        self.shelf = Shelf(request.app.state.database, request.app.state.keyring, actor.account_id)
        client = (request.client.host if request.client else "unknown", 0)
        self._known: dict[str, Any] = {}
        app = uncounted(request.app, self._known)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False, client=client)
        self._http = httpx.AsyncClient(transport=transport, base_url="http://registry")
        self.tried: list[UUID] = []
        """The acts that were stored or refused, in that order."""

        self.replayed: set[UUID] = set()
        """Those of them that had been done before."""

        self.waits: dict[UUID, Wait] = {}
        self.lacking: dict[UUID, set[str]] = {}
        """The names and pids that each act still needs of those that were not tried."""

        self._obstacles: set[str] = set()
        """Refusals of this call that last until somebody lifts a lock or gives a role."""

        self._interrupted = False
        """Whether the call ended before all was done that can be done."""

    def settle(self) -> list[UUID]:
        """Note the acts that single requests have done meanwhile, and give them."""
        settled = settle(self._request, self._actor, self.shelf)
        self.replayed.update(settled)
        return settled

    async def deliver(self, brought: Container[UUID] = ()) -> None:
        """Carry out what this call `brought` and what waits from earlier ones, until nothing more can be done."""
        backlog = await self._backlog()
        async with self._http:
            while not self._interrupted and (turn := backlog.turn()):
                await self._take(turn, backlog, brought)
        self.lacking = backlog.lacking()

    async def _backlog(self) -> Backlog:
        """What waits. What refers to a discarded act is refused."""
        waiting, made, discarded = await run_in_threadpool(self.shelf.waiting)
        possible = [act for act in waiting if not act.names & discarded]
        impossible = [act.id for act in waiting if act.names & discarded]
        await self._refuse(impossible, ReferenceDiscarded())
        self.tried += impossible
        return Backlog(possible, made, await run_in_threadpool(self._unborn, possible))

    async def _take(self, turn: Sequence[Act], backlog: Backlog, brought: Container[UUID]) -> None:
        """Try the acts of a turn. It ends early if no act can be done just now, or if a correction may come first."""
        for place, act in enumerate(turn):
            if self._stands_behind_another(act, brought):
                self._put_off(act, Wait(act.problem, for_somebody=True), backlog)
                continue
            self._known["refused_before"] = act.problem and act.problem["code"]
            answer = await self._sent(act.operation, backlog.made)
            if _concerns_everything(answer):
                self._interrupted = True
                for one in turn[place:]:
                    self._put_off(one, _wait(answer), backlog)
                return
            if _cannot_be_done_now(answer):
                self._put_off(act, _wait(answer), backlog)
            elif result_of(answer.status_code) == "blocked":
                await self._block(act, answer, backlog)
            else:
                await self._settled_by(answer, act, backlog)
                if backlog.may_be_corrected(act):
                    return

    def _stands_behind_another(self, act: Act, brought: Container[UUID]) -> bool:
        """Whether another act met the same refusal in this call. A refusal names its locks. One for want of a role
        does not say at which site, so an act that was sent again is tried all the same."""
        if act.problem is None or act.obstacle not in self._obstacles:
            return False
        return act.id not in brought or "locks" in act.problem

    def _put_off(self, act: Act, wait: Wait, backlog: Backlog) -> None:
        """Leave an act for the next call. This affects only those that refer to it."""
        self.waits[act.id] = wait
        backlog.drop(act)

    async def _block(self, act: Act, answer: httpx.Response, backlog: Backlog) -> None:
        """Put off an act until a person has acted. The reason is kept: people look for it, and later calls try one act
        for each reason."""
        problem = answer.json()
        self._obstacles.add(refusal(problem))
        await run_in_threadpool(self.shelf.note, act.id, None, problem, SyncState.waiting)
        self._put_off(act, Wait(problem, for_somebody=True), backlog)

    async def _settled_by(self, answer: httpx.Response, act: Act, backlog: Backlog) -> None:
        """Note what an act made, or why it was refused."""
        made, problem = _read(act.operation, answer, backlog.made)
        await run_in_threadpool(self.shelf.note, act.id, made, problem)
        self.tried.append(act.id)
        if answer.headers.get("Idempotent-Replayed") == "true":
            self.replayed.add(act.id)
        if made is not None:
            backlog.store(act, made)
        elif answer.status_code == Conflict.status:
            backlog.retry(act)
        else:
            backlog.drop(act)

    async def bound(self, brought: Mapping[UUID, SyncState | None]) -> None:
        """Refuse the last of the acts that this call brought and that have to wait, where more wait than may. Whatever
        can be done, and so all that others wait for, was done before."""
        if self._interrupted:  # some could have been done, were the registry well
            return
        waiting = {*self.lacking, *(one for one, wait in self.waits.items() if wait.for_somebody)}
        surplus = len(waiting) - MOST_WAITING
        if surplus > 0:
            anew = [one for one, before in brought.items() if before != SyncState.waiting and one in waiting]
            await self._refuse(anew[-surplus:], TooManyActsWait())

    async def _refuse(self, acts: Iterable[UUID], why: Conflict) -> None:
        for one in acts:
            await run_in_threadpool(self.shelf.note, one, None, document(why, "/v1/sync"))

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


def _concerns_everything(answer: httpx.Response) -> bool:
    if answer.status_code == DatabaseUnavailable.status:
        return bool(answer.json().get("code") == DatabaseUnavailable.code())
    return answer.status_code in _EVERYTHING


def _cannot_be_done_now(answer: httpx.Response) -> bool:
    return answer.is_server_error or "Retry-After" in answer.headers


def _wait(answer: httpx.Response) -> Wait:
    seconds = answer.headers.get("Retry-After")
    return Wait(answer.json(), int(seconds) if seconds else None)


def _read(
    one: Operation, answer: httpx.Response, made: Mapping[str, ActMade]
) -> tuple[ActMade | None, dict[str, Any] | None]:
    """What an act made, or the problem. A correction that differs in nothing from the record counts as done, by
    somebody else (a retry gets the first answer): nobody at this app has seen the version that it left."""
    content = answer.json()
    done = answer.status_code == httpx.codes.PRECONDITION_FAILED and content.get("differing_fields") == []
    if answer.is_success or done:
        location = inner(answer.headers.get("Location") or path_of(one.path, made))
        return _made(one, location, None if done else answer.headers.get("ETag"), content), None
    return None, content


def _made(one: Operation, location: str, etag: str | None, content: Mapping[str, Any]) -> ActMade:
    if one.method == "POST" and (parts := one.path.rpartition("/")[2]) in PARTS:
        location += f"#{_made_of(one, content[parts])}"
    return ActMade(location, etag)


def _made_of(one: Operation, parts: Sequence[Mapping[str, Any]]) -> str:
    """The id of the dose or reading that an act made: of all in its session the one most like what was sent, and of
    equal ones the newest."""

    def likeness(part: Mapping[str, Any]) -> tuple[int, str]:
        return sum(part.get(name) == value for name, value in one.body.items()), part["created_at"]

    return str(max(parts, key=likeness)["id"])


def settle(request: Request, actor: Actor, shelf: Shelf) -> list[UUID]:
    """Note acts that are not settled here but that single requests have done under their ids; gives these. An act is
    done once, whichever way it came, and is then no longer listed as left to do."""
    asked = {one: Once(request.app.state.keyring, _ANYWHERE, str(one)) for one in shelf.unsettled()}
    if not asked:
        return []
    with shelf.database.read(request) as session:
        answers = answers_of(session, actor, asked.values())
    answered = {one: answers[once.digest] for one, once in asked.items() if once.digest in answers}
    settled = []
    for row in shelf.rows(answered).values():
        one = shelf.opened(row)
        there = _made_singly(one, answered[row.id], actor) if one is not None else None
        if there is not None:
            shelf.note(row.id, there, None)
            settled.append(row.id)
    return settled


def _made_singly(one: Operation, answer: Mapping[str, Any], actor: Actor) -> ActMade | None:
    """What a single request made under the act's id, if the actor may see it. A key may have been used for something
    else by mistake: then the act stays, and nothing is lost."""
    noun, parts, content = "/".join(one.path.split("/")[:3]), one.path.rpartition("/")[2], json.loads(answer["body"])
    seen = answer["site_id"] is None or answer["site_id"] in actor.site_ids
    if not seen or not f"{answer['location']}/".startswith(f"{noun}/") or (parts in PARTS and not content.get(parts)):
        return None
    return _made(one, answer["location"], answer["etag"], content)


_ANYWHERE = ("", "")
"""A key is looked for, whatever was asked under it."""


def resolve(session: Session, shelf: Shelf, actor: Actor, operation_id: UUID, body: SyncResolution) -> None:
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
