"""Engines: how the two databases are connected to, and how a transaction begins on each.

It begins in `begin`, which sessions call and `beginning` calls for other connections. A listener to an engine's events
would do for both, but then SQLAlchemy asks for listeners at each step of each statement: 5 % of a visit.
"""

import select
import threading
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

from psycopg.pq import TransactionStatus
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DisconnectionError

from app import sqlite_wall
from app.errors import DatabaseUnavailable
from app.settings import Settings

_VANISHED = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 10_000}
"""PostgreSQL's machine is known to be gone after ten seconds of silence, not after the quarter of an hour of TCP."""

READS, WRITES = "registry_reads", "registry_writes"
"""Options of connections: that only read, to which PostgreSQL holds a transaction that begins here, and that write."""

_EACH = "registry_each"
"""An option of connections through a pooler: what each transaction is told, as no session is one's own."""

_ENTER, _LEAVE = "registry_enter", "registry_leave"
"""What is remembered of a connection to SQLite: how it enters the gate, and how it leaves where it is within."""


def engine_of(settings: Settings, url: URL, is_sqlite: bool, for_server: bool, pool: Mapping[str, Any]) -> Engine:
    """Connections to one database, as `pool` keeps them."""
    options: dict[str, Any] = {"hide_parameters": True, **pool}
    if is_sqlite:
        engine = create_engine(url, connect_args={"timeout": settings.pool_timeout_seconds}, **options)
        _prepare_sqlite(engine, settings, for_server)
        return engine
    timeout = settings.statement_timeout_seconds * 1000
    # Without jit, which PostgreSQL's packages bring: to compile a list's statement takes longer than to run it.
    given = {
        "timezone": "UTC",
        "jit": "off",
        "statement_timeout": timeout,
        "idle_in_transaction_session_timeout": timeout,
    }
    connecting: dict[str, Any] = {"connect_timeout": max(2, ceil(settings.pool_timeout_seconds)), **_VANISHED}
    if settings.pooler == "none":
        connecting["options"] = " ".join(f"-c {name}={value}" for name, value in given.items())
    else:
        connecting["prepare_threshold"] = None
        options["execution_options"] = {_EACH: [f"SET LOCAL {name} = '{value}'" for name, value in given.items()]}
    # The driver begins nothing by itself, so that a transaction begins in one journey with what it is told first.
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args=connecting, **options)
    _prepare_postgresql(engine)
    return engine


def _prepare_postgresql(engine: Engine) -> None:
    @event.listens_for(engine, "checkout")
    def look(connection: Any, _record: Any, _proxy: Any) -> None:
        """A connection that the server closed has something to read: its end. Seen without asking the server."""
        socket = select.poll()
        socket.register(connection.pgconn.socket, select.POLLIN)
        if socket.poll(0):
            raise DisconnectionError("The server closed the connection")


def _lowered(text: str | None) -> str | None:
    """In place of SQLite's own, which knows no letters but those of ASCII."""
    return text if text is None else text.lower()


def _prepare_sqlite(engine: Engine, settings: Settings, for_server: bool) -> None:
    """WAL, durable, foreign keys on; one writer at a time, queued here and not in SQLite's busy handler."""
    gate = threading.Lock()

    def enter() -> Callable[[], None]:
        if not gate.acquire(timeout=settings.pool_timeout_seconds):
            raise DatabaseUnavailable(headers={"Retry-After": "1"})
        return gate.release

    @event.listens_for(engine, "connect")
    def configure(connection: Any, record: Any) -> None:
        record.info[_ENTER] = enter
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute(f"PRAGMA synchronous={settings.sqlite_synchronous}")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA recursive_triggers=ON")
        cursor.execute("SELECT key FROM json_each('[]')")  # declared once, while a declaration is still allowed
        cursor.close()
        connection.create_function("shortest", 1, repr, deterministic=True)  # text that reads back as the number
        connection.create_function("lower", 1, _lowered, deterministic=True)
        if for_server:
            connection.set_authorizer(sqlite_wall.allowed)

    @event.listens_for(engine, "checkin")
    def leave_gate(_connection: Any, record: Any) -> None:
        if _LEAVE in record.info:
            record.info.pop(_LEAVE)()


def watch(engine: Engine, taken: Callable[[], None], given_back: Callable[[], None]) -> None:
    """Be told of each connection that is taken from the pool and given back."""
    event.listen(engine, "checkout", lambda *_: taken())
    event.listen(engine, "checkin", lambda *_: given_back())


def beginning(engine: Engine) -> Engine:
    """The same connections, for whoever has no session."""
    own = engine.execution_options()

    @event.listens_for(own, "begin")
    def _begin(connection: Connection) -> None:
        if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
            begin(connection)

    return own


def begin(connection: Connection, *first: str) -> None:
    """Begin a transaction, unless it has begun or the driver does it, as at another isolation level (`one_moment`).
    PostgreSQL hears what it is told `first` in the same journey; on SQLite whoever writes enters the gate."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        waits = driver.autocommit and driver.info.transaction_status == TransactionStatus.IDLE
        told = connection.get_execution_options()
        how = "BEGIN READ ONLY" if READS in told else "BEGIN"
        at_once(connection, *([how] if waits else []), *told.get(_EACH, ()), *first)
    elif not driver.in_transaction:
        writes = WRITES in connection.get_execution_options()
        if writes:
            connection.info[_LEAVE] = connection.info[_ENTER]()
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def at_once(connection: Connection, *statements: str) -> None:
    """Statements without parameters or results, in one journey to PostgreSQL."""
    if statements:
        driver: Any = connection.connection.driver_connection
        driver.execute("; ".join(statements), prepare=False)
