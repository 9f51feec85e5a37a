"""Group commit: posts that wait at the same time share a transaction, and so its round trips, its lock on the head of
the audit chain and its flush to disk.

No post waits to be grouped. If no similar post is being stored, it is stored at once in its own transaction; posts that
arrive meanwhile go into the next one. Posts are similar if they create the same kind of record and their senders have
access to the same sites, so that the database shows them the same rows. A transaction has at most one post for each
participant, so that each post is checked against what is stored. A post that is refused in a group, and every post of a
transaction that fails, is done again by itself: grouping never changes an answer.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any
from uuid import UUID

import structlog
from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session

from app.access import Actor
from app.database import Database, sqlstate
from app.errors import DatabaseUnavailable, RegistryError
from app.request_id import current_request_id, set_request_id
from app.web.logs import place_of
from app.web.once import AnsweredMeanwhile, Made, Once, answers_of, located
from app.writing import Writes, store

log = structlog.get_logger()
MOST = 50
"""The largest number of posts in a transaction, so that the first of them does not wait long for the last."""

PATIENCE_SECONDS = 0.1
"""After this time the next transaction starts, even if the one before still waits for a row or for the disk."""

LOCK_MILLISECONDS = 100
"""How long a shared transaction waits for a row that another transaction has locked. After that its posts are done one
by one, so that only the post that needs the row goes on waiting."""

Record = Callable[[Actor, Any], Made]
"""Decides on one body, sent by any actor with access to the same sites; gives the record and its writes."""

Recorder = Callable[[Request, Session, Actor, Sequence[Any]], Record]
"""Reads the stored data against which these bodies are checked, in the same few statements for one as for many."""


@dataclass(eq=False)
class Post:
    """A request to create a record of a participant, whom the body names."""

    request: Request
    actor: Actor
    once: Once
    body: Any
    recorder: Recorder
    request_id: str | None = field(default_factory=current_request_id)

    @property
    def alike(self) -> Hashable:
        return self.recorder, frozenset(self.actor.site_ids), self.actor.clinical_sites

    @property
    def key(self) -> tuple[UUID, str]:
        return self.actor.account_id, self.once.digest


Outcome = Response | Exception | None
"""The answer to a post, or the error that answers it; None: it still has to be done by itself."""

Line = list[tuple[Post, asyncio.Future[Outcome]]]


class GroupCommit:
    """The posts of one worker process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lines: dict[Hashable, Line] = {}
        """Posts that wait while a transaction of similar posts is under way."""

        self._running: set[asyncio.Task[None]] = set()

    async def create(self, request: Request, actor: Actor, once: Once, body: Any, recorder: Recorder) -> Response:
        """Create the record that `recorder` makes of the body, and answer as `Once.create` does."""
        post = Post(request, actor, once, body, recorder)
        if post.once.dry_run:
            return await run_in_threadpool(self._alone, post)
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Outcome] = loop.create_future()
        alike = loop, post.alike  # a future can be resolved only in its own event loop
        if alike in self._lines:
            self._lines[alike].append((post, outcome))
        else:
            self._lines[alike] = [(post, outcome)]
            self._run(self._serve(alike))
        answer = await outcome
        if isinstance(answer, Exception):
            raise answer
        return answer if answer is not None else await run_in_threadpool(self._alone, post)

    def _run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a task, and keep a reference to it: the event loop has only a weak one."""
        self._running.add(task := asyncio.create_task(work))
        task.add_done_callback(self._running.discard)
        return task

    async def _serve(self, alike: Hashable) -> None:
        """Run one transaction after the other until no similar post waits. This task has the context variables of the
        first post, so the request id of each post is set (`set_request_id`) before the post is done."""
        while self._lines[alike]:
            turn, self._lines[alike] = _turn(self._lines[alike])
            await asyncio.wait([self._run(self._serve_turn(turn))], timeout=PATIENCE_SECONDS)
        del self._lines[alike]

    async def _serve_turn(self, turn: Line) -> None:
        try:
            outcomes = await run_in_threadpool(self._outcomes, [post for post, _ in turn])
        except Exception as error:  # no thread could be started: answer all of them with the error
            outcomes = [error] * len(turn)
        for (_, waits), outcome in zip(turn, outcomes, strict=True):
            if not waits.done():  # else the client has disconnected
                waits.set_result(outcome)

    def _outcomes(self, posts: Sequence[Post]) -> Sequence[Outcome]:
        try:
            return self._shared(posts) if len(posts) > 1 else [self._alone(posts[0])]
        except Exception as error:
            if len(posts) == 1 or _unreachable(error):
                return [error] * len(posts)
            _note(error)
            return [None] * len(posts)

    def _shared(self, posts: Sequence[Post]) -> list[Response | None]:
        """Raises AnsweredMeanwhile, DatabaseUnavailable and what the database raises."""
        first, writes = posts[0], Writes()
        answers: list[Response | None] = []
        with self._database.write(first.request, lock_milliseconds=LOCK_MILLISECONDS) as session:
            answered = _answered(session, posts)
            new = [post.body for post in posts if post.key not in answered]
            record = first.recorder(first.request, session, first.actor, new)
            for post in posts:
                set_request_id(post.request_id)
                try:
                    make = partial(record, post.actor, post.body)
                    answers.append(
                        located(post.once.collect(writes, post.actor, post.body, answered.get(post.key), make))
                    )
                except DatabaseUnavailable:
                    raise
                except RegistryError:
                    answers.append(None)
            if not store(session, writes):
                raise AnsweredMeanwhile
        return answers

    def _alone(self, post: Post) -> Response:
        set_request_id(post.request_id)
        with self._database.write(post.request) as session:
            return post.once.create(session, post.actor, post.body, lambda: _made(session, post))


def _turn(line: Line) -> tuple[Line, Line]:
    """The posts of the next transaction, and those that wait for a later one."""
    turn: Line = []
    later: Line = []
    seen: set[str] = set()
    for post, outcome in line:
        has_room = len(turn) < MOST and post.body.participant not in seen
        (turn if has_room else later).append((post, outcome))
        seen.add(post.body.participant)
    return turn, later


def _unreachable(error: Exception) -> bool:
    """Whether no connection was free, or it was lost. The posts are then not tried one by one: each would wait as long
    again."""
    lost = isinstance(error, OperationalError) and sqlstate(error) is None
    return lost or isinstance(error, DatabaseUnavailable | PoolTimeout)


def _note(error: Exception) -> None:
    """Log a defect that only occurs when posts share a transaction; nothing else would show it."""
    if isinstance(error, SQLAlchemyError):
        log.info("shared_transaction_failed", kind=type(error).__name__, sqlstate=sqlstate(error))
    elif not isinstance(error, AnsweredMeanwhile):
        log.error("shared_transaction_failed", kind=type(error).__name__, place=place_of(error))


def _answered(session: Session, posts: Sequence[Post]) -> dict[tuple[UUID, str], Mapping[str, Any]]:
    """The stored answers to earlier requests with the same keys."""
    actors = {post.actor.account_id: post.actor for post in posts}
    return {
        (account_id, digest): row
        for account_id, actor in actors.items()
        for digest, row in answers_of(
            session, actor, (post.once for post in posts if post.actor.account_id == account_id)
        ).items()
    }


def _made(session: Session, post: Post) -> Made:
    return post.recorder(post.request, session, post.actor, [post.body])(post.actor, post.body)


async def _group_commit(request: Request) -> GroupCommit:
    group_commit: GroupCommit = request.app.state.group_commit
    return group_commit


SharedWrite = Annotated[GroupCommit, Depends(_group_commit)]
"""For routes that store through `GroupCommit` instead of a session of their own."""
