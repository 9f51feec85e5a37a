"""Runs migrations: on the connection that the caller hands over, or on REGISTRY_DATABASE_URL. Asked for SQL only, it
writes that of PostgreSQL and connects to nothing."""

from typing import Any

from alembic import context
from alembic.operations import MigrationScript
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlmodel import SQLModel

import app.models  # noqa: F401 - fills the metadata
from app.database import Database
from app.settings import Settings


def numbered(_context: MigrationContext, _revision: Any, scripts: list[MigrationScript]) -> None:
    """A new migration has the number after the newest, whatever was asked for: a number twice is no history."""
    newest = ScriptDirectory.from_config(context.config).get_current_head()
    scripts[0].rev_id = f"{int(newest or 0) + 1:04}"


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        compare_type=True,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=True,
        process_revision_directives=numbered,
    )
    with context.begin_transaction():
        context.run_migrations()


def written() -> None:
    context.configure(dialect_name="postgresql", literal_binds=True)
    context.run_migrations()


handed_over: Connection | None = context.config.attributes.get("connection")
if context.is_offline_mode():
    written()
elif handed_over is not None:
    migrate(handed_over)
else:
    with Database(Settings()).migrating() as connection:
        migrate(connection)
