"""`registry doctor`: a healthy deployment passes, and each thing that is wrong is named with what to do."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import psycopg
import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from app import audit, schema
from app.commands import doctor
from app.database import Database
from app.models.audit import REGISTRY_CHAIN
from app.outages import reason
from app.security.keys import new_key_file, write_key_file
from app.services.operations import overdue_work, readiness
from app.settings import Settings
from tests.migrated import migrated_database
from tests.postgres import as_server, new_database
from tests.server import typed

Look = Mapping[str, tuple[bool, str]]


@pytest.fixture(params=("sqlite", "postgresql"))
def environment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The variables of a healthy deployment."""
    write_key_file(tmp_path / "keys.json", new_key_file())
    given = {"REGISTRY_KEY_FILE": str(tmp_path / "keys.json")}
    server = None if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    with migrated_database(server, tmp_path / "registry.db") as url:
        yield migrated(given, as_server(url), url) if server else migrated(given, url, None)


def migrated(given: dict[str, str], url: str, owner: str | None, **more: Any) -> dict[str, str]:
    settings = Settings(environment="demo", database_url=url, owner_database_url=owner, **more)
    with Database(settings) as database:
        schema.upgrade(database)
        with database.write() as session:
            audit.append(session, audit.SYSTEM, REGISTRY_CHAIN, [audit.Event("user:created", "account", "1", 1, [])])
    return {**given, "REGISTRY_DATABASE_URL": url, **({"REGISTRY_OWNER_DATABASE_URL": owner} if owner else {})}


def look(environment: Mapping[str, str], **changes: str) -> tuple[int, Look]:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    done = typed({**outside, **environment, **changes}, "doctor", "--json")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return done.returncode, {one["check"]: (one["well"], one["told"]) for one in found}


def wrong(found: Look) -> dict[str, str]:
    return {check: told for check, (well, told) in found.items() if not well}


def test_a_healthy_deployment_passes(environment: dict[str, str]) -> None:
    code, found = look(environment)
    assert (code, wrong(found)) == (0, {})
    assert len(found) >= 10


def test_open_or_missing_keys_and_a_journal_nobody_can_write_are_named(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "keys.json").chmod(0o644)
    nowhere = str(tmp_path / "no-folder" / "journal")
    code, found = look(environment, REGISTRY_ERASURE_JOURNAL=nowhere)
    assert code == 1
    assert wrong(found).keys() == {"keys", "erasure journal"}
    assert "chmod 600" in wrong(found)["keys"]


def test_tables_of_another_version_are_named_with_the_command(environment: dict[str, str]) -> None:
    owner = environment.get("REGISTRY_OWNER_DATABASE_URL", environment["REGISTRY_DATABASE_URL"])
    engine = create_engine(owner)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    engine.dispose()
    code, found = look(environment)
    assert (code, "registry migrate" in wrong(found)["tables"]) == (1, True)


def test_a_database_that_takes_no_writes_is_named(environment: dict[str, str]) -> None:
    with patch.object(readiness, "writable", return_value=False):
        code, found = look(environment)
    assert (code, wrong(found).keys()) == (1, {"writable"})


def test_a_connection_that_is_cut_in_the_midst_is_named_beside_what_was_found(environment: dict[str, str]) -> None:
    def cut(session: Session) -> None:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))  # which fails on SQLite too

    with patch.object(overdue_work, "_messages", cut):
        code, found = look(environment)
    assert (code, wrong(found).keys()) == (1, {"database"})
    assert {"chains", "labels"} <= found.keys()


@pytest.mark.parametrize(
    ("setting", "check", "said"),
    [("DATABASE_URL", "database", "registry init"), ("VAULT_URL", "vault", "registry backup restore --vault")],
)
def test_a_file_that_is_not_there_is_named_and_not_made(
    environment: dict[str, str], tmp_path: Path, setting: str, check: str, said: str
) -> None:
    mistyped = tmp_path / "mistyped.db"
    code, found = look(environment, **{f"REGISTRY_{setting}": f"sqlite:///{mistyped}"})
    assert (code, wrong(found).keys()) == (1, {check})
    assert said in wrong(found)[check]
    assert not mistyped.exists()


def test_a_full_disk_is_named_although_the_database_does_not_answer_for_it(environment: dict[str, str]) -> None:
    if "REGISTRY_OWNER_DATABASE_URL" in environment:
        pytest.skip("of PostgreSQL's disk its own monitoring knows")
    no_shared_memory = sqlite3.OperationalError("disk I/O error")
    no_shared_memory.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE  # as where not a page is free
    with (
        patch.object(doctor, "_version", side_effect=OperationalError("", None, no_shared_memory)),
        patch.object(shutil, "disk_usage", return_value=Mock(free=0)),
    ):
        code, found = look(environment)
    assert (code, wrong(found).keys()) == (1, {"disk", "database"})
    assert "disk is full" in found["database"][1]


def test_the_disks_of_a_vault_apart_and_of_the_backups_are_looked_at_too(
    environment: dict[str, str], tmp_path: Path
) -> None:
    vault, backups = tmp_path / "vault.db", tmp_path / "backups"
    backups.mkdir()
    apart = {"REGISTRY_VAULT_URL": f"sqlite:///{vault}", "REGISTRY_BACKUP_FOLDER": str(backups)}
    owner = environment.get("REGISTRY_OWNER_DATABASE_URL")
    migrated({}, environment["REGISTRY_DATABASE_URL"], owner, vault_url=apart["REGISTRY_VAULT_URL"])
    full = {str(vault), str(backups)}
    with patch.object(shutil, "disk_usage", lambda path: Mock(free=0 if str(path) in full else 2**40)):
        code, found = look(environment, **apart)
    assert (code, wrong(found).keys()) == (1, {"vault's disk", "backup's disk", "backup"})
    assert "200 MiB" in found["backup's disk"][1]


def test_a_role_of_too_much_or_too_little_and_a_database_that_is_away_are_named_without_any_secret(
    environment: dict[str, str],
) -> None:
    if "REGISTRY_OWNER_DATABASE_URL" not in environment:
        pytest.skip("SQLite has no roles and is not away")
    owner = environment["REGISTRY_OWNER_DATABASE_URL"]
    _, found = look(environment, REGISTRY_DATABASE_URL=owner)
    assert wrong(found).keys() == {"second wall"}
    engine = create_engine(owner)
    with engine.begin() as connection:
        connection.execute(
            text(f"REVOKE SELECT ON visit FROM {make_url(environment['REGISTRY_DATABASE_URL']).username}")
        )
    engine.dispose()
    code, found = look(environment)
    assert (code, "visit" in wrong(found)["second wall"]) == (1, True)
    away = "postgresql+psycopg://somebody:a-secret-word@127.0.0.1:9/registry"
    code, found = look(environment, REGISTRY_DATABASE_URL=away)
    assert (code, wrong(found).keys()) == (1, {"database"})
    assert "(refused)" in wrong(found)["database"]
    assert "a-secret-word" not in str(found)


def test_a_database_that_knows_the_capitals_of_ascii_only_is_named(
    environment: dict[str, str], postgres_url: str
) -> None:
    if "REGISTRY_OWNER_DATABASE_URL" not in environment:
        pytest.skip("SQLite is told them by the registry")
    template = make_url(postgres_url).set(database="template0").render_as_string()
    with new_database(postgres_url, template, "LOCALE 'C'") as url:
        code, found = look(environment, REGISTRY_DATABASE_URL=as_server(url))
    assert (code, "UTF-8" in wrong(found)["letters"]) == (1, True)


def test_the_reason_of_a_database_failure_is_one_word(environment: dict[str, str], tmp_path: Path) -> None:
    if "REGISTRY_OWNER_DATABASE_URL" not in environment:
        (tmp_path / "notes.txt").write_text("Zq-marker-90 " * 500)
        wrong_ones = {"not a database": f"sqlite:///{tmp_path / 'notes.txt'}", "cannot open": f"sqlite:///{tmp_path}"}
    else:
        right = make_url(environment["REGISTRY_DATABASE_URL"])
        changes = {
            "no such database": right.set(database="zq_marker_90"),
            "no such role": right.set(username="zq_marker_90"),
            "unknown host": make_url("postgresql+psycopg://zq_marker_90@zq-marker-90.invalid/registry"),
            "refused": make_url("postgresql+psycopg://zq_marker_90@127.0.0.1:9/registry"),
        }
        wrong_ones = {why: url.render_as_string(hide_password=False) for why, url in changes.items()}
    for why, url in wrong_ones.items():
        code, found = look(environment, REGISTRY_DATABASE_URL=url)
        assert code == 1
        assert f"({why})" in wrong(found)["database"]
        assert "marker" not in wrong(found)["database"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('FATAL:  password authentication failed for user "zq"', "password_refused"),
        ('FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "zq", database "zq"', "not_permitted"),
        ("FATAL:  the database system is starting up", "not_accepting"),
        ("FATAL:  sorry, too many clients already", "too_many_connections"),
        ("server closed the connection unexpectedly", "connection_lost"),
        ("FATAL:  unsupported startup parameter: options", "pooler_unnamed"),
        ('FATAL:  Passwort-Authentifizierung für Benutzer "zq" fehlgeschlagen', None),
    ],
)
def test_what_the_database_says_before_anybody_is_connected_is_known_by_its_words(text: str, why: str | None) -> None:
    assert reason(OperationalError("", None, psycopg.OperationalError(f"connection failed: {text}"))) == why


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (psycopg.errors.InvalidPassword(), "password_refused"),
        (psycopg.errors.CannotConnectNow(), "not_accepting"),
        (psycopg.errors.DeadlockDetected(), "deadlock"),
        (psycopg.errors.SerializationFailure(), "serialization_failure"),
        (psycopg.errors.QueryCanceled(), "timeout"),
        (psycopg.errors.ConnectionTimeout(), "timeout"),
    ],
)
def test_a_reason_that_has_a_code_is_known_by_it(error: Exception, why: str) -> None:
    assert reason(OperationalError("", None, error)) == why
