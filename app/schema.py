"""The database's schema: bring it to the newest revision, and refuse to work on another one."""

from functools import cache
from io import StringIO
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError

from app.database import LOCKED, Database
from app.database_role import grant
from app.errors import CannotGoOn

ROOT = Path(__file__).resolve().parent.parent
TRIES = 10
"""With the pause that each wait for a lock is, half a minute."""

GIVES_WAY = {LOCKED, "40P01"}
"""SQLSTATEs of PostgreSQL for a lock that did not come in time, and for two who would wait for each other forever."""


class SchemaOutdated(CannotGoOn):
    """The database is not at the revision that this version works with; the message says what to do."""


class MigrationBlocked(CannotGoOn):
    """Somebody else's transaction kept the tables; the message says what to do."""


def _config() -> Config:
    """Of the migrations beside the package, in a source tree as in a virtual environment."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "migrations").replace("%", "%%"))
    return config


def upgrade(database: Database, revision: str = "head") -> None:
    """Migrate, in one transaction, and give the server's role what it needs of the tables that are now there. A lock
    that somebody holds is asked for again; sites can write in between. Raises MigrationBlocked, or SchemaOutdated for a
    database of a newer version."""
    _require_known(current(database))
    for _ in range(TRIES):
        try:
            _upgrade(database, revision)
            break
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) not in GIVES_WAY:  # on SQLite it was waited for already
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


def current(database: Database) -> str | None:
    """The database's revision; None when it has no tables yet."""
    with database.engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


class _Statements(StringIO):
    """Keeps what alembic writes in SQL mode, which is a statement or a comment a call."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[str] = []

    def write(self, text: str) -> int:
        if not text.startswith("--"):
            self.kept.append(text.strip().rstrip(";"))
        return len(text)


def planned(database: Database) -> list[str]:
    """The SQL of the steps that are missing; nothing is changed. PostgreSQL is asked for its revision only. SQLite's
    steps read what they change, so they are taken on an empty database in memory. Raises SchemaOutdated for a database
    of a newer version."""
    revision = current(database)
    _require_known(revision)
    config, statements = _config(), _Statements()
    if not database.is_sqlite:
        config.output_buffer = statements
        command.upgrade(config, f"{revision or 'base'}:head", sql=True)
        return statements.kept
    engine = create_engine("sqlite://")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        if revision is not None:
            command.upgrade(config, revision)
        event.listen(connection, "before_cursor_execute", lambda *event: statements.write(event[2]))
        command.upgrade(config, "head")
    engine.dispose()
    return statements.kept


@cache
def head() -> str | None:
    """The newest revision."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def require_head(database: Database) -> None:
    """Raises SchemaOutdated unless the database is at the newest revision."""
    revision = current(database)
    _require_known(revision)
    if revision is None:
        raise SchemaOutdated(
            "The database of REGISTRY_DATABASE_URL has no tables yet. If it should have some, its address is wrong. "
            "Else run: registry init (on an upgrade: registry migrate)"
        )
    if revision != head():
        raise SchemaOutdated(
            f"The database is at revision {revision}, this version needs {head()}. "
            "Take a backup, then run: registry migrate"
        )


@cache
def _known() -> frozenset[str]:
    """The revisions that this version has a migration to."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _require_known(revision: str | None) -> None:
    """Raises SchemaOutdated for a revision that a later version made."""
    if revision is not None and revision not in _known():
        raise SchemaOutdated(
            f"The database is at revision {revision}, which a newer version made; this one knows up to {head()}. "
            "Nothing was changed. Install the version that served it last, or a newer one"
        )


def is_served_at(revision: str | None) -> bool:
    """Whether a worker of this version, which started at its own revision, can serve on: at that, or after the
    migration of a newer version, which may run meanwhile."""
    return revision is not None and (revision == head() or revision not in _known())


def require_vault_head(database: Database) -> None:
    """The same of a vault of its own. Raises SchemaOutdated."""
    if database.vault is None:
        return
    if current(database.vault) is None:
        raise SchemaOutdated(
            "The labels' database (REGISTRY_VAULT_URL) has no tables. See that its address is right and its disk "
            "there. One that is lost is restored (registry backup restore --vault); a new one is made by: "
            "registry migrate"
        )
    require_head(database.vault)
