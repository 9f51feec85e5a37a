"""`registry user`, `client`, `grant` and `keys`, as an operator types them."""

import json
import os
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import psycopg
import pytest
import typer
from sqlalchemy import Engine, event
from sqlmodel import Session, col, select
from uvicorn.config import STARTUP_FAILURE

from app.database import Database
from app.models.account import ClientSecret
from app.models.audit import AuditEntry
from app.settings import Settings
from tests.conftest import ENGINES
from tests.pasted import blocks, pasted
from tests.postgres import as_server, new_database
from tests.server import ROOT, typed

Run = Callable[..., subprocess.CompletedProcess[str]]
WHY = ("--reason", "on leave")


def variables(folder: Path, database_url: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")},
        "REGISTRY_ENVIRONMENT": "demo",
        "REGISTRY_KEY_FILE": str(folder / "keys.json"),
        "REGISTRY_ADMIN_PASSWORD": "correct horse battery staple",
        "REGISTRY_NEW_PASSWORD": "another long password",
        "REGISTRY_DATABASE_URL": database_url,
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="module", params=ENGINES)
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of a registry that was set up with the admin `admin`."""
    folder = tmp_path_factory.mktemp("commands")
    if request.param == "sqlite":
        yield _set_up(variables(folder, f"sqlite:///{folder / 'registry.db'}"))
    else:
        with new_database(request.getfixturevalue("postgres_url")) as url:
            yield _set_up(variables(folder, url))


def _set_up(environment: dict[str, str]) -> dict[str, str]:
    assert typed(environment, "init").returncode == 0
    return environment


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """`registry ...` in this process: starting a new one for each command would take most of the time."""

    return lambda *arguments, **variables: typed({**environment, **variables}, *arguments)


@contextmanager
def stored(environment: dict[str, str]) -> Iterator[Session]:
    settings = Settings(database_url=environment["REGISTRY_DATABASE_URL"], environment="demo")
    with Database(settings) as database, database.read() as session:
        yield session


def refused(done: subprocess.CompletedProcess[str], sentence: str) -> bool:
    """Exit code 2 and a plain sentence, no traceback."""
    return (done.returncode, sentence in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_a_person_is_made_granted_disabled_and_shown(run: Run, environment: dict[str, str]) -> None:
    made = run("user", "create", "lee", "--name", "A. Lee", "--organisation", "Office")
    assert made.returncode == 0, made.stderr
    assert refused(run("user", "create", "lee", "--name", "A", "--organisation", "O"), "with this name already")
    assert run("grant", "give", "lee", "admin", "--reason", "deputy").stdout == "lee is admin now.\n"
    (grant,) = json.loads(run("grant", "list", "lee", "--json").stdout)
    assert (grant["role"], grant["site"]) == ("admin", None)
    assert run("grant", "list", "lee").stdout.startswith("admin  study: None")
    assert run("user", "disable", "lee", *WHY).returncode == 0
    (shown,) = json.loads(run("user", "show", "lee", "--json").stdout)
    assert (shown["disabled"], shown["grants"][0]["id"]) == (True, grant["id"])
    assert refused(run("grant", "give", "lee", "admin", *WHY), "The account is disabled")
    assert refused(run("user", "disable", "admin", *WHY), "without an admin")
    assert run("user", "enable", "lee", *WHY).returncode == 0
    assert run("grant", "revoke", "lee", grant["id"], *WHY).returncode == 0
    assert refused(run("grant", "revoke", "lee", grant["id"], *WHY), "lee has no such grant")
    assert refused(run("grant", "revoke", "lee", "5", *WHY), "a grant's id")
    assert {"admin", "lee"} <= {one["login"] for one in json.loads(run("user", "list", "--json").stdout)}
    with stored(environment) as session:
        entries = session.exec(select(AuditEntry).where(col(AuditEntry.reason) == "on leave")).all()
    assert [entry.action for entry in entries] == ["account:disabled", "account:enabled", "grant:revoked"]
    assert {entry.actor for entry in entries} == {"system"}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (("user", "show", "nobody"), "no user nobody. `registry user list` shows all."),
        (("user", "password", "nobody", *WHY), "no user nobody"),
        (("grant", "list", "nobody"), "no account nobody"),
        (("client", "secret-revoke", "admin", str(UUID(int=5)), *WHY), "no client admin"),
        (("user", "disable", "admin", "--reason", "x"), "reason:"),
        (("user", "disable", "admin"), "--reason"),
        (("grant", "give", "admin", "king", *WHY), "role:"),
        (("grant", "give", "admin", "monitor", *WHY), "study: admin has no study"),
        (("grant", "give", "admin", "monitor", *WHY, "--study", "no-such"), "no such study, or no such site in it"),
        (("client", "show", "admin"), "no client admin"),
        (("audit", "verify", "--file", "."), "is a directory"),
        (("keys", "retire", "unknown", *WHY), "no signing key"),
        (("keys", "retire", "unknown", "--kind", "kek", "--now", *WHY), "--now is for signing keys"),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, tuple) else "",
)
def test_a_refusal_is_a_plain_sentence(run: Run, line: tuple[str, ...], sentence: str) -> None:
    assert refused(run(*line), sentence)


def test_a_port_that_is_taken_is_told_before_anything_is_served(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--port", port)
    assert done.returncode == STARTUP_FAILURE, "systemd starts it again"
    assert "Serving" not in done.stdout
    assert done.stderr == f"Cannot listen on 127.0.0.1:{port} (Address already in use). Look at --host and --port.\n"


def test_a_file_that_is_no_database_is_told_in_one_sentence(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a database, and longer than its header would be\n" * 4)
    done = run("user", "list", REGISTRY_DATABASE_URL=f"sqlite:///{file}")
    assert refused(done, "(not a database)")


def test_a_password_that_nobody_types_is_asked_for_by_its_variable(run: Run) -> None:
    with patch("typer.prompt", side_effect=typer.Abort):
        assert refused(run("user", "password", "admin", *WHY, REGISTRY_NEW_PASSWORD=""), "set REGISTRY_NEW_PASSWORD")


def test_a_database_without_tables_is_named_by_its_setting(run: Run, tmp_path: Path) -> None:
    done = run("user", "list", REGISTRY_DATABASE_URL=f"sqlite:///{tmp_path / 'typed-wrong.db'}")
    assert refused(done, "REGISTRY_DATABASE_URL")


def test_a_weak_password_is_refused_and_not_repeated(run: Run) -> None:
    done = run("user", "password", "admin", *WHY, REGISTRY_NEW_PASSWORD="too-brief")
    assert refused(done, "password:")
    assert "too-brief" not in done.stdout + done.stderr


def test_a_secret_is_printed_once(run: Run, environment: dict[str, str]) -> None:
    made = dict(
        line.split(": ") for line in run("client", "create", "App", "--organisation", "Site A").stdout.splitlines()
    )
    assert made["client_secret"].startswith("rrs_")
    following = run("client", "secret", made["client_id"], *WHY, "--expires-in-days", "90").stdout
    assert following.startswith("client_secret: rrs_")
    assert refused(run("client", "secret", made["client_id"], *WHY), "Two secrets")
    assert refused(run("client", "secret-revoke", made["client_id"], "5", *WHY), "a secret's id")
    plain, as_json = run("client", "show", made["client_id"]).stdout, run("client", "show", made["client_id"], "--json")
    assert plain.count("\nsecret ") == 2
    secrets = json.loads(as_json.stdout)[0]["secrets"]
    assert len(secrets) == 2
    assert run("client", "secret-revoke", made["client_id"], secrets[0]["id"], *WHY).returncode == 0
    assert refused(run("client", "secret-revoke", made["client_id"], secrets[0]["id"], *WHY), "no such secret in use")
    (left,) = [
        one
        for one in json.loads(run("client", "show", made["client_id"], "--json").stdout)[0]["secrets"]
        if not one["revoked"]
    ]
    assert left["id"] == secrets[1]["id"]
    with stored(environment) as session:
        hidden = [row.digest for row in session.exec(select(ClientSecret)).all()]
    assert not [one for one in [*hidden, "rrs_"] if one in plain + as_json.stdout]


def test_the_pass_over_data_queries_says_how_many_it_changed(run: Run) -> None:
    done = run("queries", "refresh")
    assert (done.returncode, done.stdout) == (0, "0 data queries raised, closed or opened again.\n")


def test_keys_cannot_rotate_where_nothing_can_be_written(run: Run, environment: dict[str, str]) -> None:
    key_file = Path(environment["REGISTRY_KEY_FILE"])
    beside = key_file.with_name(f".{key_file.name}.new")
    before = key_file.read_bytes()
    beside.touch()
    try:
        assert refused(run("keys", "rotate", *WHY), "Another change of the keys is running")
    finally:
        beside.unlink()
    assert key_file.read_bytes() == before


def test_a_rotation_is_remembered_with_the_ids_of_the_keys(run: Run, environment: dict[str, str]) -> None:
    before = run("keys", "show").stdout
    assert run("keys", "rotate", "--reason", "remembered", "--kind", "kek").returncode == 0
    after = run("keys", "show").stdout
    (added,) = {line.split()[1] for line in after.splitlines()} - {line.split()[1] for line in before.splitlines()}
    with stored(environment) as session:
        entry = session.exec(select(AuditEntry).where(col(AuditEntry.reason) == "remembered")).one()
    (change,) = json.loads(entry.changes)
    assert (change["field"], [kid for kid in change["new"] if kid not in change["old"]]) == ("kek", [added])


DOCUMENTED = {
    "accounts": ("docs/deployment.md", "client_secret: rrs_"),
    "keys": ("docs/deployment.md", "retired"),
    "vault": ("docs/vault.md", "0 participants without a label"),
    "backup": ("docs/backup.md", "Restored elsewhere, and whole"),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documented_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """On SQLite; what they do on either database, the tests above show."""
    monkeypatch.chdir(tmp_path)
    environment = _set_up(variables(tmp_path, f"sqlite:///{tmp_path / 'registry.db'}"))
    page, told = DOCUMENTED[name]
    assert told in pasted(blocks(page, name), environment)


@pytest.mark.parametrize(
    "command", ["queries refresh", "extracts expire", "retries forget", "vault rewrap", "vault replay"]
)
def test_what_is_run_daily_can_be_run_again(run: Run, command: str) -> None:
    for _ in range(2):
        done = run(*command.split())
        assert (done.returncode, done.stdout[:2]) == (0, "0 "), done.stderr


NEW_USER = ("--name", "S. Sue", "--organisation", "Office")


@pytest.fixture
def no_room(environment: dict[str, str]) -> Iterator[None]:
    """SQLite may not take another page; PostgreSQL says what it says on a full disk."""
    url = environment["REGISTRY_DATABASE_URL"]
    if url.startswith("sqlite"):
        prepared: tuple[Any, str, Callable[..., object]] = (
            Engine,
            "connect",
            lambda connection, _: connection.execute("PRAGMA max_page_count = 1"),
        )
        event.listen(*prepared)
        yield
        event.remove(*prepared)
        return
    body = "BEGIN RAISE EXCEPTION 'no space' USING ERRCODE = 'disk_full'; END"
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as owner:
        owner.execute(f"CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $${body}$$")
        owner.execute("CREATE TRIGGER full_disk BEFORE INSERT ON account EXECUTE FUNCTION full_disk()")
        yield
        owner.execute("DROP FUNCTION full_disk CASCADE")


@pytest.mark.usefixtures("no_room")
def test_a_full_disk_is_reported_as_one(run: Run) -> None:
    for name in range(60):  # the last page may still have room for some
        done = run("user", "create", f"sue-{name}", *NEW_USER)
        if done.returncode:
            break
    assert refused(done, "disk is full")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def another_writer(environment: dict[str, str]) -> Iterator[None]:
    """Another program that is about to write, where one may at a time."""
    file = environment["REGISTRY_DATABASE_URL"].removeprefix("sqlite:///")
    if file == environment["REGISTRY_DATABASE_URL"]:
        pytest.skip("PostgreSQL has many writers")
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.usefixtures("another_writer")
def test_a_database_that_another_program_locks_is_reported_as_locked(run: Run) -> None:
    assert refused(run("user", "create", "sue", *NEW_USER, REGISTRY_POOL_TIMEOUT_SECONDS="0.1"), "Another program")


@pytest.mark.usefixtures("another_writer")
def test_a_reader_does_not_wait_for_the_writer(run: Run) -> None:
    accounts = (("user", "list"), ("client", "list"), ("user", "show", "admin"), ("grant", "list", "admin"))
    for looks in (*accounts, ("vault", "check")):
        done = run(*looks, REGISTRY_POOL_TIMEOUT_SECONDS="0.1")
        assert done.returncode == 0, (looks, done.stderr)


def test_what_needs_the_owner_says_so_to_the_servers_role(tmp_path: Path, postgres_url: str) -> None:
    with new_database(postgres_url) as url:
        served = as_server(url)
        environment = {**variables(tmp_path, served), "REGISTRY_OWNER_DATABASE_URL": url}
        assert typed(environment, "init").returncode == 0
        del environment["REGISTRY_OWNER_DATABASE_URL"]
        done = typed(environment, "vault", "rewrap")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "REGISTRY_OWNER_DATABASE_URL" in done.stderr
