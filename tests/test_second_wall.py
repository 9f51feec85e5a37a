"""The second wall: what PostgreSQL refuses when the application's own rules fail. SQLite has one wall."""

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import UniqueConstraint, func, select, text, true
from sqlalchemy.exc import DatabaseError
from sqlmodel import Session, SQLModel

from app import access
from app.access import Actor
from app.database import Database, within
from app.database_role import OF_A_SITE as TABLES
from app.database_role import RightsMissing, SecondWallMissing, grant, require_second_wall
from app.models.account import Role
from app.models.participant import Participant
from app.privileges import PRIVILEGES
from tests.dosing_cases import a_session, a_signal
from tests.monitor_cases import an_event
from tests.route_cases import CASES, OF_A_SITE, Route, a_visit
from tests.world import World

READS = sorted(route for route in OF_A_SITE if route[0] == "GET")
LISTS = (
    *("/v1/participants", "/v1/visits", "/v1/outcomes", "/v1/adverse-events", "/v1/audit-entries"),
    *("/v1/dosing-sessions", "/v1/safety-signals"),
)
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def test_every_table_is_named_among_the_servers_privileges() -> None:
    assert PRIVILEGES.keys() - {"alembic_version"} == SQLModel.metadata.tables.keys()


def test_every_unique_rule_on_a_sites_rows_includes_the_site() -> None:
    assert len(TABLES) > 8
    for name in TABLES - {
        "idempotency_record",
        "extract_subject",
        "notification",
    }:  # named by account, extract, delivery
        table = SQLModel.metadata.tables[name]
        rules = [table.primary_key, *(rule for rule in table.constraints if isinstance(rule, UniqueConstraint))]
        assert all("site_id" in rule.columns for rule in rules), table.name
        assert all("site_id" in index.columns for index in table.indexes if index.unique), table.name


@on_postgresql
def test_every_table_of_a_sites_rows_has_row_level_security(world: World) -> None:
    guarded = text(
        "SELECT relname FROM pg_class JOIN pg_policy ON polrelid = pg_class.oid "
        "WHERE relrowsecurity AND relnamespace = current_schema()::regnamespace"
    )
    with world.registry.database.read() as session:
        assert set(session.scalars(guarded)) == TABLES


@on_postgresql
def test_within_no_site_not_even_the_actors_own_rows_are_there(world: World) -> None:
    world.enrolled()
    people = select(func.count()).select_from(Participant)
    with world.registry.served.read(world.request(world.account((Role.site_staff, "A")))) as session:
        before = session.scalar(people)
        with within(session, []):
            none = session.scalar(people)
        assert (before, none, session.scalar(people)) == (1, 0, 1)


@on_postgresql
def test_a_block_within_another_gives_the_sites_of_that_one_back(world: World) -> None:
    for site in ("A", "B", "B"):
        world.enrolled(site)
    a, b = world.site_ids["A"], world.site_ids["B"]
    people = select(func.count()).select_from(Participant)

    def fail(session: Session) -> None:
        with session.begin_nested(), within(session, [a]):
            raise KeyError

    with world.registry.served.read(world.request(world.account((Role.site_staff, "A")))) as session:
        with within(session, [b]):
            with within(session, [a, b]):
                assert session.scalar(people) == 3
            assert session.scalar(people) == 2
            with within(session, []):
                assert session.scalar(people) == 0
            assert session.scalar(people) == 2
            with pytest.raises(KeyError):
                fail(session)
            with within(session, [a, b]):
                assert session.scalar(people) == 3
            assert session.scalar(people) == 2
        assert session.scalar(people) == 1


@pytest.fixture
def first_wall_down(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application itself shows everybody everything."""
    everything = {name: lambda actor: true() for name in access.SCOPES}
    monkeypatch.setattr(access, "SCOPES", everything)
    of_study = world.site_ids

    def sites_at(_actor: Actor, _study: str | None, site: str | None) -> list[int]:
        return [of_study[site]] if site else list(of_study.values())

    monkeypatch.setattr(Actor, "sites_at", sites_at)


@on_postgresql
@pytest.mark.parametrize("route", READS, ids=" ".join)
def test_without_the_first_wall_another_sites_record_still_is_not_there(
    world: World, first_wall_down: None, route: Route
) -> None:
    assert CASES[route](world, world.staff_a, "B").status_code == 404


@on_postgresql
@pytest.mark.parametrize("path", LISTS)
def test_without_the_first_wall_a_list_still_holds_own_rows_only(
    world: World, first_wall_down: None, path: str
) -> None:
    for site in ("A", "B"):
        a_visit(world, site), an_event(world, site), a_session(world, site), a_signal(world, site)
    places = {(item["study"], item["site"]) for item in world.staff_a.get(path, limit="500").json()["items"]}
    assert (world.study, "A") in places
    assert places <= {(world.study, "A"), (None, None)}  # the registry's own chain belongs to no site


def at_site(world: World, site: str) -> Any:
    return world.request(world.account((Role.site_staff, site)))


@on_postgresql
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE visit SET site_id = {b} WHERE site_id = {a}",
        "UPDATE participant SET site_id = {b} WHERE site_id = {a}",
        "INSERT INTO audit_chain (site_id, seq, hash) VALUES ({b}, 0, repeat('0', 64))",
        "INSERT INTO visit SELECT {b}, gen_random_uuid(), pid, visit_code, 9, occurred_on, ended_on, status, "
        "deviation_reason, findings, version, created_by, created_at, updated_at FROM visit WHERE site_id = {a}",
    ],
)
def test_no_row_is_written_into_another_site(world: World, statement: str) -> None:
    a_visit(world, "A")
    asked = text(statement.format(a=world.site_ids["A"], b=world.site_ids["B"]))
    with (
        pytest.raises(DatabaseError, match="row-level security"),
        world.registry.served.write(at_site(world, "A")) as session,
    ):
        session.execute(asked)


@on_postgresql
def test_another_sites_rows_can_be_neither_seen_nor_changed(world: World) -> None:
    a_visit(world, "B")
    with world.registry.served.write(at_site(world, "A")) as session:
        assert session.execute(text("UPDATE visit SET status = 'missed', occurred_on = NULL")).rowcount == 0  # type: ignore[attr-defined]
        assert session.execute(text("SELECT * FROM visit")).all() == []
    with world.registry.served.read(at_site(world, "B")) as session:
        assert len(session.execute(text("SELECT * FROM visit")).all()) == 1


@on_postgresql
def test_a_session_without_an_actor_sees_nothing(world: World) -> None:
    a_visit(world, "A")
    with world.registry.served.read() as session:
        for table in sorted(TABLES - {"audit_chain", "idempotency_record"}):
            of_a_site = text(f"SELECT 1 FROM {table} WHERE site_id IS NOT NULL")
            assert session.execute(of_a_site).all() == [], table


@on_postgresql
def test_one_pooled_connection_never_carries_the_sites_of_one_actor_to_the_next(world: World) -> None:
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


@on_postgresql
def test_production_refuses_to_serve_as_the_owner_or_without_the_wall(world: World) -> None:
    production = world.registry.app.state.settings.model_copy(update={"environment": "production"})
    require_second_wall(world.registry.served, production)
    with pytest.raises(SecondWallMissing, match="must not connect as a superuser"):
        require_second_wall(world.registry.database, production)
    with world.registry.database.migrating() as connection:
        connection.exec_driver_sql("ALTER TABLE visit DISABLE ROW LEVEL SECURITY")
    try:
        with pytest.raises(SecondWallMissing, match="visit"):
            require_second_wall(world.registry.served, production)
    finally:
        with world.registry.database.migrating() as connection:
            connection.exec_driver_sql("ALTER TABLE visit ENABLE ROW LEVEL SECURITY")


@on_postgresql
@pytest.mark.parametrize(
    ("makes", "unmakes"),
    [
        ("ALTER DATABASE {database} OWNER TO {role}", "ALTER DATABASE {database} OWNER TO CURRENT_USER"),
        ("ALTER SCHEMA public OWNER TO {role}", "ALTER SCHEMA public OWNER TO pg_database_owner"),
        ("CREATE ROLE {role}_more SUPERUSER ROLE {role}", "DROP ROLE {role}_more"),
        ("CREATE ROLE {role}_more BYPASSRLS ROLE {role}", "DROP ROLE {role}_more"),
        ("CREATE ROLE {role}_more CREATEROLE ROLE {role}", "DROP ROLE {role}_more"),
        ("CREATE ROLE {role}_more REPLICATION ROLE {role}", "DROP ROLE {role}_more"),
        ("GRANT pg_execute_server_program TO {role}", "REVOKE pg_execute_server_program FROM {role}"),
        ("GRANT pg_write_server_files TO {role}", "REVOKE pg_write_server_files FROM {role}"),
        ("GRANT pg_read_all_data TO {role}", "REVOKE pg_read_all_data FROM {role}"),
        ("CREATE ROLE {role}_more IN ROLE pg_write_all_data ROLE {role}", "DROP ROLE {role}_more"),
    ],
    ids=[
        *("owner of the database", "owner of the schema", "may be superuser", "may pass row security"),
        *("may make roles", "may copy the cluster", "runs programs", "writes files", "reads all data"),
        "may write all data by another role",
    ],
)
def test_production_refuses_a_role_that_could_take_down_the_wall(world: World, makes: str, unmakes: str) -> None:
    settings, owner = world.registry.app.state.settings, world.registry.database
    named = {"role": f"r{uuid4().hex}", "database": owner.url.database}
    url = owner.url.set(username=named["role"], password=named["role"]).render_as_string(hide_password=False)
    production = settings.model_copy(update={"environment": "production", "database_url": url})

    def as_owner(*statements: str) -> None:
        with owner.migrating() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement.format_map(named))

    as_owner("CREATE ROLE {role} LOGIN PASSWORD '{role}'")
    with owner.migrating() as connection:
        grant(connection, named["role"])
    try:
        with Database(production, for_server=True) as served:
            require_second_wall(served, production)
            as_owner(makes)
            with pytest.raises(SecondWallMissing, match="must not connect as a superuser"):
                require_second_wall(served, production)
    finally:
        as_owner(unmakes, "DROP OWNED BY {role}", "DROP ROLE {role}")


@on_postgresql
@pytest.mark.parametrize(
    "lost",
    ["SELECT ON visit", "DELETE ON throttle", "UPDATE (lifted_at) ON data_lock", "INSERT (hash) ON audit_entry"],
)
def test_a_server_whose_role_may_not_do_its_work_does_not_start(world: World, lost: str) -> None:
    """As after a migration by an owner who was not told whom to give the rights."""
    owner, table = world.registry.database, lost.rpartition(" ")[2]
    with owner.migrating() as connection:
        connection.exec_driver_sql(f"REVOKE {lost} FROM {owner.server_role}")
    try:
        with pytest.raises(RightsMissing, match=f"on {table}.*OWNER_DATABASE_URL.*registry migrate"):
            require_second_wall(world.registry.served, world.registry.app.state.settings)
    finally:
        with owner.migrating() as connection:
            grant(connection, str(owner.server_role))
    require_second_wall(world.registry.served, world.registry.app.state.settings)
