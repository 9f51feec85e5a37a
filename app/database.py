"""Sessions, and THE commit.

A write is committed in the handler's thread, before its answer is given away (`opened`, called by app/web/route.py). So
a 2xx means durably stored. Nobody else commits.
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
"""How long a migration waits for a lock, and with it everybody behind it."""

BUILDERS = 2
"""Connections in the pool of a worker's extract builder: one stores, one keeps the lease."""

MOMENTS = 2
"""Connections of a worker to PostgreSQL in no pool: an approval and a build read one moment each (`one_moment`). More
approvals of different studies at once take more, and are told 503 where PostgreSQL has none left."""

DISK_FULL, LOCKED = "53100", "55P03"
"""SQLSTATEs (PostgreSQL, appendix A)."""

_OF_SQLITE: Mapping[int | None, str] = {
    sqlite3.SQLITE_FULL: DISK_FULL,
    sqlite3.SQLITE_IOERR_SHMSIZE: DISK_FULL,  # not even a page for what its connections share
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


class NotApart(CannotGoOn):
    """The vault's address leads to the main database; the message says which setting to change."""


class Database:
    """One database, one pool, and two kinds of session: reading and writing.

    Commands connect as the tables' owner. The server connects as a role that owns nothing (`for_server`): on
    PostgreSQL a role of its own, on SQLite a connection that may change rows and nothing else.
    """

    engine: Engine
    """Connections without a session."""

    of_sessions: Engine
    """The same connections as sessions have them. Whoever listens to it hears of both."""

    vault: "Database | None"
    """Where the vault's rows are, when that is a database of its own. Nothing connects to it before it is needed."""

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
        self.pool_size = settings.pool_size
        self._reading = self.of_sessions.execution_options(**{READS: True})
        self._writing = self.of_sessions.execution_options(**{WRITES: True})

    @contextmanager
    def read(self, request: Request | None = None) -> Iterator[Session]:
        """A session that only reads. It sees the clinical rows of the request's actor; without one, none."""
        info = {_REQUEST: request, _MOMENTS: self._moments}
        with Session(self._reading, expire_on_commit=False, info=info) as session:
            try:
                yield session
            except RegistryError:
                self._end_read(session)
                raise
            self._end_read(session)

    def _end_read(self, session: Session) -> None:
        """End a read by a COMMIT of nothing, on PostgreSQL. After a ROLLBACK the driver drops all its prepared
        statements, as they may be void, and each would be parsed and planned anew."""
        if not self.is_sqlite:
            _commit(session)

    @contextmanager
    def write(self, request: Request | None = None, *, lock_milliseconds: int | None = None) -> Iterator[Session]:
        """A session whose work is committed as a whole when the block ends well, and rolled back otherwise. What it
        wrote to a vault of its own is committed just before. On PostgreSQL it waits for a row that somebody else holds
        as long as is said, or as for any statement."""
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
        """A connection for schema changes, committed as a whole. On PostgreSQL it may take as long as it needs, but
        waits for a lock only shortly, as everybody who comes later waits behind it."""
        with self.engine.execution_options(**{WRITES: True}).begin() as connection:
            if not self.is_sqlite:
                for timeout, value in (("statement_timeout", "0"), ("lock_timeout", f"{LOCK_MILLISECONDS}")):
                    connection.exec_driver_sql(f"SET LOCAL {timeout} = {value}")
            yield connection

    def require_durable(self) -> None:
        """Raises NotDurable when PostgreSQL would acknowledge a commit that a power cut can undo."""
        if self.is_sqlite:
            return
        with self.engine.connect() as connection:
            for setting in ("fsync", "synchronous_commit"):
                if connection.exec_driver_sql(f"SHOW {setting}").scalar() == "off":
                    raise NotDurable(f"PostgreSQL runs with {setting} = off. Turn it on: a 2xx means durably stored.")

    def require_room(self, workers: int) -> None:
        """Raises TooManyConnections when `workers` full pools do not fit into PostgreSQL's max_connections."""
        if self.is_sqlite:
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
        """Raises NotApart when the vault's address leads to this very database, however it is written."""
        if self.vault is not None and self._is(self.vault):
            raise NotApart(
                "REGISTRY_VAULT_URL leads to the database of REGISTRY_DATABASE_URL. Make an empty database for it and "
                "run registry migrate, or unset it: the labels then stay with the rest."
            )

    def _is(self, other: "Database") -> bool:
        """PostgreSQL keeps advisory locks in each database apart: where both are one, the second cannot be taken."""
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
        session.invalidate()  # a failed COMMIT may leave the transaction open: never hand it to the next one
        raise


def vault_session(session: Session) -> Session:
    """The session for the vault's rows, in a write: the same one, or its companion where the vault is a database of its
    own. The companion is committed first: a label without a participant is only a reservation, which the next attempt
    takes up; a participant without a label could not be found again."""
    vault: Database | None = session.info.get(_VAULT)
    if vault is None:
        return session
    if _COMPANION not in session.info:
        info = {_REQUEST: session.info[_REQUEST], _VAULT: None}
        session.info[_COMPANION] = Session(vault._writing, expire_on_commit=False, info=info)
    companion: Session = session.info[_COMPANION]
    return companion


def before_commit(session: Session, act: Callable[[], None]) -> None:
    """Do this when all else of the write has been done, and only if it is then committed: not in a dry run."""
    session.info.setdefault(_LAST, []).append(act)


@event.listens_for(Session, "after_soft_rollback")
def _both_or_none(session: Session, ended: SessionTransaction) -> None:
    if ended.parent is None:  # not the savepoint of one line
        session.info.pop(_LAST, None)
        if _COMPANION in session.info:
            session.info[_COMPANION].rollback()


@event.listens_for(Session, "after_begin")
def _show_own_sites(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """Open the second wall for the actor's own sites, for this transaction only (SET LOCAL), whoever had the connection
    before. The actor is read here and not when the session was made, as only then it is known."""
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
    """In this block the session sees the clinical rows of these sites instead of the actor's own, or of those of the
    block around this one; without sites, of none. An exception has to end the transaction or savepoint, and with it the
    widening."""
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
    """A session whose statements all see the data of one moment. SQLite has one writer anyway. On PostgreSQL it is a
    second connection that is never committed, so what is written in it only helps its own statements. The connection is
    from no pool: sessions that hold one of a pool and wait for another would block each other."""
    if session.get_bind().dialect.name == "sqlite":
        yield session
        return
    moments: Engine = session.info[_MOMENTS]
    with Session(moments.execution_options(isolation_level="REPEATABLE READ")) as other:
        yield other


class Turn(IntEnum):
    """What PostgreSQL's advisory locks are for; the first key of a lock. Its second key is the site, for approvals the
    study."""

    gate = 11
    """Whoever closes data waits for whoever writes, who hold it in the function `locks_in_force`."""

    approval = 12
    enrolments = 13


def in_turn(session: Session, turn: Turn, keys: Iterable[int]) -> None:
    """Wait until nobody else has the turn at any of these, and let nobody have it before the commit. SQLite has one
    writer anyway."""
    if session.get_bind().dialect.name == "postgresql":
        for key in sorted(keys):  # always in the same order: two who wait never wait for each other
            session.execute(select(func.pg_advisory_xact_lock(turn.value, key)))


@contextmanager
def unique_or(refusal: type[RegistryError]) -> Iterator[None]:
    """Turn the database's "already there" into the refusal named for the fact. Other errors pass."""
    try:
        yield
    except IntegrityError as error:
        if not is_unique_violation(error):
            raise
        raise refusal() from None


def is_unique_violation(error: IntegrityError) -> bool:
    """SQLSTATE 23505 on PostgreSQL; SQLite has only the beginning of its message."""
    state = getattr(error.orig, "sqlstate", None)
    return state == "23505" or str(error.orig).startswith("UNIQUE constraint failed")


def sqlstate(error: SQLAlchemyError) -> str | None:
    """PostgreSQL's own, and for SQLite's errors the equivalent."""
    cause = getattr(error, "orig", None)
    state: str | None = getattr(cause, "sqlstate", None) or _OF_SQLITE.get(getattr(cause, "sqlite_errorcode", None))
    return state


class Opens:
    """A session that is opened in the handler's thread, and committed there before the answer leaves."""

    def __init__(self, how: Callable[[], AbstractContextManager[Session]]) -> None:
        self.how = how


@contextmanager
def opened(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A handler's arguments with its session opened; when the block ends well, it is committed."""
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
