"""Every test that touches data runs twice: on SQLite and on a real PostgreSQL.

Each engine has one migrated database for the whole run; each test sets up a study of its own in it.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app import schema
from app.database import Database
from app.main import create_app
from app.security.keys import new_key_file, write_key_file
from app.services.builder import Builder
from app.services.building import build_next
from app.settings import Settings
from tests.postgres import new_database, postgres_server, settings_of
from tests.server import LiveServer, served
from tests.world import Registry, World

ENGINES = ("sqlite", "postgresql")
OUTSIDE_ISSUER = "http://127.0.0.1:9/closed"
"""A provider that nobody answers for; tests/test_oidc.py brings up one that answers."""


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL server: REGISTRY_TEST_POSTGRES_URL, or one brought up from its wheel."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session", params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty database of each engine."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'registry.db'}"
    else:
        with new_database(request.getfixturevalue("postgres_url")) as url:
            yield url


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    write_key_file(path, new_key_file(demo=True))
    return path


class BuildsAtOnce(Builder):
    """Builds within the request that approves an extract: no test waits. Served registries have the real one."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._database = Database(settings, for_server=True)

    def start(self) -> None:
        """No thread."""

    def stop(self) -> None:
        self._database.dispose()

    def wake(self) -> None:
        while build_next(self._database):
            pass


@pytest.fixture(scope="session")
def registry(database_url: str, key_file: Path) -> Iterator[Registry]:
    """The application on a migrated database, called in the process."""
    settings = settings_of(
        database_url,
        key_file,
        throttle_address_failures=1_000_000,
        oidc_issuer=OUTSIDE_ISSUER,
        oidc_audience="registry",
    )
    with Database(settings) as database:
        schema.upgrade(database)
        app = create_app(settings)
        app.state.builder = BuildsAtOnce(settings)
        with TestClient(app) as client:
            yield Registry(app, client, database)


@pytest.fixture
def world(registry: Registry) -> World:
    """A fresh study with two sites, and somebody in every role."""
    return World(registry)


@pytest.fixture(scope="session", params=ENGINES)
def live_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A served registry in a process of its own, with an admin."""
    postgres = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with served(tmp_path_factory.mktemp("served"), postgres) as server:
        yield server


def pytest_report_header() -> str:
    return f"PostgreSQL: {'given by URL' if os.environ.get('REGISTRY_TEST_POSTGRES_URL') else 'from its wheel'}"
