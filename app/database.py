"""Database sessions, and the only place that commits.

A write is committed in the handler's thread, before its answer is sent (`opened`, called by app/web/route.py). So a 2xx
means durably stored.
"""

import os
import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from enum import IntEnum
from functools import partial
from typing import Annotated, Any, Self

from fastapi import Depends, Request
from sqlalchemy import URL, Connection, Engine, event, func, make_url, select
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import SessionTransaction
from sqlalchemy.pool import NullPool
from sqlmodel import Session

from app.engines import READS, WRITES, at_once, begin, beginning, engine_of
from app.errors import CannotGoOn, RegistryError
from app.settings import Settings

NO_SITE = -1
LOCK_MILLISECONDS = 3_000
"""How long a migration waits for a lock. Later statements on the table wait behind it as long."""

BUILDERS = 2
"""Connections in the pool of a worker's extract builder: one stores, one renews the lease."""

MOMENTS = 2
"""Connections of a worker to PostgreSQL outside of pools: one for an approval and one for a build (`one_moment`).
Simultaneous approvals of several studies take more, and get 503 when PostgreSQL has none left."""

DISK_FULL, LOCKED = "53100", "55P03"
"""SQLSTATEs (PostgreSQL, appendix A)."""

_OF_SQLITE: Mapping[int | None, str] = {
    sqlite3.SQLITE_FULL: DISK_FULL,
    sqlite3.SQLITE_IOERR_SHMSIZE: DISK_FULL,  # no room for the shared memory of its connections
    sqlite3.SQLITE_BUSY: LOCKED,
}

_REQUEST = "registry_request"
_VAULT = "registry_vault"
_WITHIN = "registry_within"
_COMPANION = "registry_companion"
_LAST = "registry_last"
_MOMENTS = "registry_moments"
_PATIENCE = "registry_patience"


class NotDurable(CannotGoOn):
    """The database may forget what it acknowledged; the message says which setting to change."""


class TooManyConnections(CannotGoOn):
    """The workers together would ask for more connections than the database gives."""


class PoolerUnnamed(CannotGoOn):
    """A pooler stands before PostgreSQL, and the settings do not say so."""


class NotApart(CannotGoOn):
    """The vault's address leads to the main database; the message says which setting to change."""


class Database:
    """One database, one pool, and two kinds of session: reading and writing.

    Commands connect as the tables' owner. The server connects as a role that owns nothing (`for_server`): on
    PostgreSQL a role of its own, on SQLite a connection that may change rows and nothing else.
    """

    engine: Engine
    """For connections without a session."""

    of_sessions: Engine
    """The same pool, for sessions. Its events include those of `engine`."""

    vault: "Database | None"
    """The vault, if it is a database of its own. Connections to it are made only when needed."""

    def __init__(self, settings: Settings, *, for_server: bool = False, of_vault: bool = False) -> None:
        served, owner = settings.vault_addresses if of_vault else (settings.database_url, settings.owner_database_url)
        apart = settings.vault_url is not None and not of_vault
        self.vault = Database(settings, for_server=for_server, of_vault=True) if apart else None
        self.url = make_url(served if for_server or owner is None else owner)
        self.server_role = make_url(served).username if owner is not None else None
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        pool = {"pool_size": settings.pool_size, "max_overflow": 0, "pool_timeout": settings.pool_timeout_seconds}
        self.of_sessions = engine_of(settings, self.url, self.is_sqlite, for_server, pool)
        self.engine = beginning(self.of_sessions)
        self._moments = self.of_sessions
        if not self.is_sqlite:
            self._moments = engine_of(settings, self.url, self.is_sqlite, for_server, {"poolclass": NullPool})
        self.pool_size, self._pooled = settings.pool_size, settings.pooler != "none"
        self._reading = self.of_sessions.execution_options(**{READS: True})
        self._writing = self.of_sessions.execution_options(**{WRITES: True})

    @contextmanager
    def read(self, request: Request | None = None) -> Iterator[Session]:
        """A session that only reads. It sees the clinical rows of the request's actor; without an actor, none."""
        info = {_REQUEST: request, _MOMENTS: self._moments}
        with Session(self._reading, expire_on_commit=False, info=info) as session:
            try:
                yield session
            except RegistryError:
                self._end_read(session)
                raise
            self._end_read(session)

    def _end_read(self, session: Session) -> None:
        """End a read by a COMMIT on PostgreSQL. After a ROLLBACK the driver discards all its prepared statements, as
        they may be invalid, and each would be parsed and planned again."""
        if not self.is_sqlite:
            _commit(session)

    @contextmanager
    def write(self, request: Request | None = None, *, lock_milliseconds: int | None = None) -> Iterator[Session]:
        """A session that is committed as a whole when the block ends normally, and rolled back otherwise. What it wrote
        to a vault that is a database of its own is committed just before. `lock_milliseconds` limits on PostgreSQL how
        long it waits for a locked row; otherwise the limit of a statement applies."""
        info = {_REQUEST: request, _VAULT: self.vault, _MOMENTS: self._moments, _PATIENCE: lock_milliseconds}
        with Session(self._writing, expire_on_commit=False, info=info) as session:
            try:
                yield session
                for act in session.info.get(_LAST, ()):
                    act()
                if _COMPANION in session.info:
                    _commit(session.info[_COMPANION])
                _commit(session)
            finally:
                if _COMPANION in session.info:
                    session.info.pop(_COMPANION).close()

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A connection for schema changes, committed as a whole. On PostgreSQL its statements have no time limit, but
        it waits for a lock for LOCK_MILLISECONDS only, as later statements on the table wait behind it."""
        with self.engine.execution_options(**{WRITES: True}).begin() as connection:
            if not self.is_sqlite:
                for timeout, value in (("statement_timeout", "0"), ("lock_timeout", f"{LOCK_MILLISECONDS}")):
                    connection.exec_driver_sql(f"SET LOCAL {timeout} = {value}")
            yield connection

    def require_durable(self) -> None:
        """Raises NotDurable if PostgreSQL acknowledges commits that a power cut could undo."""
        if self.is_sqlite:
            return
        with self.engine.connect() as connection:
            for setting in ("fsync", "synchronous_commit"):
                if connection.exec_driver_sql(f"SHOW {setting}").scalar() == "off":
                    raise NotDurable(f"PostgreSQL runs with {setting} = off. Turn it on: a 2xx means durably stored.")

    def require_own_sessions(self) -> None:
        """Raises PoolerUnnamed if a pooler stands before PostgreSQL and the settings do not say so: then statements
        that another worker prepared would be run under the names of one's own, and none would have a limit of time. A
        pooler tells its clients other process numbers than PostgreSQL's."""
        if self.is_sqlite or self._pooled:
            return
        with self.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            if driver.info.backend_pid != connection.exec_driver_sql("SELECT pg_backend_pid()").scalar():
                raise PoolerUnnamed("A pooler stands before PostgreSQL. Say so with REGISTRY_POOLER=transaction.")

    def require_room(self, workers: int) -> None:
        """Raises TooManyConnections if the connections of so many workers exceed PostgreSQL's max_connections. Those to
        a pooler are the pooler's to limit."""
        if self.is_sqlite or self._pooled:
            return
        with self.engine.connect() as connection:
            allowed = int(connection.exec_driver_sql("SHOW max_connections").scalar() or 0)
            reserved = int(connection.exec_driver_sql("SHOW superuser_reserved_connections").scalar() or 0)
        pools = 2 if self.vault is not None and _server(self.vault.url) == _server(self.url) else 1
        wanted = workers * (pools * self.pool_size + BUILDERS + MOMENTS)
        if wanted > allowed - reserved:
            also = ", as many for the vault on the same server" if pools == 2 else ""
            raise TooManyConnections(
                f"{workers} workers with REGISTRY_POOL_SIZE={self.pool_size}{also} and {BUILDERS + MOMENTS} more for "
                f"extracts need {wanted} connections; PostgreSQL has {allowed - reserved} to give."
            )

    def require_apart(self) -> None:
        """Raises NotApart if the vault's URL leads to this same database, in whatever spelling."""
        if self.vault is not None and self._is(self.vault):
            raise NotApart(
                "REGISTRY_VAULT_URL leads to the database of REGISTRY_DATABASE_URL. Make an empty database for it and "
                "run registry migrate, or unset it: the labels then stay in the main database."
            )

    def _is(self, other: "Database") -> bool:
        """Whether both are the same database. On PostgreSQL, advisory locks are separate for each database: a lock
        taken through one connection cannot be taken through the other if both lead to the same database."""
        if self.is_sqlite != other.is_sqlite:
            return False
        if self.is_sqlite:
            files = [str(one.url.database) for one in (self, other)]
            return all(os.path.exists(file) for file in files) and os.path.samefile(*files)
        lock = secrets.randbits(63)
        with self.engine.connect() as here, other.engine.connect() as there:
            here.exec_driver_sql(f"SELECT pg_advisory_xact_lock({lock})")
            return not there.exec_driver_sql(f"SELECT pg_try_advisory_xact_lock({lock})").scalar()

    def dispose(self) -> None:
        """Close the pool's connections."""
        self.engine.dispose()
        if self.vault is not None:
            self.vault.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dispose()


def _server(url: URL) -> tuple[str | None, int]:
    return url.host, url.port or 5432


def _commit(session: Session) -> None:
    try:
        session.commit()
    except BaseException:
        session.invalidate()  # a failed COMMIT may leave the transaction open: do not return the connection to the pool
        raise


def vault_session(session: Session) -> Session:
    """The session for the vault's rows in a write: the same one, or a companion session if the vault is a database of
    its own. The companion is committed first: a label without a participant is only a reservation, which the next
    attempt uses; a participant without a label could not be found again."""
    vault: Database | None = session.info.get(_VAULT)
    if vault is None:
        return session
    if _COMPANION not in session.info:
        info = {_REQUEST: session.info[_REQUEST], _VAULT: None}
        session.info[_COMPANION] = Session(vault._writing, expire_on_commit=False, info=info)
    companion: Session = session.info[_COMPANION]
    return companion


def before_commit(session: Session, act: Callable[[], None]) -> None:
    """Call `act` at the end of a write, just before its commit. It is not called if the write is rolled back, as in a
    dry run."""
    session.info.setdefault(_LAST, []).append(act)


@event.listens_for(Session, "after_soft_rollback")
def _both_or_none(session: Session, ended: SessionTransaction) -> None:
    if ended.parent is None:  # not only the savepoint of one uploaded line
        session.info.pop(_LAST, None)
        if _COMPANION in session.info:
            session.info[_COMPANION].rollback()


@event.listens_for(Session, "after_begin")
def _show_own_sites(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """Show the actor's own sites through row-level security, for this transaction only (SET LOCAL). The actor is read
    here and not when the session is created, as it is known only now."""
    if not transaction.nested:
        patience = session.info.get(_PATIENCE)
        waits = [f"SET LOCAL lock_timeout = {patience}"] if patience else []
        begin(connection, *_opened_for(_own_sites(session)), *waits)


def _own_sites(session: Session) -> Collection[int]:
    request = session.info.get(_REQUEST)
    actor = getattr(request.state, "actor", None) if request is not None else None
    return actor.clinical_sites if actor is not None else ()


def _opened_for(site_ids: Collection[int]) -> list[str]:
    listed = ",".join(str(int(site_id)) for site_id in sorted(site_ids))
    return [f"SET LOCAL registry.sites = '{listed}'"] if site_ids else []


@contextmanager
def within(session: Session, site_ids: Collection[int]) -> Iterator[None]:
    """In this block the session sees the clinical rows of these sites (of none, if empty) instead of those of the
    actor, or of an outer `within`. If the block raises, the caller has to end the transaction or savepoint, which also
    ends the wider access."""
    around = session.info.get(_WITHIN)
    _open_for(session, site_ids)
    session.info[_WITHIN] = site_ids
    try:
        yield
    finally:
        session.info[_WITHIN] = around
    _open_for(session, _own_sites(session) if around is None else around)


def _open_for(session: Session, site_ids: Collection[int]) -> None:
    session.flush()
    if session.get_bind().dialect.name == "postgresql":
        at_once(session.connection(), *_opened_for(site_ids or {NO_SITE}))


@contextmanager
def one_moment(session: Session) -> Iterator[Session]:
    """A session whose statements all see the same snapshot. On SQLite it is the session itself. On PostgreSQL it is a
    second connection (REPEATABLE READ) that is never committed: what it writes is visible to itself only. It is not
    from the pool: sessions that have a connection of a pool and wait for another would block each other."""
    if session.get_bind().dialect.name == "sqlite":
        yield session
        return
    moments: Engine = session.info[_MOMENTS]
    with Session(moments.execution_options(isolation_level="REPEATABLE READ")) as other:
        yield other


class Turn(IntEnum):
    """The purposes of PostgreSQL's advisory locks, which are the first key of a lock. The second key is the site; for
    approvals the study."""

    gate = 11
    """A freeze or lock of data waits for running writes, which share this lock (SQL function `locks_in_force`)."""

    approval = 12
    enrolments = 13


def in_turn(session: Session, turn: Turn, keys: Iterable[int]) -> None:
    """Take the advisory lock of `turn` for each key until the commit; waits while another transaction has it. Does
    nothing on SQLite, which has one writer."""
    if session.get_bind().dialect.name == "postgresql":
        for key in sorted(keys):  # always in the same order, so that two transactions cannot deadlock
            session.execute(select(func.pg_advisory_xact_lock(turn.value, key)))


@contextmanager
def unique_or(refusal: type[RegistryError]) -> Iterator[None]:
    """Raise `refusal` instead of a violation of a unique constraint. Other errors pass."""
    try:
        yield
    except IntegrityError as error:
        if not is_unique_violation(error):
            raise
        raise refusal() from None


def is_unique_violation(error: IntegrityError) -> bool:
    """By SQLSTATE 23505 on PostgreSQL; on SQLite, which gives no such code, by the beginning of the message."""
    state = getattr(error.orig, "sqlstate", None)
    return state == "23505" or str(error.orig).startswith("UNIQUE constraint failed")


def sqlstate(error: SQLAlchemyError) -> str | None:
    """The SQLSTATE of an error of PostgreSQL, or the equivalent for one of SQLite."""
    cause = getattr(error, "orig", None)
    state: str | None = getattr(cause, "sqlstate", None) or _OF_SQLITE.get(getattr(cause, "sqlite_errorcode", None))
    return state


class Opens:
    """A handler's argument that becomes a session: opened in the handler's thread, and ended there before the answer is
    sent."""

    def __init__(self, how: Callable[[], AbstractContextManager[Session]]) -> None:
        self.how = how


@contextmanager
def opened(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A handler's arguments with each `Opens` replaced by its session, which is committed when the block ends
    normally."""
    with ExitStack() as sessions:
        yield {
            name: sessions.enter_context(one.how()) if isinstance(one, Opens) else one
            for name, one in arguments.items()
        }


async def _read_session(request: Request) -> Opens:
    return Opens(partial(request.app.state.database.read, request))


async def _write_session(request: Request) -> Opens:
    return Opens(partial(request.app.state.database.write, request))


ReadSession = Annotated[Session, Depends(_read_session)]
WriteSession = Annotated[Session, Depends(_write_session)]
