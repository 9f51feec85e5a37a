"""Many records in one request, each by the rules of the single post and under a key of its own.

Lines share a transaction, so many at a time, or all of an atomic upload: what they are held against is read at once,
and what they come to stored at once, as whoever waits for a participant must not hold the chain's head yet. A line that
is refused costs only itself, and what is answered is committed. When the shared transaction fails, its lines are tried
one by one.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from fastapi import Request
from pydantic import BaseModel, TypeAdapter
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlmodel import Session

from app.access import Actor
from app.database import Database
from app.errors import Conflict, DatabaseUnavailable, Fault, Malformed, RegistryError
from app.security.keys import Keyring
from app.web.group_commit import Recorder
from app.web.lines import Line, value_of
from app.web.once import AnsweredMeanwhile, IdempotencyKeyInFlight, Made, Once, Reply, answers_of, require_key
from app.web.problems import body_validated, document, refusal_of, result_of
from app.writing import Writes, store

BATCH = 250
"""Lines of one transaction: enough to share journeys and the disk's time, few enough not to keep others waiting."""


class LineMalformed(Malformed):
    """A line must be an object with `key`, its own idempotency key, and `record`, the body of the single POST."""


class BatchRefused(Conflict):
    """Nothing was stored, since another line of this request was refused and it asked for all or nothing."""


@dataclass(frozen=True)
class Noun:
    """What the lines are: the path and the shape of the single post, and what it does with some bodies."""

    path: str
    shape: type[BaseModel]
    recorder: Recorder
    stores_itself: bool = False
    """Its recorder writes while it decides, so each line needs a savepoint."""


Failure = SQLAlchemyError | DatabaseUnavailable | IdempotencyKeyInFlight
"""Why a transaction stored nothing."""


def _all_well(results: Sequence[Mapping[str, Any]]) -> bool:
    return not any("problem" in result for result in results)


class Task(NamedTuple):
    """A line that could be read."""

    line: Line
    once: Once
    body: BaseModel


class Upload:
    """The lines of one request."""

    def __init__(self, request: Request, noun: Noun, *, dry_run: bool) -> None:
        self._request, self._noun, self._dry_run = request, noun, dry_run
        self._database: Database = request.app.state.database
        self._keyring: Keyring = request.app.state.keyring
        self._shape: TypeAdapter[Any] = TypeAdapter(noun.shape)
        self._noted: list[RegistryError] = []
        self.broken = False
        """The database is away: nothing after this line was tried."""

    def store(self, lines: Sequence[Line]) -> list[dict[str, Any]]:
        """The results of these lines, which are committed."""
        try:
            results = self._decided(lines)
        except (SQLAlchemyError, DatabaseUnavailable, IdempotencyKeyInFlight) as error:
            self._noted.clear()
            results = self._one_by_one(lines, error)
        self._remember_refusals()
        return results

    def store_all(self, lines: Sequence[Line]) -> tuple[list[dict[str, Any]], bool]:
        """All lines or none; whether they are stored. Raises IdempotencyKeyInFlight, DatabaseUnavailable and what the
        database raises."""
        results = self._decided(lines, whole=True)
        self._remember_refusals()
        if self._dry_run or _all_well(results):
            return results, True
        pairs = zip(lines, results, strict=True)
        return [one if "problem" in one else self.refused(line, BatchRefused()) for line, one in pairs], False

    def _decided(self, lines: Sequence[Line], *, whole: bool = False) -> list[dict[str, Any]]:
        """The results of one transaction. When somebody else stored the same meanwhile, of a second one: it sees that,
        and replays it or refuses it by its name. Raises IdempotencyKeyInFlight, DatabaseUnavailable and what the
        database raises."""
        try:
            return self._attempt(lines, whole)
        except (AnsweredMeanwhile, IntegrityError):
            self._noted.clear()
        try:
            return self._attempt(lines, whole)
        except AnsweredMeanwhile:
            raise IdempotencyKeyInFlight(headers={"Retry-After": "1"}) from None

    def _attempt(self, lines: Sequence[Line], whole: bool) -> list[dict[str, Any]]:
        with self._database.write(self._request) as session:
            results = self._stored(session, lines)
            if self._dry_run or (whole and not _all_well(results)):
                session.rollback()
        return results

    def _remember_refusals(self) -> None:
        """Refused attempts go into the trail after the transaction, as those of single posts do."""
        for error in self._noted:
            self._request.app.state.refusals(self._request, error)
        self._noted.clear()

    def _one_by_one(self, lines: Sequence[Line], error: Failure) -> list[dict[str, Any]]:
        if len(lines) == 1:
            return [self._alone(lines[0], error)]
        results: list[dict[str, Any]] = []
        for line in lines:
            results += self.store([line])
            if self.broken:
                break
        return results

    def _alone(self, line: Line, error: Failure) -> dict[str, Any]:
        """What became of a line that failed by itself."""
        self.broken = not isinstance(error, IntegrityError | IdempotencyKeyInFlight)
        return self.refused(line, error)

    def _stored(self, session: Session, lines: Sequence[Line]) -> list[dict[str, Any]]:
        """The results of lines that share a transaction. Raises DatabaseUnavailable, AnsweredMeanwhile, and what the
        database raises."""
        actor: Actor = self._request.state.actor
        read = [self._task(line) for line in lines]
        tasks = [one for one in read if isinstance(one, Task)]
        answered = answers_of(session, actor, (task.once for task in tasks))
        new = [task.body for task in tasks if task.once.digest not in answered]
        record, writes = self._noun.recorder(self._request, session, actor, new), Writes()

        def made(body: BaseModel) -> Made:
            with session.begin_nested() if self._noun.stores_itself else nullcontext():
                return record(actor, body)

        results: list[dict[str, Any]] = []
        refused: list[Once] = []
        for one in read:
            if not isinstance(one, Task):
                results.append(one)
                continue
            try:
                earlier = answered.get(one.once.digest)
                reply = one.once.collect(writes, actor, one.body, earlier, partial(made, one.body))
                if not reply.replayed:
                    answered[one.once.digest] = writes.answers[-1]
                results.append(self._reply(one.line, reply))
            except DatabaseUnavailable:
                raise
            except (IntegrityError, RegistryError) as error:
                results.append(self.refused(one.line, error))
                if one.once.digest not in answered:
                    refused.append(one.once)
        if refused and answers_of(session, actor, refused):
            raise AnsweredMeanwhile  # which may be the very reason of a refusal
        if not store(session, writes):
            raise AnsweredMeanwhile
        return results

    def _reply(self, line: Line, reply: Reply) -> dict[str, Any]:
        if self._dry_run and not reply.replayed:
            return {"line": line.number, "result": "valid"}
        return {
            "line": line.number,
            "result": "replayed" if reply.replayed else "created",
            "status": reply.status,
            "location": reply.location,
            "etag": reply.etag,
        }

    def _task(self, line: Line) -> Task | dict[str, Any]:
        """The line as it is to be done, or its refusal."""
        try:
            key, body = self._read(line)
        except RegistryError as error:
            return self.refused(line, error)
        return Task(line, Once(self._keyring, ("POST", self._noun.path), key), body)

    def _read(self, line: Line) -> tuple[str, BaseModel]:
        """Raises BodyTooLarge, MalformedJson, LineMalformed, IdempotencyKeyMissing, ValidationFailed."""
        value = value_of(line)
        if not isinstance(value, dict) or value.keys() != {"key", "record"}:
            raise LineMalformed(Fault("", "line_malformed", "Needs key and record, and nothing else"))
        key = require_key(value["key"])
        with body_validated():
            return key, self._shape.validate_python(value["record"], from_attributes=True)

    def refused(self, line: Line, error: RegistryError | SQLAlchemyError) -> dict[str, Any]:
        refusal = error if isinstance(error, RegistryError) else refusal_of(error)
        self._noted.append(refusal)
        problem = document(refusal, self._noun.path)
        result = result_of(refusal.status)
        return {"line": line.number, "result": result, "status": refusal.status, "problem": problem}
