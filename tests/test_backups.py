"""Backups: made while sites write, verified by a restore, refused if anything in them was changed."""

import json
import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from unittest.mock import Mock

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import inspect, make_url, text

from app import schema
from app.database import Database
from app.main import create_app
from app.models.base import now
from app.security.keys import KeysUnusable
from app.services.operations import backups, erasure, vault_care
from app.services.operations.backups import BackupRefused
from app.services.operations.vault_care import Check
from app.settings import Settings
from tests.course_cases import WITHDRAWAL
from tests.migrated import migrated_database
from tests.postgres import as_server, new_database, settings_of
from tests.server import typed
from tests.world import Registry, World

JOURNAL = "erasures.jsonl"


pytestmark = pytest.mark.usefixtures("client_programs")


@pytest.fixture(params=("sqlite", "postgresql"))
def source(request: pytest.FixtureRequest, tmp_path: Path, key_file: Path) -> Iterator[Settings]:
    server = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with migrated_database(server, tmp_path / "registry.db") as url:
        yield settings_of(url, key_file, erasure_journal=tmp_path / JOURNAL)


@pytest.fixture
def empty(source: Settings, request: pytest.FixtureRequest, tmp_path: Path, key_file: Path) -> Iterator[Settings]:
    """Settings of a machine with an empty database, the same keys and the same journal."""
    if source.database_url.startswith("sqlite"):
        yield settings_of(f"sqlite:///{tmp_path / 'restored.db'}", key_file, erasure_journal=tmp_path / JOURNAL)
        return
    with new_database(request.getfixturevalue("postgres_url")) as url:
        yield settings_of(url, key_file, erasure_journal=tmp_path / JOURNAL)


@contextmanager
def at_work(settings: Settings) -> Iterator[World]:
    """A registry with these settings, in which something happens."""
    with Database(settings) as database:
        schema.upgrade(database)
        app = create_app(settings)
        with TestClient(app) as client:
            yield World(Registry(app, client, database))


@pytest.fixture
def world(source: Settings) -> Iterator[World]:
    with at_work(source) as world:
        yield world


def cli(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    given = {name: str(value) for name, value in settings.model_dump(exclude_none=True).items()}
    return typed({**os.environ, **{f"REGISTRY_{name.upper()}": value for name, value in given.items()}}, *arguments)


def test_what_is_restored_is_served_as_it_was(world: World, source: Settings, empty: Settings, tmp_path: Path) -> None:
    pid, kept = world.enrolled(), world.enrolled()
    made = cli(source, "backup", "make", str(tmp_path / "one"))
    assert made.returncode == 0, made.stderr
    assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals", {**WITHDRAWAL, "scope": "identity"}).is_success
    done = cli(empty, "backup", "restore", str(tmp_path / "one"))
    assert done.returncode == 0, done.stderr
    assert "1 labels erased again" in done.stdout
    app = create_app(empty)
    with Database(empty) as database, TestClient(app) as client:
        there = World(Registry(app, client, database))
        there.study, there.study_id, there.site_ids = world.study, world.study_id, world.site_ids
        for path in (f"/v1/participants/{pid}", f"/v1/participants/{kept}"):
            assert there.staff_a.get(path).json() == world.staff_a.get(path).json()
        assert there.staff_a.post("/v1/participants", there.enrolment()).status_code == 201
    assert cli(empty, "audit", "verify").returncode == 0


@pytest.mark.parametrize("missing", ["key_file", "erasure_journal"])
def test_nothing_is_restored_if_later_erasures_cannot_be_repeated(
    world: World, source: Settings, empty: Settings, tmp_path: Path, missing: str
) -> None:
    world.enrolled()
    assert cli(source, "backup", "make", str(tmp_path / "one")).returncode == 0
    unreadable = tmp_path / "unreadable"
    unreadable.mkdir()
    refused = cli(empty.model_copy(update={missing: unreadable}), "backup", "restore", str(tmp_path / "one"))
    assert (refused.returncode, "Nothing was restored" in refused.stderr) == (2, True), refused.stdout
    assert "cannot be read" in refused.stderr
    done = cli(empty, "backup", "restore", str(tmp_path / "one"))
    assert done.returncode == 0, done.stderr


def test_a_restore_whose_erasures_cannot_be_done_again_says_so(
    world: World, source: Settings, empty: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.enrolled()
    assert cli(source, "backup", "make", str(tmp_path / "one")).returncode == 0
    monkeypatch.setattr(erasure, "replay", Mock(side_effect=KeysUnusable("The disk of the keys is gone.")))
    done = cli(empty, "backup", "restore", str(tmp_path / "one"))
    assert (done.returncode, done.stdout.startswith("Restored")) == (2, True)
    assert "not all erased again" in done.stderr
    assert "registry vault replay" in done.stderr
    assert "The disk of the keys is gone." in done.stderr


def test_what_is_restored_is_planned_for_from_the_first_request_on(
    world: World, source: Settings, empty: Settings, tmp_path: Path
) -> None:
    if world.on_sqlite:
        pytest.skip("SQLite plans without statistics")
    world.enrolled()
    assert cli(source, "backup", "make", str(tmp_path / "one")).returncode == 0
    assert cli(empty, "backup", "restore", str(tmp_path / "one")).returncode == 0
    with Database(empty) as database, database.engine.connect() as connection:
        known = connection.execute(
            text("SELECT DISTINCT tablename FROM pg_stats WHERE schemaname = 'public'")
        ).scalars()
        assert {"participant", "audit_entry"} <= set(known)


def test_a_backup_is_of_one_moment_while_sites_write(world: World, tmp_path: Path) -> None:
    stop, failed = threading.Event(), []

    def write() -> None:
        while not stop.is_set():
            answer = world.staff_a.post("/v1/participants", world.enrolment())
            if answer.status_code != 201:
                failed.append(answer.text)

    world.enrolled()
    writer = threading.Thread(target=write)
    writer.start()
    try:
        with Database(world.registry.app.state.settings) as database:
            made = [backups.make(database, tmp_path / name, now()) for name in ("one", "two")]
    finally:
        stop.set()
        writer.join()
    assert not failed
    for manifest in made:
        rows = manifest.rows
        assert rows["participant"] == rows["vault_identity"] == rows["consent"] == rows["screening"]
        assert rows["audit_entry"] == sum(chain.seq for chain in manifest.chains)


def test_a_backup_is_verified_by_restoring_it_elsewhere(
    world: World, source: Settings, empty: Settings, tmp_path: Path
) -> None:
    world.enrolled()
    assert cli(source, "backup", "make", str(tmp_path / "one")).returncode == 0
    named = make_url(empty.owner_database_url).database if empty.owner_database_url else None
    elsewhere = ["--scratch", named] if named else []
    for _ in ("this month", "the next"):
        done = cli(source, "backup", "verify", str(tmp_path / "one"), *elsewhere)
        assert (done.returncode, "Restored elsewhere, and whole" in done.stdout) == (0, True), done.stderr
    with Database(empty) as database:
        assert inspect(database.engine).get_table_names() == [], "a copy stayed behind"


def test_a_database_that_is_in_use_is_no_place_to_try_a_backup(world: World, source: Settings, tmp_path: Path) -> None:
    if world.on_sqlite:
        pytest.skip("it is tried in a file of its own")
    world.enrolled()
    assert cli(source, "backup", "make", str(tmp_path / "one")).returncode == 0
    named = str(make_url(source.owner_database_url or "").database)
    done = cli(source, "backup", "verify", str(tmp_path / "one"), "--scratch", named)
    assert (done.returncode, "not empty" in done.stderr) == (2, True)
    assert world.staff_a.get("/v1/participants").json()["items"]


def test_the_folders_group_sees_that_there_is_a_backup_and_never_the_copy(
    world: World, source: Settings, tmp_path: Path
) -> None:
    assert cli(source, "backup", "daily", str(tmp_path / "all")).returncode == 0
    ((place, manifest),) = [(file.parent, file) for file in (tmp_path / "all").rglob("manifest.json")]
    (copy,) = set(place.iterdir()) - {manifest}
    modes = {path.stat().st_mode & 0o777 for path in (place.parent, place)}, manifest.stat().st_mode & 0o777
    assert (*modes, copy.stat().st_mode & 0o777) == ({0o750}, 0o640, 0o600)


def test_a_vault_apart_is_backed_up_and_restored_with_the_rest(
    request: pytest.FixtureRequest, source: Settings, empty: Settings, tmp_path: Path
) -> None:
    """Daily, into folders of their own; restored one by one, and only then is erased again what was erased since."""
    with ExitStack() as databases:
        there, here = (
            at.model_copy(update=_vault(databases, request, at, tmp_path / f"{name}.db"))
            for at, name in ((source, "vault"), (empty, "restored-vault"))
        )
        with at_work(there) as world:
            pid, kept = world.enrolled(), world.enrolled()
            assert cli(there, "backup", "daily", str(tmp_path / "all")).returncode == 0
            erased = world.staff_a.post(f"/v1/participants/{pid}/withdrawals", {**WITHDRAWAL, "scope": "identity"})
            assert erased.is_success, erased.text
        (rest,), (labels,) = (list((tmp_path / "all" / kind).iterdir()) for kind in ("database", "vault"))
        first = cli(here, "backup", "restore", str(rest))
        assert "not erased again yet" in first.stdout, first.stderr
        second = cli(here, "backup", "restore", str(labels), "--vault")
        assert "1 labels erased again" in second.stdout, second.stderr
        assert "1 labels, 0 of them reservations" in cli(here, "vault", "check").stdout
        with Database(here) as restored, restored.vault.read() as session:  # type: ignore[union-attr]
            assert [row.pid for row in session.execute(text("SELECT pid FROM vault_identity"))] == [
                kept.replace("-", "")
            ]


def test_a_main_database_restored_beside_its_vault_remembers_every_erasure_again(
    request: pytest.FixtureRequest, source: Settings, empty: Settings, tmp_path: Path
) -> None:
    """The vault has lost the label already, and the trail that told so was not in the backup."""
    with ExitStack() as databases:
        vault = _vault(databases, request, source, tmp_path / "vault.db")
        there, here = (at.model_copy(update=vault) for at in (source, empty))
        with at_work(there) as world:
            pid, _ = world.enrolled(), world.enrolled()
            backups.make(world.registry.database, tmp_path / "one", now())
            world.staff_a.post(f"/v1/participants/{pid}/withdrawals", {**WITHDRAWAL, "scope": "identity"})
        restored = cli(here, "backup", "restore", str(tmp_path / "one"))
        assert restored.stdout.endswith("0 labels erased again.\n1 erasures written to the audit trail again.\n")
        assert cli(here, "vault", "replay").stdout == "0 labels erased again.\n"
        with Database(here) as database:
            assert vault_care.check(database, sweep=False) == Check(labels=1, reservations=0, nameless=0, left=0)


def test_a_vault_older_than_the_main_database_is_reported_when_it_is_restored_and_later(
    request: pytest.FixtureRequest, source: Settings, tmp_path: Path
) -> None:
    """Who was enrolled between the two would be found by nobody, and be enrolled a second time."""
    with ExitStack() as databases:
        there, here = (
            source.model_copy(update=_vault(databases, request, source, tmp_path / f"{name}.db"))
            for name in ("vault", "restored-vault")
        )
        with at_work(there) as world:
            world.enrolled()
            assert cli(there, "backup", "make", str(tmp_path / "one"), "--vault").returncode == 0
            world.enrolled()
            assert cli(there, "doctor").returncode == 0, cli(there, "doctor").stdout
        restored = cli(here, "backup", "restore", str(tmp_path / "one"), "--vault")
        assert (restored.returncode, "1 participants" in restored.stderr) == (2, True), restored.stdout
        assert "older than the rest" in restored.stderr
        looked = cli(here, "doctor")
        assert (looked.returncode, "WRONG  people: 1 participants" in looked.stdout) == (1, True), looked.stdout


def _vault(
    databases: ExitStack, request: pytest.FixtureRequest, settings: Settings, file: Path
) -> dict[str, str | None]:
    """Settings of a database of its own for the labels."""
    if settings.database_url.startswith("sqlite"):
        return {"vault_url": f"sqlite:///{file}"}
    url = databases.enter_context(new_database(request.getfixturevalue("postgres_url")))
    return {"vault_url": as_server(url), "owner_vault_url": url}


def test_of_many_backups_the_newest_stay(world: World, source: Settings, tmp_path: Path) -> None:
    folder, at = tmp_path / "database", now()
    with Database(source) as database:
        for days in (3, 2, 1):
            backups.make(database, folder / f"day-{days}", at - timedelta(days=days))
    for name, ended in (("interrupted", at - timedelta(days=2)), ("at work", at), ("of somebody", at)):
        (folder / name).mkdir()
        for left in ("registry.db", *(f"registry.db-{of}" for of in ("journal", "wal", "shm"))):
            (folder / name / left).touch()
        os.utime(folder / name, (ended.timestamp(), ended.timestamp()))
    (folder / "of somebody" / "letters.txt").touch()
    (folder / "a file").touch()
    assert {path.name for path in backups.forget(folder, 2)} == {"day-3", "interrupted"}
    assert [path.name for _, path in backups.finished(folder)] == ["day-2", "day-1"]


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(BackupRefused) as refused:
        act()
    return str(refused.value)


def test_a_backup_that_finds_no_room_says_so_and_leaves_nothing(world: World, tmp_path: Path) -> None:
    with Database(world.registry.app.state.settings) as database, room_for(8192):
        told = refusal(lambda: backups.make(database, tmp_path / "all" / "one", now()))
    assert "See that the disk has room" in told
    assert list((tmp_path / "all").iterdir()) == []


def test_a_restore_that_finds_no_room_says_so_and_is_done_once_there_is(
    world: World, source: Settings, empty: Settings, tmp_path: Path
) -> None:
    with Database(source) as database, Database(empty) as target:
        whole = backups.make(database, tmp_path / "one", now())
        if world.on_sqlite:  # PostgreSQL's files are its server's: pg_restore tells of them
            with room_for(65_536):
                assert "has room" in refusal(lambda: backups.restore(target, tmp_path / "one"))
        assert backups.restore(target, tmp_path / "one") == whole


@contextmanager
def room_for(most: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: what a full disk does, without filling one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_damaged_interrupted_or_in_the_way_is_refused(
    world: World, source: Settings, empty: Settings, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    with Database(source) as database, Database(empty) as target:
        manifest = backups.make(database, whole, now())
        assert "there already" in refusal(lambda: backups.make(database, whole, now()))
        assert "not empty" in refusal(lambda: backups.restore(database, whole))
        cut = Path(shutil.copytree(whole, tmp_path / "cut"))
        (cut / "manifest.json").unlink()
        assert "interrupted" in refusal(lambda: backups.restore(target, cut))
        bent = Path(shutil.copytree(whole, tmp_path / "bent"))
        content = bytearray((bent / manifest.file).read_bytes())
        content[len(content) // 2] ^= 1
        (bent / manifest.file).write_bytes(content)
        assert "is damaged" in refusal(lambda: backups.restore(target, bent))
        other = Path(shutil.copytree(whole, tmp_path / "other"))
        told = json.loads((other / "manifest.json").read_text())
        told["rows"]["participant"] += 1
        (other / "manifest.json").write_text(json.dumps(told))
        assert "other rows" in refusal(lambda: backups.restore(target, other))


def test_a_changed_entry_of_the_trail_does_not_pass_as_restored(
    world: World, source: Settings, empty: Settings, tmp_path: Path
) -> None:
    world.enrolled()
    with Database(source) as database:
        for statement in unlocked(database):
            with database.migrating() as connection:
                connection.execute(text(statement))
        backups.make(database, tmp_path / "one", now())
    with Database(empty) as target:
        assert "audit chain" in refusal(lambda: backups.restore(target, tmp_path / "one"))


def unlocked(database: Database) -> list[str]:
    """What somebody with the owner's password can do: switch the walls off, and write history anew."""
    change = "UPDATE audit_entry SET actor = 'somebody else' WHERE seq = 1"
    if not database.is_sqlite:
        return ["ALTER TABLE audit_entry DISABLE TRIGGER USER", change]
    with database.engine.connect() as connection:
        named = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'audit_entry'"
        return [*(f"DROP TRIGGER {name}" for name in connection.execute(text(named)).scalars()), change]


def test_a_password_is_on_no_command_line_and_in_no_message(
    source: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if source.database_url.startswith("sqlite"):
        pytest.skip("SQLite has no password")
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "pg_dump"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\nexit 3\n')
    program.chmod(0o700)
    with Database(source) as database:
        schema.upgrade(database)
        assert "pg_dump failed (exit 3)" in refusal(lambda: backups.make(database, tmp_path / "one", now()))
        program.unlink()
        assert "not installed" in refusal(lambda: backups.make(database, tmp_path / "two", now()))
    password = make_url(source.owner_database_url or "").password
    asked = (tmp_path / "asked").read_text()
    assert "--dbname=" in asked
    assert not password or password not in asked
    assert "sslcertmode" not in asked  # which the library knows, and programs of PostgreSQL 15 refuse
