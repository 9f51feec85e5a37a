"""The schema: models and migrations agree, both ways, on both engines; the database itself holds the rules."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script
from sqlalchemy import CheckConstraint, inspect, text
from sqlalchemy.exc import DatabaseError, IntegrityError
from sqlmodel import SQLModel, select

from app import schema
from app.database import Database
from app.models.audit import AuditEntry
from app.models.participant import Participant
from app.models.visit import Visit
from app.settings import Settings
from tests.conftest import ENGINES
from tests.postgres import new_database
from tests.world import World


@pytest.fixture(params=ENGINES)
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An unmigrated database."""
    if request.param == "sqlite":
        with Database(Settings(environment="demo", database_url=f"sqlite:///{tmp_path / 'empty.db'}")) as database:
            yield database
    else:
        server = request.getfixturevalue("postgres_url")
        with new_database(server) as url, Database(Settings(environment="demo", database_url=url)) as database:
            yield database


def tables(database: Database) -> set[str]:
    return set(inspect(database.engine).get_table_names()) - {"alembic_version"}


def test_models_equal_migrations(empty: Database) -> None:
    schema.upgrade(empty)
    with empty.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, SQLModel.metadata) == []
    assert tables(empty) == set(SQLModel.metadata.tables)


@pytest.mark.parametrize("empty", ["sqlite"], indirect=True)
def test_a_new_migration_takes_the_next_free_number(empty: Database, tmp_path: Path) -> None:
    schema.upgrade(empty)
    there = copytree(schema.ROOT / "migrations", tmp_path / "migrations", ignore=ignore_patterns("__pycache__"))
    config = Config(schema.ROOT / "alembic.ini")
    config.set_main_option("script_location", str(there))
    with empty.migrating() as connection:
        config.attributes["connection"] = connection
        made = command.revision(config, "add_column_x", autogenerate=True, rev_id="0002")
    assert isinstance(made, Script)
    assert made.revision == f"{int(schema.head() or 0) + 1:04}"
    assert made.down_revision == schema.head()


@pytest.mark.parametrize("empty", ["sqlite"], indirect=True)
def test_scores_lie_in_their_key_on_sqlite(empty: Database) -> None:
    """Autogenerate does not compare how a table lies."""
    schema.upgrade(empty)
    with empty.engine.connect() as connection:
        made = connection.execute(text("SELECT sql FROM sqlite_master WHERE name = 'outcome_score'")).scalar_one()
    assert made.rstrip().endswith("WITHOUT ROWID")


def test_check_constraints_of_models_and_migrations_are_the_same(empty: Database) -> None:
    """Autogenerate does not compare CHECKs, so their names are compared here."""
    schema.upgrade(empty)
    inspector = inspect(empty.engine)
    for table in SQLModel.metadata.sorted_tables:
        declared = {str(check.name) for check in table.constraints if isinstance(check, CheckConstraint)}
        stored = {check["name"] for check in inspector.get_check_constraints(table.name)}
        prefix = f"ck_{table.name}_"
        assert {name.removeprefix(prefix) for name in declared} == {
            str(name).removeprefix(prefix) for name in stored
        }, table.name


def test_the_schema_goes_up_down_and_up_again(empty: Database) -> None:
    schema.upgrade(empty)
    schema.downgrade(empty, "base")
    assert tables(empty) == set()
    schema.upgrade(empty)
    schema.require_head(empty)


def test_a_migration_gives_way_to_a_long_transaction_and_changes_nothing(
    empty: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if empty.is_sqlite:
        pytest.skip("SQLite has one writer, who is waited for")
    schema.upgrade(empty, "0015")
    monkeypatch.setattr("app.database.LOCK_MILLISECONDS", 50)
    monkeypatch.setattr(schema, "TRIES", 2)
    with empty.engine.connect() as busy:
        busy.execute(text("LOCK TABLE study IN ROW EXCLUSIVE MODE"))
        began = time.monotonic()
        with pytest.raises(schema.MigrationBlocked, match="Nothing was changed"):
            schema.upgrade(empty)
        assert time.monotonic() - began < 5, "sites queue behind it"
        assert "label_disclosure" not in tables(empty)
    schema.upgrade(empty)
    assert "label_disclosure" in tables(empty)


def test_a_migration_that_would_wait_forever_is_tried_again(empty: Database) -> None:
    """A reader has one table and wants another, which the migration has, and which waits for the first."""
    if empty.is_sqlite:
        pytest.skip("SQLite has one writer, who is waited for")
    schema.upgrade(empty, "0022")
    waits = text("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
    with empty.engine.connect() as reader, ThreadPoolExecutor() as beside:
        reader.execute(text("SET deadlock_timeout = '10s'"))  # it is the migration that notices
        reader.execute(text("SELECT 1 FROM participant"))
        migrated = beside.submit(schema.upgrade, empty)
        with empty.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as looking:
            while not looking.execute(waits).all():
                assert not migrated.done()
        reader.execute(text("SELECT 1 FROM withdrawal"))
        reader.rollback()
        migrated.result(60)
    schema.require_head(empty)


def test_a_database_without_tables_is_refused_at_start(empty: Database) -> None:
    with pytest.raises(schema.SchemaOutdated, match="registry migrate"):
        schema.require_head(empty)


def first(world: World, table: type[Participant] | type[Visit]) -> Participant | Visit:
    site = world.site_ids["A"]
    with world.registry.database.read() as session:
        return session.exec(select(table).where(table.site_id == site)).one()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("status", "'healed'"),
        ("occurrence", "0"),
        ("occurred_on", "NULL"),
        ("ended_on", "'2024-01-01'"),
        ("site_id", "999999"),
        ("pid", "'ZZZZZZZZZZZZ'"),
    ],
)
def test_the_database_itself_refuses_an_impossible_visit(world: World, column: str, value: str) -> None:
    world.staff_a.post("/v1/visits", world.visit(world.enrolled()))
    visit = first(world, Visit)
    with pytest.raises(IntegrityError), world.registry.database.write() as session:
        session.execute(text(f"UPDATE visit SET {column} = {value} WHERE id = :id"), {"id": key(world, visit)})


def key(world: World, row: Participant | Visit) -> object:
    assert isinstance(row, Visit)
    return row.id.hex if world.on_sqlite else row.id


def test_a_visit_cannot_hang_on_another_sites_participant(world: World) -> None:
    pid = world.enrolled("A").replace("-", "")
    person = first(world, Participant)
    with pytest.raises(IntegrityError), world.registry.database.write() as session:
        session.add(
            Visit(
                site_id=world.site_ids["B"],
                pid=pid,
                visit_code="BL",
                occurred_on=date(2025, 1, 25),
                status="completed",
                created_by=person.created_by,
            )
        )


ATTACKS = (
    "UPDATE audit_entry SET actor = 'somebody else'",
    "DELETE FROM audit_entry",
    "UPDATE audit_entry SET seq = seq + 100000",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_audit_entries_cannot_be_changed_by_sql(world: World, attack: str) -> None:
    world.enrolled()
    with pytest.raises(DatabaseError, match="append-only"), world.registry.database.write() as session:
        session.execute(text(attack))


def test_audit_entries_cannot_be_replaced_or_truncated(world: World) -> None:
    world.enrolled()
    sqlite = world.on_sqlite
    attack = "INSERT OR REPLACE INTO audit_entry SELECT * FROM audit_entry" if sqlite else "TRUNCATE audit_entry"
    with pytest.raises(DatabaseError, match="append-only"), world.registry.database.write() as session:
        session.execute(text(attack))
    with world.registry.database.read() as session:
        assert session.exec(select(AuditEntry).where(AuditEntry.site_id == world.site_ids["A"])).first() is not None
