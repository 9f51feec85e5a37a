"""A database that is away, busy, closed to writing or full: a clear refusal, nothing half-written, and on it goes.
The long runs, under load and with real servers and disks, are `python -m bench.faults`."""

import socket
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.exc import OperationalError

from app.database import Database
from app.settings import Settings
from tests.hostile import census
from tests.postgres import SERVER_ROLE
from tests.world import World


def owner(world: World) -> Engine:
    return world.registry.database.engine


@contextmanager
def connected_anew(world: World, prepare: Callable[[Any], object] | None) -> Iterator[None]:
    """The server's connections are made anew, each prepared in this way before anybody else has it."""
    engine = world.registry.served.engine

    def connect(connection: Any, _record: Any) -> None:
        if prepare is not None:
            prepare(connection)

    event.listen(engine, "connect", connect, insert=True)
    engine.dispose()
    try:
        yield
    finally:
        event.remove(engine, "connect", connect)
        engine.dispose()


@contextmanager
def of_server(world: World, setting: str, value: str) -> Iterator[None]:
    """PostgreSQL gives the server's role this setting in this database."""
    role = f"ALTER ROLE {SERVER_ROLE} IN DATABASE {owner(world).url.database}"
    with owner(world).execution_options(isolation_level="AUTOCOMMIT").connect() as admin:
        admin.execute(text(f"{role} SET {setting} = '{value}'"))
        try:
            with connected_anew(world, None):
                yield
        finally:
            admin.execute(text(f"{role} RESET {setting}"))


@contextmanager
def full(world: World) -> Iterator[None]:
    """SQLite may not take another page; PostgreSQL says what it says on a full disk."""
    if world.on_sqlite:
        with connected_anew(world, lambda connection: connection.execute("PRAGMA max_page_count = 1")):
            yield
        return
    body = "BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = 'disk_full'; END"
    with owner(world).begin() as connection:
        connection.execute(text(f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $${body}$$"))
        connection.execute(text("CREATE TRIGGER full_disk BEFORE INSERT ON adverse_event EXECUTE FUNCTION full_disk()"))
    try:
        yield
    finally:
        with owner(world).begin() as connection:
            connection.execute(text("DROP FUNCTION full_disk CASCADE"))


@contextmanager
def read_only(world: World) -> Iterator[None]:
    if world.on_sqlite:
        with connected_anew(world, lambda connection: connection.execute("PRAGMA query_only = ON")):
            yield
        return
    with of_server(world, "default_transaction_read_only", "on"):
        yield


@contextmanager
def locked(world: World) -> Iterator[None]:
    """Another process holds what every write needs."""
    if not world.on_sqlite:
        with of_server(world, "lock_timeout", "100ms"), owner(world).begin() as other:
            other.execute(text("LOCK TABLE audit_chain IN ACCESS EXCLUSIVE MODE"))
            yield
        return
    other = sqlite3.connect(str(owner(world).url.database), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with connected_anew(world, lambda connection: connection.execute("PRAGMA busy_timeout = 100")):
            yield
    finally:
        other.close()


@contextmanager
def exhausted(world: World) -> Iterator[None]:
    """Others have every connection."""
    engine = world.registry.served.engine
    with pytest.MonkeyPatch.context() as patched, ExitStack() as taken:
        patched.setattr(engine.pool, "_timeout", 0.1)
        for _ in range(world.registry.app.state.settings.pool_size):
            taken.enter_context(engine.connect())
        yield


Fault = Callable[[World], AbstractContextManager[None]]
FAULTS: dict[str, tuple[Fault, tuple[int, str], bool]] = {
    "full": (full, (507, "storage_full"), True),
    "read_only": (read_only, (503, "database_unavailable"), True),
    "locked": (locked, (503, "database_unavailable"), True),
    "exhausted": (exhausted, (503, "database_unavailable"), False),
}
"""How a write is refused, and whether reading goes on."""


@pytest.mark.parametrize("name", FAULTS)
def test_a_write_is_refused_as_a_whole_and_stored_once_when_the_fault_is_over(world: World, name: str) -> None:
    fault, told, readable = FAULTS[name]
    body = world.event(world.enrolled())
    keys = [str(uuid4()) for _ in range(60)]
    before, stored, refused = census(owner(world)), 0, None
    with fault(world):
        for key in keys:  # a full disk may still have room for some
            answer = world.staff_a.post("/v1/adverse-events", body, key=key)
            if not answer.is_success:
                refused = key
                break
            stored += 1
        assert refused is not None
        assert (answer.status_code, answer.json()["code"]) == told
        assert int(answer.headers["Retry-After"]) > 0
        assert world.staff_a.get("/v1/adverse-events").status_code == (200 if readable else 503)
    assert census(owner(world))["adverse_event"][0] == before["adverse_event"][0] + stored
    for key in keys[: stored + 1]:
        assert world.staff_a.post("/v1/adverse-events", body, key=key).status_code == 201
    after = census(owner(world))
    for table in ("adverse_event", "idempotency_record", "audit_entry"):
        assert after[table][0] == before[table][0] + stored + 1


@pytest.mark.parametrize("name", FAULTS)
def test_a_bulk_upload_says_the_same_of_its_line(world: World, name: str) -> None:
    fault, (status, code), _ = FAULTS[name]
    record = world.event(world.enrolled())
    lines = [{"key": str(uuid4()), "record": record} for _ in range(60)]
    with fault(world):
        answer = world.staff_a.post("/v1/adverse-events/bulk", lines)
    if name == "exhausted":  # nobody can be let in
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        return
    last = answer.text.splitlines()[-1]
    assert answer.status_code == 207
    assert f'"result":"blocked","status":{status}' in last
    assert code in last
    assert int(answer.headers["Retry-After"]) > 0


def test_connections_that_are_cut_are_made_anew(world: World) -> None:
    if world.on_sqlite:
        return  # there are none
    engine, body, key = world.registry.served.of_sessions, world.event(world.enrolled()), str(uuid4())
    theirs = "FROM pg_stat_activity WHERE usename = :role AND datname = current_database()"
    cut = f"SELECT pg_terminate_backend(pid, 10000) {theirs}"

    def cut_all(*_: Any) -> None:
        """Waits until each has gone: a signal alone may come after the connection was found to be alive."""
        with owner(world).connect() as admin:
            admin.execute(text(cut), {"role": SERVER_ROLE})

    cut_all()
    assert world.staff_a.get("/v1/adverse-events").status_code == 200
    before = census(owner(world))
    for statement in (2, 3, 4):  # holding, looking, storing
        seen = [0]

        def at_one(*_: Any, seen: list[int] = seen, statement: int = statement) -> None:
            seen[0] += 1
            if seen[0] == statement:
                cut_all()

        event.listen(engine, "before_cursor_execute", at_one)
        try:
            answer = world.staff_a.post("/v1/adverse-events", body, key=key)
        finally:
            event.remove(engine, "before_cursor_execute", at_one)
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert census(owner(world)) == before
    assert world.staff_a.post("/v1/adverse-events", body, key=key).status_code == 201


def test_a_connection_that_is_cut_when_its_transaction_begins_is_no_fault_of_ours(world: World) -> None:
    """Between being found alive and the first thing that it is told."""
    if world.on_sqlite:
        return  # there is nothing between
    pool, body, key = world.registry.served.of_sessions.pool, world.event(world.enrolled()), str(uuid4())

    def cut(connection: Any, *_: Any) -> None:
        with owner(world).connect() as admin:
            admin.execute(text("SELECT pg_terminate_backend(:number, 10000)"), {"number": connection.info.backend_pid})

    event.listen(pool, "checkout", cut)
    try:
        answers = [world.staff_a.get("/v1/adverse-events"), world.staff_a.post("/v1/adverse-events", body, key=key)]
    finally:
        event.remove(pool, "checkout", cut)
    for answer in answers:
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    assert world.staff_a.post("/v1/adverse-events", body, key=key).status_code == 201


def test_a_database_that_accepts_and_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+psycopg://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"
        settings = Settings(environment="demo", database_url=url, pool_timeout_seconds=0.5)
        with Database(settings) as database, pytest.raises(OperationalError), database.read() as session:
            session.execute(text("SELECT 1"))
