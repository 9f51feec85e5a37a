"""Engines, sessions, THE commit.

A write is committed when the session dependency ends, which is before the answer is sent: the dependencies have
scope "function". So a 2xx means durably stored. Nobody else commits.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Self

from fastapi import Depends, Request
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import IntegrityError
from sqlmodel import Session

from app.errors import DatabaseUnavailable, RegistryError
from app.settings import Settings

_WRITES = "registry_writes"


class NotDurable(Exception):
    """The database may forget what it acknowledged; the message says which setting to change."""


class TooManyConnections(Exception):
    """The workers together would ask for more connections than the database gives."""


class Database:
    """One database, one pool, and two kinds of session: reading and writing."""

    def __init__(self, settings: Settings) -> None:
        self.url = make_url(settings.database_url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.engine = _engine(settings, self.is_sqlite)
        self._pool_size = settings.pool_size
        self._writing = self.engine.execution_options(**{_WRITES: True})

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session that never commits."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session whose work is committed as a whole when the block ends well, and rolled back otherwise."""
        with Session(self._writing, expire_on_commit=False) as session:
            yield session
            try:
                session.commit()
            except BaseException:
                session.invalidate()  # a failed COMMIT may leave the transaction open: never hand it to the next one
                raise

    @contextmanager
    def migrating(self) -> Iterator[Connection]:
        """A connection for schema changes, committed as a whole."""
        with self._writing.begin() as connection:
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
        wanted = workers * self._pool_size
        if wanted > allowed - reserved:
            raise TooManyConnections(
                f"{workers} workers with REGISTRY_POOL_SIZE={self._pool_size} need {wanted} connections; "
                f"PostgreSQL has {allowed - reserved} to give."
            )

    def dispose(self) -> None:
        """Close the pool's connections."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dispose()


def _engine(settings: Settings, is_sqlite: bool) -> Engine:
    options: dict[str, Any] = {
        "hide_parameters": True,
        "pool_size": settings.pool_size,
        "max_overflow": 0,
        "pool_timeout": settings.pool_timeout_seconds,
    }
    if is_sqlite:
        engine = create_engine(
            settings.database_url, connect_args={"timeout": settings.pool_timeout_seconds}, **options
        )
        _prepare_sqlite(engine, settings)
        return engine
    timeout = settings.statement_timeout_seconds * 1000
    session_options = f"-c timezone=UTC -c statement_timeout={timeout} -c idle_in_transaction_session_timeout={timeout}"
    return create_engine(
        settings.database_url, pool_pre_ping=True, connect_args={"options": session_options}, **options
    )


def _prepare_sqlite(engine: Engine, settings: Settings) -> None:
    """WAL, durable, foreign keys on; one writer at a time, queued here and not in SQLite's busy handler."""
    gate = threading.Lock()

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={settings.sqlite_synchronous}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA recursive_triggers=ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        if not connection.get_execution_options().get(_WRITES):
            connection.exec_driver_sql("BEGIN")
            return
        if not gate.acquire(timeout=settings.pool_timeout_seconds):
            raise DatabaseUnavailable(headers={"Retry-After": "1"})
        connection.info["holds_gate"] = True
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    @event.listens_for(engine, "checkin")
    def leave_gate(_connection: Any, record: Any) -> None:
        if record.info.pop("holds_gate", False):
            gate.release()


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


def _read_session(request: Request) -> Iterator[Session]:
    with request.app.state.database.read() as session:
        yield session


def _write_session(request: Request) -> Iterator[Session]:
    with request.app.state.database.write() as session:
        yield session


ReadSession = Annotated[Session, Depends(_read_session, scope="function")]
WriteSession = Annotated[Session, Depends(_write_session, scope="function")]
