"""A pooler in transaction mode before PostgreSQL: with a real PgBouncer where there is one."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from app.database import Database
from bench.kills import Load, Report, differences
from tests.hostile import live_study
from tests.postgres import as_server, new_database, settings_of
from tests.server import PASSWORD, free_port, running_server, typed
from tests.test_database import PREPARED, on_postgresql
from tests.unharmed import extract_of
from tests.world import World

PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
with_pgbouncer = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")


@contextmanager
def pooled(owner_url: str, more: str = "") -> Iterator[dict[str, str]]:
    """PgBouncer, with fewer connections to PostgreSQL than the registry has to it, and the settings that lead there."""
    assert PROGRAM is not None
    url, port = make_url(as_server(owner_url)), free_port()
    host = str(url.query.get("host") or url.host)
    with tempfile.TemporaryDirectory(prefix="registry-pooler-") as place:
        folder = Path(place)
        folder.chmod(0o777)
        (folder / "users.txt").write_text(f'"{url.username}" "{url.password}"')
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n* = host={host} port={url.port or 5432}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {folder}/users.txt\n"
            f"pool_mode = transaction\ndefault_pool_size = 2\nlogfile = {folder}/pgbouncer.log\n{more}\n"
        )
        # It does not run as root, and PostgreSQL's socket is its owner's.
        user = ["-u", pwd.getpwuid(os.stat(host).st_uid).pw_name] if os.getuid() == 0 and host.startswith("/") else []
        process = subprocess.Popen([PROGRAM, "-q", *user, str(folder / "pgbouncer.ini")], stderr=subprocess.DEVNULL)
        try:
            while not answers(port):
                assert process.poll() is None
            through = url.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
            yield {"REGISTRY_OWNER_DATABASE_URL": owner_url, "REGISTRY_DATABASE_URL": through}
        finally:
            process.terminate()
            process.wait(10)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def owner_url(postgres_url: str) -> Iterator[str]:
    with new_database(postgres_url) as url:
        yield url


@with_pgbouncer
def test_through_a_pooler_nothing_is_lost_and_no_site_sees_another(tmp_path: Path, owner_url: str) -> None:
    with (
        pooled(owner_url) as addresses,
        running_server(tmp_path, owner_url, **addresses, REGISTRY_POOLER="transaction") as server,
        live_study(server) as live,
        live_study(server) as other,
    ):
        theirs = other.enrolled()
        report = Report()
        with Load(live, report) as load:
            load.wait_for(100)
            for _ in range(10):
                assert [person["pid"] for person in other.staff.get("/v1/participants").json()["items"]] == [theirs]
        assert report.refused == {}
        assert report.faults == []
        with Database(settings_of(owner_url, tmp_path / "keys.json")) as database:
            load.acknowledged["participants"].add(theirs.replace("-", ""))
            assert list(differences(database, load)) == []
        analyst, extract = extract_of(other)
        assert analyst.get(f"{extract}/files/participants.csv").text.count("\n") == 3
        looked = typed(server.environment, "doctor")
        assert looked.returncode == 0, looked.stdout


@with_pgbouncer
@pytest.mark.parametrize("more", ["", "ignore_startup_parameters = options"])
def test_a_pooler_that_the_settings_do_not_name_is_refused(tmp_path: Path, owner_url: str, more: str) -> None:
    """Statements would be run under names that another worker gave to others."""
    with pooled(owner_url, more) as addresses:
        variables = {
            "REGISTRY_ENVIRONMENT": "demo",
            "REGISTRY_KEY_FILE": str(tmp_path / "keys.json"),
            "REGISTRY_ADMIN_PASSWORD": PASSWORD,
            **addresses,
        }
        assert typed(variables, "init").returncode == 0
        for command in ("serve", "doctor"):
            told = typed(variables, command)
            assert told.returncode in {1, 2}
            assert "pooler" in told.stderr + told.stdout


@on_postgresql
def test_with_a_pooler_each_transaction_sets_its_limits_and_nothing_is_prepared(world: World) -> None:
    settings = settings_of(str(world.registry.served.url), world.registry.app.state.settings.key_file)
    with Database(settings.model_copy(update={"pool_size": 1, "pooler": "transaction"})) as database:
        for _ in range(7):
            with database.read() as session:
                session.execute(text("SELECT 41 + 1"))
        with database.write() as session:
            assert session.execute(PREPARED).scalar_one() == 0
            told = [session.execute(text(f"SHOW {name}")).scalar_one() for name in ("statement_timeout", "jit")]
            session.rollback()
            told.append(session.execute(text("SHOW TimeZone")).scalar_one())
        assert told == ["30s", "off", "UTC"]
        with database.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            connection.rollback()
            assert driver.execute("SHOW statement_timeout").fetchone() == ("0",)
