"""The check before every write of clinical data: frozen and locked data do not change, also when both happen at once.

A write takes the site's advisory lock (the gate) shared until its commit; a freeze or lock takes it exclusively. So a
write that began before a lock is committed before the lock is acknowledged, and one that begins after it sees it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import FromClause, Row, func, or_
from sqlmodel import Session

from app.errors import Conflict, Locked
from app.models.among import among, several
from app.models.base import table_of
from app.models.data_lock import DataLock, LockKind, LockScope

_LOCKS = table_of(DataLock)


class DataLocked(Locked):
    """These data are frozen or locked; `locks` names what holds them. A monitor can lift it, with a reason."""


class RecordVoided(Conflict):
    """This record was voided as entered in error, and stays as it is; what is right is recorded anew."""


def require_not_voided(row: Any) -> None:
    """Raises RecordVoided. Call it once the record's row is locked."""
    if row.voided_at is not None:
        raise RecordVoided


class Closed(NamedTuple):
    """The columns of a freeze or lock that say which data it covers."""

    id: UUID
    kind: str
    scope: str
    visit_id: UUID | None
    visit_code: str | None
    set_at: datetime


def require_unlocked(
    session: Session,
    site_id: int,
    pid: str | None,
    visit_id: UUID | None = None,
    visit_code: str | None = None,
    *,
    through_freeze: bool = False,
) -> None:
    """Raises DataLocked when a freeze or lock covers what is about to be written. Call it in the transaction of the
    write, once its records are loaded and before the first change. `pid` is None for somebody not enrolled yet."""
    require_open(_in_force(session, site_id, pid), visit_id, visit_code, through_freeze=through_freeze)


def require_open(
    closed: Iterable[Any], visit_id: UUID | None, visit_code: str | None, *, through_freeze: bool = False
) -> None:
    """The same, given the freezes and locks of the participant. A write that starts the clock of a serious event passes
    `through_freeze`: data cleaning must not delay the 24 hours (Regulation (EU) 536/2014, article 41(2))."""
    holding = [one for one in closed if _covers(one, visit_id, visit_code)]
    if through_freeze:
        holding = [one for one in holding if one.kind != LockKind.freeze]
    if holding:
        raise DataLocked(locks=[{"id": str(one.id), "kind": one.kind, "scope": one.scope} for one in _ordered(holding)])


def closing(dialect: str) -> FromClause:
    """The freezes and locks in force at the sites given as `sites`: those of a whole site, without a pid, and those of
    the participants given as `pids`. On PostgreSQL a function takes the gate and then reads: a plain SELECT that had to
    wait for the gate would still see the data from before the wait."""
    if dialect == "postgresql":
        named = (sa.column(column.name, column.type) for column in _LOCKS.c)
        asked = several("sites", _LOCKS.c.site_id.type), several("pids", _LOCKS.c.pid.type)
        return func.locks_in_force(*asked).table_valued(*named)
    theirs = or_(_LOCKS.c.pid.is_(None), among(_LOCKS.c.pid, "pids"))
    return sa.select(_LOCKS).where(among(_LOCKS.c.site_id, "sites"), _LOCKS.c.lifted_at.is_(None), theirs).subquery()


def _in_force(session: Session, site_id: int, pid: str | None) -> Sequence[Row[Any]]:
    """The freezes and locks of one participant, or without a pid of the whole site."""
    asked = {"sites": [site_id], "pids": [pid] if pid is not None else []}
    return session.execute(_closed(session.get_bind().dialect.name), asked).all()


@cache
def _closed(dialect: str) -> sa.Select[Any]:
    return sa.select(*closing(dialect).c)


def _covers(lock: Any, visit_id: UUID | None, visit_code: str | None) -> bool:
    match LockScope(lock.scope):
        case LockScope.visit:
            return bool(lock.visit_id == visit_id)
        case LockScope.visit_code:
            return bool(lock.visit_code == visit_code)
        case LockScope.participant | LockScope.site | LockScope.study:
            return True


def _ordered(locks: Iterable[Any]) -> list[Any]:
    return sorted(locks, key=lambda lock: (lock.kind != LockKind.lock, lock.set_at, lock.id))
