"""`registry migrate`: bring the tables to this version, or print the SQL and locks that this would take."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, NamedTuple

import typer

PLAN = Annotated[bool, typer.Option("--plan", help="Change nothing; print the SQL and, on PostgreSQL, who would wait.")]

WAITS: Mapping[str, str] = {
    "AccessExclusiveLock": "nobody reads or writes it meanwhile",
    "ShareRowExclusiveLock": "it is read as before; writing waits",
    "ShareLock": "it is read as before; writing waits",
    "RowExclusiveLock": "only who changes the same rows waits",
}
"""PostgreSQL's table locks that other sessions may wait for, strongest first, by their names in pg_locks.
Source: https://www.postgresql.org/docs/current/explicit-locking.html"""

_TAKES = (
    ("ShareRowExclusiveLock", r"ALTER TABLE (\w+) (?:ENABLE|DISABLE) (?:ALWAYS |REPLICA )?TRIGGER\b"),
    ("ShareRowExclusiveLock", r"ALTER TABLE (\w+) ADD (?:CONSTRAINT \w+ )?FOREIGN KEY\b"),
    ("AccessExclusiveLock", r"(?:ALTER|DROP) TABLE (?:IF EXISTS )?(\w+)"),
    ("AccessExclusiveLock", r"(?:CREATE|ALTER|DROP) POLICY (?:IF EXISTS )?\w+ ON (\w+)"),
    ("AccessExclusiveLock", r"DROP TRIGGER (?:IF EXISTS )?\w+ ON (\w+)"),
    ("AccessExclusiveLock", r"TRUNCATE (?:TABLE )?(\w+)"),
    ("ShareRowExclusiveLock", r"CREATE TRIGGER \w+ [^;]*?\bON (\w+)"),
    ("ShareLock", r"CREATE (?:UNIQUE )?INDEX (?!CONCURRENTLY)\w+ ON (\w+)"),
    ("RowExclusiveLock", r"(?:UPDATE|INSERT INTO|DELETE FROM) (\w+)"),
)
"""The lock that a statement takes on a table; the first pattern that matches counts. A test compares it with
pg_locks."""


class Step(NamedTuple):
    revision: str
    statements: list[str]


def migrate(plan: PLAN = False) -> None:
    """Bring the database's tables to this version."""
    from app import schema
    from app.database import Database
    from app.services.operations import vault_care
    from app.settings import Settings

    with Database(Settings()) as database:
        if plan:
            for whose, one in (("database", database), ("vault's database", database.vault)):
                if one is not None:
                    _show(whose, list(steps(schema.planned(one))), one.is_sqlite)
            return
        vault_care.require_not_lost(database)
        schema.upgrade(database)
    typer.echo("The database is up to date.")


def steps(statements: Iterable[str]) -> Iterator[Step]:
    """The statements by step of the migration: each step ends with the statement that stores its revision."""
    taken: list[str] = []
    for statement in statements:
        taken.append(statement)
        reached = re.search(r"(?:SET version_num=|\(version_num\) VALUES \()'(\w+)'", statement)
        if reached:
            yield Step(reached[1], taken)
            taken = []


def locks(statements: Iterable[str], made: set[str]) -> dict[str, str]:
    """The strongest lock of each table. Tables in `made` are new, so nobody waits for them; tables that these
    statements make are added to `made`."""
    strongest: dict[str, str] = {}
    for statement in statements:
        new = re.match(r"CREATE TABLE (\w+)", statement)
        if new:
            made.add(new[1])
        taken = [(table, "ShareRowExclusiveLock") for table in re.findall(r"\bREFERENCES (\w+)", statement)]
        fitting = (
            (match[1], lock)
            for lock, pattern in _TAKES
            if (match := re.match(pattern, statement, re.DOTALL)) is not None
        )
        for table, lock in [*taken, *list(fitting)[:1]]:
            if table not in made and table != "alembic_version":
                strongest[table] = min(lock, strongest.get(table, lock), key=list(WAITS).index)
    return strongest


def _show(whose: str, planned: list[Step], on_sqlite: bool) -> None:
    if not planned:
        typer.echo(f"-- The {whose} is up to date; nothing would run.")
        return
    typer.echo(f"-- In the {whose}:")
    made: set[str] = set()
    for step in planned:
        typer.echo(f"-- Step {step.revision}")
        if not on_sqlite:
            for table, lock in sorted(locks(step.statements, made).items()):
                typer.echo(f"-- {table}: {lock}; {WAITS[lock]}")
        typer.echo("".join(f"{statement};\n" for statement in step.statements))
    if on_sqlite:
        typer.echo("-- SQLite has one writer: stop the server before you migrate.")
    else:
        typer.echo(
            "-- All steps are one transaction, and locks are held to its end. A lock that is not free within 3 s is "
            "given up and tried again,\n-- ten times, so that nobody queues behind it for long. Afterwards the "
            "server's role gets its rights."
        )
