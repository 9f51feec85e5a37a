"""Refused attempts of known actors in the audit trail, in a transaction of their own and never too many."""

import threading
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog
from fastapi import Request
from sqlalchemy.exc import SQLAlchemyError

from app import audit
from app.access import Actor
from app.database import Database
from app.errors import Forbidden, NotFound, RegistryError
from app.privacy.vault import LabelAlreadyEnrolled
from app.request_id import current_request_id
from app.services.trail.registry_chain import remember
from app.web.problems import template_of

log = structlog.get_logger()
PER_MINUTE = 10
"""Entries of one actor in a minute, in each worker."""

_MINUTE_SECONDS, _ACTORS = 60.0, 4096
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass
class _Minute:
    started: float
    kept: int = 0
    left_out: int = 0


class Refusals:
    """Remembers 403 on anything, 404 on a write, and 409 of a label that is enrolled; of an act that an app sends again
    by sync, the first that is refused so. Called after the answer has left, so that it can change neither the answer
    nor its time; of an upload's lines before it leaves, once their transaction is over. A foreign record and an absent
    one stay alike: both are 404, and remembered or not for the same reasons."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._minutes: dict[UUID, _Minute] = {}
        self._lock = threading.Lock()

    def __call__(self, request: Request, error: RegistryError) -> None:
        actor: Actor | None = getattr(request.state, "actor", None)
        again = getattr(request.state, "refused_before", None) == error.code()
        if actor is None or again or not _remembered(request, error):
            return
        left_out = self._room_for(actor.account_id)
        if left_out is None:
            return
        facts = {"code": error.code(), "method": request.method, "route": template_of(request)}
        noted: list[dict[str, Any]] = [{"field": name, "old": None, "new": value} for name, value in facts.items()]
        if left_out:
            noted.insert(1, {"field": "left_out", "old": None, "new": left_out})
        event = audit.Event("request:refused", "account", str(actor.account_id), 0, noted)
        try:
            with self._database.write() as session:
                remember(session, actor, event)
        except (RegistryError, SQLAlchemyError) as failed:
            self._put_back(actor.account_id, left_out + 1)
            log.warning("refusal_not_remembered", kind=type(failed).__name__, request_id=current_request_id())

    def _room_for(self, account_id: UUID) -> int | None:
        """How many were left out since the last entry; None when this one is left out too."""
        at = time.monotonic()
        with self._lock:
            minute = self._minutes.get(account_id)
            if minute is None:
                self._forget_old(at)
                minute = self._minutes[account_id] = _Minute(at)
            if at - minute.started >= _MINUTE_SECONDS:
                minute.started, minute.kept = at, 0
            if minute.kept >= PER_MINUTE:
                minute.left_out += 1
                return None
            minute.kept += 1
            left_out, minute.left_out = minute.left_out, 0
            return left_out

    def _put_back(self, account_id: UUID, count: int) -> None:
        with self._lock:
            self._minutes.setdefault(account_id, _Minute(time.monotonic())).left_out += count

    def _forget_old(self, at: float) -> None:
        if len(self._minutes) >= _ACTORS:
            self._minutes = {
                account_id: minute
                for account_id, minute in self._minutes.items()
                if at - minute.started < _MINUTE_SECONDS or minute.left_out
            }


def _remembered(request: Request, error: RegistryError) -> bool:
    """Whether a refusal is remembered: a 403 on anything, a 404 on a write, and a label that is enrolled already, as
    that refusal reveals what a look into the vault would."""
    always = isinstance(error, Forbidden | LabelAlreadyEnrolled)
    return always or (isinstance(error, NotFound) and request.method not in _READING)
