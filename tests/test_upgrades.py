"""Data of every earlier revision come to this version whole and are served; the steps say what they will do."""

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from fastapi.testclient import TestClient
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, SQLModel

from app import audit, schema
from app.commands.migrate import WAITS, locks, steps
from app.database import Database
from app.main import create_app
from app.models.account import Account
from app.models.audit import REGISTRY_CHAIN
from app.models.base import canonical_json, now, table_of, values
from app.models.consent import Consent
from app.models.participant import Participant
from app.models.verification import Verification, VerificationResult, VerificationWithdrawal
from app.pid import display, draw
from app.settings import Settings
from tests.conftest import ENGINES
from tests.old_rows import Old, insert_rows, remember
from tests.postgres import new_database, settings_of
from tests.server import ROOT, typed
from tests.test_account_commands import refused, variables
from tests.world import Caller

CONFIG = Config(ROOT / "alembic.ini")
REVISIONS = [script.revision for script in ScriptDirectory.from_config(CONFIG).walk_revisions()][::-1]
DISABILITY = {"instrument": "SHEEHAN_SDS", "items": {"SDS_01": 7, "SDS_02": 8, "SDS_03": 6}}
HELD = """
SELECT relname, mode FROM pg_locks JOIN pg_class ON pg_class.oid = relation
WHERE pid = pg_backend_pid() AND relkind = 'r' AND relnamespace = current_schema()::regnamespace
"""


@pytest.fixture(params=ENGINES)
def settings(request: pytest.FixtureRequest, tmp_path: Path, key_file: Path) -> Iterator[Settings]:
    """Of an empty database."""
    if request.param == "sqlite":
        yield settings_of(f"sqlite:///{tmp_path / 'old.db'}", key_file)
        return
    with new_database(request.getfixturevalue("postgres_url")) as url:
        yield settings_of(url, key_file)


def climbed(connection: sa.Connection, revision: str) -> None:
    CONFIG.attributes["connection"] = connection
    command.upgrade(CONFIG, revision)


def held(connection: sa.Connection, there: set[str]) -> dict[str, str]:
    """The strongest lock of this transaction on each table that was there before it."""
    modes = [(table, mode) for table, mode in connection.execute(sa.text(HELD)) if table in there and mode in WAITS]
    return {table: min((mode for name, mode in modes if name == table), key=list(WAITS).index) for table, _ in modes}


def test_data_of_every_revision_are_served_by_this_one(settings: Settings) -> None:
    """Each revision's rows, in every table that it had, go through all later steps: one climb holds all upgrades. On
    the way PostgreSQL's own list of locks is held against what the plan says."""
    olds = []
    with Database(settings) as database:
        planned = {step.revision: step.statements for step in steps(schema.planned(database))}
        assert list(planned) == REVISIONS
        for revision in REVISIONS:
            with database.migrating() as connection:
                there = set(sa.inspect(connection).get_table_names()) - {"alembic_version"}
                climbed(connection, revision)
                if not database.is_sqlite:
                    assert held(connection, there) == locks(planned[revision], set()), revision
                olds.append(insert_rows(connection, revision))
        schema.upgrade(database)  # and what the server's role may do
        with database.read() as session:
            assert [one.fault for one in audit.verify(session) if one.fault] == []
        before = counts(database)
        assert before["screening"] == before["visit"] == len(REVISIONS)  # told of those who came before it was asked
        encrypted = REVISIONS[REVISIONS.index("0019") :]
        assert before["extract_chunk"] == len(encrypted)  # what lay in clear is built anew
        _served(settings, olds)
        kept = counts(database)
        schema.downgrade(database, REVISIONS[-2])
        lost = dict.fromkeys(kept.keys() - counts(database).keys(), 0)  # what only the last revision has
        schema.upgrade(database)
        assert counts(database) == {**kept, **lost}


def counts(database: Database) -> dict[str, int]:
    with database.engine.connect() as connection:
        names = set(sa.inspect(connection).get_table_names()) - {"alembic_version"}
        return {name: connection.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar_one() for name in names}


def _served(settings: Settings, olds: list[Old]) -> None:
    app = create_app(settings)
    with TestClient(app) as client:
        for old in olds:
            token = app.state.tokens.issue(old.of("account"), old.study, [], 1)
            staff, pid = Caller(client, token), display(old.pid)
            person = staff.get(f"/v1/participants/{pid}")
            assert (person.status_code, person.json()["pid"]) == (200, pid), (old.revision, person.text)
            for path in ("visits", "outcomes", "adverse-events"):
                (item,) = staff.get(f"/v1/{path}", participant=pid).json()["items"]
                assert item["participant"] == pid
            body = {"participant": pid, "visit": str(old.of("visit")), **DISABILITY}
            made = staff.post("/v1/outcomes", body)
            assert made.status_code == 201, (old.revision, made.text)
    with Database(settings) as database, database.read() as session:
        assert [one.fault for one in audit.verify(session) if one.fault] == []


def test_a_step_back_forgets_verified_dosing_sessions_and_keeps_the_guard(settings: Settings) -> None:
    with Database(settings) as database:
        with database.migrating() as connection:
            climbed(connection, "0027")
            old = insert_rows(connection, "0027")
        before = counts(database)
        of_session = {"subject_type": "dosing_session", "pid": old.pid, "session_id": old.of("dosing_session")}
        with database.migrating() as connection:
            made = Verification(**_by(old), **of_session, subject_version=1, result=VerificationResult.verified)
            withdrawal = VerificationWithdrawal(
                **_by(old, "withdrawn"), verification_id=made.id, reason="the wrong one"
            )
            for row in (made, withdrawal):
                connection.execute(sa.insert(table_of(type(row))).values(values(row)))
        schema.downgrade(database, "0025")
        schema.upgrade(database)
        assert counts(database) == before
        with pytest.raises(DBAPIError, match="append-only"), database.migrating() as connection:
            connection.execute(sa.text("DELETE FROM verification"))


def _by(old: Old, done: str = "verified") -> dict[str, Any]:
    return {"site_id": old.site_id, f"{done}_by": old.of("account")}


def test_a_step_back_keeps_the_first_consent_of_those_who_gave_it_anew(settings: Settings) -> None:
    """Then what they took back holds, and no older version shares what it cannot know to be shared."""
    told = sa.text("SELECT version, number, scopes FROM consent")
    with Database(settings) as database:
        with database.migrating() as connection:
            climbed(connection, "0032")
            old = insert_rows(connection, "0032")
            again = {**old.keys["consent"], "number": 2, "data_sharing": True}
            connection.execute(sa.insert(table_of(Consent)).values(again))
        schema.downgrade(database, REVISIONS[REVISIONS.index("0032") - 1])
        schema.upgrade(database)
        with database.migrating() as connection:
            assert connection.execute(told).all() == [("1", 1, '["main"]')]
            connection.execute(sa.insert(table_of(Consent)).values(again))


VOIDED = {
    **dict.fromkeys(("adverse_event", "outcome", "visit"), "records"),
    "consent": "consents",
    "dosing_session": "dosing sessions",
    **dict.fromkeys(("treatment_trial", "vital_reading"), "vital signs or treatments"),
    **dict.fromkeys(("participant", "screening"), "participants or screenings"),
}


def test_no_older_version_takes_over_while_a_record_is_voided(settings: Settings) -> None:
    """It would count it."""
    with Database(settings) as database:
        with database.migrating() as connection:
            climbed(connection, REVISIONS[-1])
            old = insert_rows(connection, REVISIONS[-1])
        by = {"voided_by": old.of("account"), "voided_at": now(), "voiding_reason": "of another participant"}
        for name, told in VOIDED.items():
            table = SQLModel.metadata.tables[name]
            with database.migrating() as connection:
                connection.execute(sa.update(table).values(by))
            with pytest.raises(Exception, match=f"There are voided {told}"):
                schema.downgrade(database, "0033")
            with database.migrating() as connection:
                assert connection.execute(sa.select(table.c.voiding_reason)).all() == [(by["voiding_reason"],)]
                connection.execute(sa.update(table).values(dict.fromkeys(by)))


LOST, WITHDREW, DIED = ("lost_to_follow_up", "2025-03-01"), ("withdrawn", "2025-03-02"), ("died", "2025-03-03")
BACK, COMPLETED = ("active", "2025-03-01"), ("completed", "2025-03-02")
COURSES = {
    (BACK, WITHDREW): [],
    (WITHDREW, DIED): [WITHDREW],
    (LOST, WITHDREW, DIED): [LOST, WITHDREW],
    (LOST, BACK, COMPLETED, DIED): [COMPLETED],
}
"""What participants went through, and which ends came before their present status."""


def test_the_ends_before_a_death_are_taken_from_the_trail(settings: Settings) -> None:
    with Database(settings) as database, database.migrating() as connection:
        climbed(connection, "0022")
        old = insert_rows(connection, "0022")
        people = {went_through(connection, old, course): ends for course, ends in COURSES.items()}
        mistaken = went_through(connection, old, (WITHDREW, BACK, DIED), "participant:status-corrected")
        climbed(connection, "0024")
        told = dict(connection.execute(sa.text("SELECT pid, earlier_ends FROM participant")).all())
    expected = {
        pid: canonical_json([{"status": status, "status_on": on} for status, on in ends]) if ends else None
        for pid, ends in people.items()
    }
    assert told == {old.pid: None, mistaken: None, **expected}


def went_through(
    connection: sa.Connection, old: Old, course: Sequence[tuple[str, str]], back: str = "participant:status-changed"
) -> str:
    """Another participant of the study. `back`: what the trail calls the way back into it."""
    pid, before = draw(), {"status": "enrolled", "status_on": "2025-02-01"}
    with Session(connection, join_transaction_mode="rollback_only") as session:
        for version, (status, on) in enumerate(course, 2):
            after = {"status": status, "status_on": on}
            action = back if status == "active" else "participant:status-changed"
            remember(session, old.site_id, audit.event(action, "participant", pid, version, before, after))
            before = after
        session.commit()
    row = {**old.keys["participant"], "pid": pid, "status": status, "status_on": date.fromisoformat(on)}
    connection.execute(sa.insert(table_of(Participant)).values(row))
    return pid


PASSWORDS = {
    ("account:created",): True,
    ("account:created", "password:changed", "session:opened"): False,
    ("account:created", "password:changed", "account:password-set"): True,
    ("account:created", "account:password-set", "password:changed"): False,
}
"""What the trail tells of accounts, and whether somebody else set the password that they have."""


def test_who_set_a_password_is_taken_from_the_trail(settings: Settings) -> None:
    with Database(settings) as database, database.migrating() as connection:
        climbed(connection, "0025")
        known = insert_rows(connection, "0025").keys["account"]
        made = {uuid4(): (told, given) for told, given in PASSWORDS.items()}
        columns = (*known, "password_hash")
        accounts = sa.table("account", *(sa.column(name, table_of(Account).c[name].type) for name in columns))
        with Session(connection, join_transaction_mode="rollback_only") as session:
            for account, (told, _) in made.items():
                row = {**known, "id": account, "login": account.hex, "password_hash": "x"}
                session.execute(sa.insert(accounts), row)
                for action in told:
                    remember(session, REGISTRY_CHAIN, audit.Event(action, "account", str(account), 1, []))
            session.commit()
        climbed(connection, "0026")
        wanted = sa.select(table_of(Account).c["id", "password_given_at"])
        found = {row.id: row.password_given_at is not None for row in connection.execute(wanted)}
    assert found == {known["id"]: False, **{account: given for account, (_, given) in made.items()}}


def test_a_database_of_a_newer_version_is_left_alone_and_said_to_be_one(settings: Settings) -> None:
    with Database(settings) as database:
        schema.upgrade(database)
        with database.migrating() as connection:
            connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
        for act in (schema.require_head, schema.upgrade, schema.planned):
            with pytest.raises(schema.SchemaOutdated, match=r"9999, which a newer version made.*Install"):
                act(database)
        app = create_app(settings)
        with pytest.raises(schema.SchemaOutdated, match="newer version"), TestClient(app):
            """The server does not start either."""
        app.state.database.dispose()


def test_the_plan_is_shown_and_nothing_is_changed(settings: Settings, tmp_path: Path) -> None:
    url = settings.owner_database_url or settings.database_url
    with Database(settings) as database:
        schema.upgrade(database, "0014")
        given = {**variables(tmp_path, url)}
        told = typed(given, "migrate", "--plan")
        missing = len(REVISIONS) - REVISIONS.index("0014") - 1
        assert (told.returncode, told.stdout.count("-- Step")) == (0, missing), told.stderr
        assert "CREATE TABLE label_disclosure" in told.stdout
        assert (
            "account: ShareRowExclusiveLock; it is read as before; writing waits" in told.stdout
        ) != database.is_sqlite
        assert schema.current(database) == "0014"
        refusal = typed(given, "serve")
        assert refused(refusal, "Take a backup, then run: registry migrate") or "key" in refusal.stderr
        assert typed(given, "migrate").returncode == 0
        assert "nothing would run" in typed(given, "migrate", "--plan").stdout


def test_the_plan_of_a_vault_of_its_own_is_shown_too(tmp_path: Path) -> None:
    """Restored from an older backup than the rest."""
    given = {
        **variables(tmp_path, f"sqlite:///{tmp_path / 'main.db'}"),
        "REGISTRY_VAULT_URL": f"sqlite:///{tmp_path / 'vault.db'}",
    }
    assert typed(given, "migrate").returncode == 0
    with Database(Settings(environment="demo", database_url=given["REGISTRY_VAULT_URL"])) as vault:
        schema.downgrade(vault, REVISIONS[-2])
    told = typed(given, "migrate", "--plan").stdout
    assert "-- The database is up to date; nothing would run." in told
    assert f"-- In the vault's database:\n-- Step {REVISIONS[-1]}\n" in told
