"""Workers that start while the database is away: they wait, and serve. Nobody starts the registry again by hand."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient
from sqlalchemy import Connection, create_engine, make_url, text
from uvicorn.config import STARTUP_FAILURE

from app import main
from app.main import create_app
from tests.server import LiveServer, free_port, served
from tests.world import Registry


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, postgres_url: str) -> Iterator[LiveServer]:
    with served(tmp_path_factory.mktemp("server"), postgres_url, workers=2) as server:
        yield server


def workers(server: LiveServer) -> set[int]:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return {int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def away(server: LiveServer, postgres_url: str) -> Iterator[None]:
    """PostgreSQL has cut all connections to the database and gives none."""
    name = make_url(server.database_url).database
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as admin:
        _allow(admin, name, "false")
        admin.execute(
            text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
        )
        try:
            yield
        finally:
            _allow(admin, name, "true")
    engine.dispose()


def _allow(admin: Connection, name: str | None, allowed: str) -> None:
    admin.execute(text(f"ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {allowed}"))


def test_a_worker_that_starts_while_the_database_is_away_serves_when_it_is_back(
    two_workers: LiveServer, postgres_url: str
) -> None:
    killed, other = workers(two_workers)
    with away(two_workers, postgres_url):
        os.kill(killed, signal.SIGKILL)
        until(lambda: "database_away_at_start" in two_workers.log.read_text() or two_workers.process.poll() is not None)
    os.kill(other, signal.SIGKILL)
    until(lambda: httpx.get(f"{two_workers.base_url}/readyz", trust_env=False, timeout=60).status_code == 200)
    assert two_workers.process.poll() is None
    assert "psycopg" not in two_workers.log.read_text()
    lines = [json.loads(line) for line in two_workers.log.read_text().splitlines() if line.startswith("{")]
    assert "not_accepting" in {line["reason"] for line in lines if line["event"] == "database_away_at_start"}


def test_a_server_whose_worker_refuses_to_start_ends_with_a_fault(two_workers: LiveServer) -> None:
    engine = create_engine(two_workers.database_url)
    with engine.begin() as owner:
        owner.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    os.kill(workers(two_workers).pop(), signal.SIGKILL)
    assert two_workers.process.wait(120) == STARTUP_FAILURE


def test_a_worker_whose_database_stays_away_serves_and_says_so(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main, "AWAY_SECONDS", 0)
    nowhere = f"postgresql+psycopg://somebody@127.0.0.1:{free_port()}/registry"
    settings = registry.app.state.settings.model_copy(update={"database_url": nowhere})
    with TestClient(create_app(settings)) as client:
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert client.get("/healthz").status_code == 200
