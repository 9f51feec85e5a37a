"""The second wall: what the database refuses when the application's own rules fail."""

from types import SimpleNamespace

import pytest
from sqlalchemy import UniqueConstraint, text, true
from sqlalchemy.exc import DatabaseError
from sqlmodel import SQLModel

from app import access, audit
from app.database import Database
from app.database_role import PRIVILEGES
from tests.route_cases import CASES, OF_A_SITE, Route
from tests.world import World

READS = sorted(route for route in OF_A_SITE if route[0] == "GET")
LISTS = ("/v1/participants", "/v1/visits", "/v1/outcomes", "/v1/adverse-events")


def test_every_table_is_named_among_the_servers_privileges() -> None:
    assert PRIVILEGES.keys() - {"alembic_version"} == SQLModel.metadata.tables.keys()


def test_every_unique_rule_on_a_sites_rows_includes_the_site() -> None:
    of_a_site = [table for table in SQLModel.metadata.sorted_tables if "site_id" in table.c and "pid" in table.c]
    assert len(of_a_site) > 5
    for table in of_a_site:
        rules = [table.primary_key, *(rule for rule in table.constraints if isinstance(rule, UniqueConstraint))]
        assert all("site_id" in rule.columns for rule in rules), table.name
        assert all("site_id" in index.columns for index in table.indexes if index.unique), table.name


@pytest.fixture
def first_wall_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application itself shows everybody everything."""
    everything = {name: lambda actor: true() for name in access.SCOPES}
    monkeypatch.setattr(access, "SCOPES", everything)


@pytest.mark.parametrize("route", READS, ids=" ".join)
def test_without_the_first_wall_another_sites_record_still_is_not_there(
    world: World, first_wall_down: None, route: Route
) -> None:
    if world.registry.served.is_sqlite:
        return  # SQLite has one wall
    assert CASES[route](world, world.staff_a, "B").status_code == 404


@pytest.mark.parametrize("path", LISTS)
def test_without_the_first_wall_a_list_still_holds_own_rows_only(
    world: World, first_wall_down: None, path: str
) -> None:
    if world.registry.served.is_sqlite:
        return
    for site in ("A", "B"):
        staff = world.staff_a if site == "A" else world.staff_b
        staff.post("/v1/visits", world.visit(world.enrolled(site), outcomes=[]))
    shown = world.staff_a.get(path)
    assert shown.status_code == 200
    assert {item["site"] for item in shown.json()["items"]} <= {"A"}


ATTACKS = (
    "UPDATE audit_entry SET actor = 'x'",
    "DELETE FROM audit_entry",
    "DELETE FROM audit_chain",
    "UPDATE audit_chain SET seq = seq + 1 WHERE site_id = 0",
    "UPDATE audit_chain SET seq = 0 WHERE site_id = 0",
    "UPDATE audit_chain SET hash = 'x' WHERE site_id = 0",
    "INSERT INTO audit_chain (site_id, seq, hash) VALUES (0, 9, 'x')",
    "INSERT INTO audit_entry ({all}) VALUES (0, 1, {rest}, '{genesis}', 'h')",
    "INSERT INTO audit_entry ({all}) VALUES (0, 1000000, {rest}, '{genesis}', 'h')",
    "INSERT INTO audit_entry ({all}) SELECT 0, max(seq) + 1, {rest}, 'forged', 'h' FROM audit_entry WHERE site_id = 0",
    "DROP TABLE audit_entry",
    "DROP TABLE audit_chain",
    "ALTER TABLE audit_entry ADD COLUMN more int",
    "ALTER TABLE audit_entry RENAME TO other",
    "CREATE TABLE mine (id int)",
    "CREATE TEMP TABLE audit_entry (id int)",
    "CREATE INDEX mine ON audit_entry (actor)",
)
ON_SQLITE = (
    "INSERT OR REPLACE INTO audit_entry SELECT * FROM audit_entry",
    "INSERT OR REPLACE INTO audit_chain SELECT site_id, 0, '{genesis}' FROM audit_chain",
    "REPLACE INTO audit_entry SELECT * FROM audit_entry WHERE seq = 1",
    "UPDATE OR REPLACE audit_entry SET seq = 1",
    "DROP TRIGGER audit_entry_follows",
    "DROP TRIGGER audit_entry_no_update",
    "PRAGMA recursive_triggers = OFF",
    "PRAGMA foreign_keys = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA journal_mode = DELETE",
    "UPDATE sqlite_master SET sql = ''",
    "DELETE FROM sqlite_master WHERE type = 'trigger'",
    "ATTACH ':memory:' AS other",
    "CREATE TRIGGER mine BEFORE INSERT ON audit_entry BEGIN SELECT RAISE(IGNORE); END",
)
ON_POSTGRESQL = (
    "TRUNCATE audit_entry",
    "TRUNCATE audit_chain",
    "INSERT INTO audit_entry SELECT * FROM audit_entry ON CONFLICT (site_id, seq) DO UPDATE SET actor = 'x'",
    "ALTER TABLE audit_entry DISABLE TRIGGER ALL",
    "ALTER TABLE audit_entry DISABLE TRIGGER audit_entry_follows",
    "ALTER TABLE audit_entry DISABLE ROW LEVEL SECURITY",
    "DROP TRIGGER audit_entry_follows ON audit_entry",
    "DROP POLICY own_sites ON visit",
    "DROP FUNCTION audit_entry_follows() CASCADE",
    "CREATE OR REPLACE FUNCTION audit_entry_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    "SET session_replication_role = replica",
    "SET SESSION AUTHORIZATION postgres",
    "GRANT ALL ON audit_entry TO PUBLIC; UPDATE audit_entry SET actor = 'x'",
    "COPY audit_entry TO PROGRAM 'true'",
    "CREATE SCHEMA mine",
)
_COLUMNS = "site_id, seq, at, actor, action, subject_type, subject_id, subject_version, changes, previous_hash, hash"


@pytest.mark.parametrize("attack", [*ATTACKS, *ON_SQLITE, *ON_POSTGRESQL])
def test_the_servers_own_connection_cannot_touch_the_trail(world: World, attack: str) -> None:
    served = world.registry.served
    if attack in (ON_POSTGRESQL if served.is_sqlite else ON_SQLITE):
        return  # no such thing on this engine
    world.admin.post("/v1/clients", {"name": "App", "organisation": "Test"})
    rest = "CURRENT_TIMESTAMP, 'x', 'x', 'x', 'x', 1, '[]'"
    statement = attack.format(all=_COLUMNS, rest=rest, genesis=audit.GENESIS)
    with pytest.raises(DatabaseError), served.write() as session:
        session.execute(text(statement.replace(":", r"\:")))
    with world.registry.database.read() as session:
        assert [verdict for verdict in audit.verify(session) if verdict.fault] == []


@pytest.mark.parametrize("statement", ["UPDATE visit SET site_id = {b}", "DELETE FROM consent", "SELECT * FROM visit"])
def test_a_session_without_an_actor_sees_and_moves_nothing(world: World, statement: str) -> None:
    world.staff_a.post("/v1/visits", world.visit(world.enrolled()))
    served = world.registry.served
    if served.is_sqlite:
        return
    with served.read() as session:
        try:
            done = session.execute(text(statement.format(b=world.site_ids["B"])))
        except DatabaseError:
            return
        assert (done.all() if done.returns_rows else done.rowcount) in ([], 0)  # type: ignore[attr-defined]


def test_one_pooled_connection_never_carries_the_sites_of_one_actor_to_the_next(world: World) -> None:
    served = world.registry.served
    if served.is_sqlite:
        return
    for site in ("A", "B"):
        world.enrolled(site)
    settings = world.registry.app.state.settings.model_copy(update={"pool_size": 1})
    leaks = []
    with Database(settings, for_server=True) as one:
        for turn in range(1_000):
            own = world.site_ids["AB"[turn % 2]]
            actor = SimpleNamespace(clinical_sites={own} if turn % 5 else set())
            request = SimpleNamespace(state=SimpleNamespace(actor=actor))
            try:
                with one.write(request) as session:  # type: ignore[arg-type]
                    if turn % 3 == 0:
                        with session.begin_nested() as savepoint:
                            savepoint.rollback()
                    if turn % 11 == 0:
                        session.rollback()
                    seen = set(session.scalars(text("SELECT DISTINCT site_id FROM participant")))
                    leaks += seen ^ set(actor.clinical_sites)
                    if turn % 7 == 0:
                        session.execute(text("SELECT 1 / 0"))
            except DatabaseError:
                continue
    assert leaks == []
