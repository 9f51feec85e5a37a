"""Sessions that read."""

from contextlib import suppress

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InternalError
from sqlmodel import select

from app.access import found
from app.database import Database
from app.errors import NotFound
from app.models.study import Study
from tests.postgres import settings_of
from tests.world import World

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
PREPARED = text("SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 41 + 1'")


@on_postgresql
def test_a_session_that_reads_can_write_nothing(world: World) -> None:
    with pytest.raises(InternalError, match="read-only transaction"), world.registry.database.read() as session:
        session.execute(text("UPDATE study SET title = 'changed'"))


@on_postgresql
def test_what_is_asked_often_stays_prepared_whatever_else_is_read(world: World) -> None:
    """To parse and plan a page's statement takes PostgreSQL almost as long as the page does."""
    settings = settings_of(str(world.registry.served.url), world.registry.app.state.settings.key_file)
    with Database(settings.model_copy(update={"pool_size": 1})) as database:
        for _ in range(7):
            with database.read() as session:
                session.execute(text("SELECT 41 + 1"))
        with pytest.raises(NotFound), database.read() as session:
            found(session.execute(text("SELECT 1 WHERE false")).first())
        with database.read() as session:
            assert session.execute(PREPARED).scalar_one() == 1


@on_postgresql
def test_a_read_of_a_column_whose_type_changed_may_be_retried(world: World) -> None:
    """What a connection prepared gives the old type. Its next transaction prepares anew."""
    world.enrolled()
    for _ in range(world.registry.app.state.settings.pool_size * 7):
        assert world.monitor.get("/v1/participants").is_success
    try:
        migrate(world, "timestamptz(3)")
        told = [world.monitor.get("/v1/participants") for _ in range(10)]
    finally:
        migrate(world, "timestamptz")
    assert {answer.status_code for answer in told} == {200, 503}
    assert {answer.json()["code"] for answer in told if not answer.is_success} == {"database_unavailable"}
    assert told[-1].is_success


def migrate(world: World, kind: str) -> None:
    with world.registry.database.migrating() as owner:
        owner.exec_driver_sql(f"ALTER TABLE participant ALTER COLUMN created_at TYPE {kind}")


def test_what_a_read_changed_by_mistake_is_not_stored(world: World) -> None:
    read, own = world.registry.served.read, select(Study).where(Study.code == world.study)
    with suppress(InternalError), read() as session:
        session.exec(own).one().title = "Changed in a read"
    with read() as session:
        assert session.exec(own).one().title != "Changed in a read"
