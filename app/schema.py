"""The database's schema: bring it to the newest revision, and refuse to work on another one."""

from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.exc import OperationalError

from app.database import Database
from app.database_role import grant
from app.errors import CannotGoOn

ROOT = Path(__file__).resolve().parent.parent
TRIES = 10
"""With the pause that each wait for a lock is, half a minute."""

LOCK_NOT_AVAILABLE = "55P03"
"""SQLSTATE of PostgreSQL for a lock that did not come in time."""


class SchemaOutdated(CannotGoOn):
    """The database is not at the revision that this version works with; the message says what to do."""


class MigrationBlocked(CannotGoOn):
    """Somebody else's transaction kept the tables; the message says what to do."""


def _config() -> Config:
    return Config(ROOT / "alembic.ini")


def upgrade(database: Database, revision: str = "head") -> None:
    """Migrate, in one transaction, and give the server's role what it needs of the tables that are now there. A lock
    that somebody holds is asked for again; sites can write in between. Raises MigrationBlocked."""
    for _ in range(TRIES):
        try:
            _upgrade(database, revision)
            break
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE:
                raise
    else:
        raise MigrationBlocked(
            "Another transaction holds a table that has to change. Nothing was changed. Let it end "
            "(pg_stat_activity shows it, and registry backup is one), then run this again: registry migrate"
        )
    if database.vault is not None:  # of the same schema, though only its own table is used
        upgrade(database.vault, revision)


def _upgrade(database: Database, revision: str) -> None:
    config = _config()
    with database.migrating() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        if not database.is_sqlite and database.server_role is not None:
            grant(connection, database.server_role)


def downgrade(database: Database, revision: str) -> None:
    config = _config()
    with database.migrating() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


@cache
def head() -> str | None:
    """The newest revision."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def require_head(database: Database) -> None:
    """Raises SchemaOutdated unless the database is at the newest revision."""
    with database.engine.connect() as connection:
        current = MigrationContext.configure(connection).get_current_revision()
    if current != head():
        raise SchemaOutdated(
            f"The database is at revision {current}, this version needs {head()}. Run: registry migrate"
        )


def require_vault_head(database: Database) -> None:
    """The same of a vault of its own. Raises SchemaOutdated."""
    if database.vault is not None:
        require_head(database.vault)
