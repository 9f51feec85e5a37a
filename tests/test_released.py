"""The upgrade promise: what any released version stored is restored, migrated and served by this one."""

import lzma
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlmodel import select

from app import __version__, audit, schema
from app.database import Database
from app.main import create_app
from app.models.account import Account
from app.services.operations import backups
from app.settings import Settings
from tests.conftest import ENGINES
from tests.postgres import new_database, settings_of
from tests.server import ADMIN, PASSWORD, ROOT
from tests.world import Caller

pytestmark = pytest.mark.usefixtures("client_programs")
EVENT = {"term": "Headache", "onset": "2025-02-03", "severity": "mild"}
RELEASED = sorted(path for path in (ROOT / "tests/data/released").iterdir() if path.is_dir())


def test_this_version_is_among_those_that_are_kept() -> None:
    """Made at its release by `python -m bench.release`."""
    assert __version__ in {path.name for path in RELEASED}


@pytest.fixture(params=[f"{path.name}/{engine}" for path in RELEASED for engine in ENGINES])
def released(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Settings]]:
    """A backup of that version, unpacked, and the settings of an empty database with its keys."""
    kept = ROOT / "tests/data/released" / request.param
    for file in kept.iterdir():
        if file.suffix == ".xz":
            (tmp_path / file.stem).write_bytes(lzma.decompress(file.read_bytes()))
    shutil.copy(kept / "manifest.json", tmp_path)
    keys = Path(shutil.copy(kept / "keys.json", tmp_path))
    keys.chmod(0o600)
    if kept.name == "sqlite":
        yield tmp_path, settings_of(f"sqlite:///{tmp_path / 'restored.db'}", keys)
        return
    with new_database(request.getfixturevalue("postgres_url")) as url:
        yield tmp_path, settings_of(url, keys)


def test_what_a_released_version_stored_is_served(released: tuple[Path, Settings]) -> None:
    backup, settings = released
    with Database(settings) as database:
        backups.restore(database, backup)
        schema.upgrade(database)
        app = create_app(settings)
        with TestClient(app) as client:
            signed_in = client.post("/v1/auth/sessions", json={"username": ADMIN, "password": PASSWORD})
            assert signed_in.status_code == 201, signed_in.text
            _served(Caller(client, _token(database, app, "staff-s03")))
        with database.read() as session:
            assert [one.fault for one in audit.verify(session) if one.fault] == []


def _token(database: Database, app: FastAPI, login: str) -> str:
    with database.read() as session:
        account = session.exec(select(Account).where(Account.login == login)).one()
        return str(app.state.tokens.issue(account.id, account.login, [], account.grants_version))


def _served(staff: Caller) -> None:
    """The person is found by the site's label, which only the old keys open; the whole course is there, and goes on."""
    label = {"study": "mdma-mdd-demo", "site": "S03", "site_local_id": "S03-012"}
    pid = staff.post("/v1/participants/lookup", label).json()["pid"]
    visits = staff.get("/v1/visits", participant=pid).json()["items"]
    outcomes = staff.get("/v1/outcomes", participant=pid, limit=200).json()["items"]
    sessions = staff.get("/v1/dosing-sessions", participant=pid).json()["items"]
    assert (len(visits), len(sessions)) == (15, 2)
    assert {item["participant"] for item in (*visits, *outcomes)} == {pid}
    assert all(item["scores"] for item in outcomes)
    assert staff.get(f"/v1/participants/{pid}/schedule").json()["items"]
    read = staff.get(f"/v1/visits/{visits[0]['id']}")
    changed = staff.patch(
        f"/v1/visits/{visits[0]['id']}", {"reason": "misread", "ended_on": None}, read.headers["ETag"]
    )
    assert changed.status_code == 200, changed.text
    assert staff.post("/v1/adverse-events", {"participant": pid, **EVENT}).status_code == 201
