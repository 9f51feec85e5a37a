"""Many records in one request, each by the rules of the single post and under a key of its own.

Lines share a transaction, with a savepoint each: a line that is refused costs only itself, and what is answered is
committed. When the shared transaction fails, its lines are tried one by one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlmodel import Session

from app.access import Actor
from app.database import Database
from app.errors import Conflict, DatabaseUnavailable, Fault, Malformed, RegistryError, ValidationFailed
from app.web.lines import Line, value_of
from app.web.once import Made, Once, require_key
from app.web.problems import ConstraintBroken, document, fault_of, refusal_of

BATCH = 50
"""Lines of one transaction: enough to share the disk's time, few enough not to keep others waiting."""

_CONFLICT, _BLOCKED = frozenset({409, 412}), frozenset({403, 423, 500, 503, 507})


class LineMalformed(Malformed):
    """A line is an object with `key`, an idempotency key of its own, and `record`, the body of the single post."""


class BatchRefused(Conflict):
    """Nothing was stored, since another line of this request was refused and it asked for all or nothing."""


@dataclass(frozen=True)
class Noun:
    """What the lines are: the path and the shape of the single post, and what it does."""

    path: str
    shape: type[BaseModel]
    make: Callable[[Request, Session, Actor, Any], Made]


class Upload:
    """The lines of one request."""

    def __init__(self, request: Request, noun: Noun, *, dry_run: bool) -> None:
        self._request, self._noun, self._dry_run = request, noun, dry_run
        self._database: Database = request.app.state.database
        self._shape: TypeAdapter[Any] = TypeAdapter(noun.shape)
        self._noted: list[RegistryError] = []
        self.broken = False
        """The database is away: nothing after this line was tried."""

    def store(self, lines: Sequence[Line]) -> list[dict[str, Any]]:
        """The results of these lines, which are committed."""
        results: list[dict[str, Any]] = []
        try:
            with self._database.write(self._request) as session:
                results = [self._one(session, line) for line in lines]
                if self._dry_run:
                    session.rollback()
        except (SQLAlchemyError, DatabaseUnavailable) as error:
            results = self._one_by_one(lines, error)
        self._remember_refusals()
        return results

    def _remember_refusals(self) -> None:
        """Refused attempts go into the trail after the transaction, as those of single posts do."""
        for error in self._noted:
            self._request.app.state.refusals(self._request, error)
        self._noted.clear()

    def _one_by_one(self, lines: Sequence[Line], error: SQLAlchemyError | DatabaseUnavailable) -> list[dict[str, Any]]:
        if len(lines) == 1:
            self.broken = True
            refusal = error if isinstance(error, DatabaseUnavailable) else refusal_of(error)
            return [self.refused(lines[0], refusal)]
        results: list[dict[str, Any]] = []
        for line in lines:
            results += self.store([line])
            if self.broken:
                break
        return results

    def store_all(self, lines: Sequence[Line]) -> tuple[list[dict[str, Any]], bool]:
        """All lines or none; whether they are stored. Raises DatabaseUnavailable and what the database raises."""
        with self._database.write(self._request) as session:
            results = [self._one(session, line) for line in lines]
            whole = not any("problem" in result for result in results)
            if self._dry_run or not whole:
                session.rollback()
        self._remember_refusals()
        if whole or self._dry_run:
            return results, True
        told = zip(lines, results, strict=True)
        return [one if "problem" in one else self.refused(line, BatchRefused()) for line, one in told], False

    def _one(self, session: Session, line: Line) -> dict[str, Any]:
        try:
            with session.begin_nested():
                key, body = self._read(line)
                once = Once(self._request.app.state.keyring, ("POST", self._noun.path), key)
                actor: Actor = self._request.state.actor
                told = once.tell(session, actor, body, lambda: self._noun.make(self._request, session, actor, body))
        except IntegrityError:
            return self.refused(line, ConstraintBroken())
        except RegistryError as error:
            if isinstance(error, DatabaseUnavailable):
                raise
            return self.refused(line, error)
        if self._dry_run:
            return {"line": line.number, "result": "replayed" if told.replayed else "valid"}
        result = {"line": line.number, "result": "replayed" if told.replayed else "created", "status": told.status}
        return {**result, "location": told.location, "etag": told.etag}

    def _read(self, line: Line) -> tuple[str, BaseModel]:
        """Raises BodyTooLarge, MalformedJson, LineMalformed, IdempotencyKeyMissing, ValidationFailed."""
        value = value_of(line)
        if not isinstance(value, dict) or value.keys() != {"key", "record"}:
            raise LineMalformed(Fault("", "line_malformed", "Needs key and record, and nothing else"))
        key = require_key(value["key"])
        try:
            return key, self._shape.validate_python(value["record"], from_attributes=True)
        except ValidationError as error:
            faults = [fault_of({**item, "loc": ("body", *item["loc"])}) for item in error.errors(include_input=False)]
            raise ValidationFailed(*faults) from None

    def refused(self, line: Line, error: RegistryError) -> dict[str, Any]:
        result = "conflict" if error.status in _CONFLICT else "blocked" if error.status in _BLOCKED else "invalid"
        self._noted.append(error)
        problem = document(error, self._noun.path)
        return {"line": line.number, "result": result, "status": error.status, "problem": problem}
