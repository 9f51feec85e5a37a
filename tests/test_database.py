"""Sessions that read, on PostgreSQL. SQLite prepares each statement in the connection anyway."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import InternalError

from app.access import found
from app.database import Database
from app.errors import NotFound
from tests.postgres import settings_of
from tests.world import World

on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
PREPARED = text("SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 41 + 1'")


@on_postgresql
def test_who_reads_can_write_nothing(world: World) -> None:
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
