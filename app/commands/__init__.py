"""The subcommands of `registry`. They call the same services as the routes, as the actor `system`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from app.errors import CannotGoOn

if TYPE_CHECKING:
    from pydantic import BaseModel
    from sqlalchemy.exc import SQLAlchemyError
    from sqlmodel import Session

    from app.database import Database
    from app.settings import Settings

WHY = Annotated[str, typer.Option("--reason", help="Why; kept in the audit trail.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def opened() -> "Iterator[tuple[Database, Settings]]":
    """The database and the settings. Raises SchemaOutdated unless the tables are at the revision of this version."""
    from app import schema
    from app.database import Database
    from app.settings import Settings

    settings = Settings()
    with Database(settings) as database:
        schema.require_head(database)
        yield database, settings


@contextmanager
def reading() -> "Iterator[Session]":
    """A session that only reads, and waits for no writer."""
    with opened() as (database, _), database.read() as session:
        yield session


@contextmanager
def writing() -> "Iterator[tuple[Session, Settings]]":
    """A transaction that is committed if the block raises nothing."""
    with opened() as (database, settings), database.write() as session:
        yield session, settings


def reason_of(error: "SQLAlchemyError") -> str:
    """The reason of a database error in words, without the error's text, which names the server and the role."""
    from app.database import DISK_FULL, LOCKED, sqlstate
    from app.outages import reason

    state = sqlstate(error)
    if state == DISK_FULL:
        return "The database's disk is full. Make room, then run this again."
    if state == LOCKED:
        return "Another program is writing to the database and keeps it locked. Run this again later."
    code = reason(error)
    why = code.replace("_", " ") if code else type(getattr(error, "orig", None) or error).__name__
    whose = "The database of REGISTRY_DATABASE_URL (or of the owner's)"
    parts = "host, port, database, role, password"
    return f"{whose} does not answer as it should ({why}). Look at its address ({parts}) and at its log."


def ask_password(login: str, variable: str = "REGISTRY_NEW_PASSWORD") -> str:
    """A new password from an environment variable, or typed twice; not an argument, which others could read in the
    process list."""
    from app.settings import secret

    prompt = f"Password for {login} (12 characters or more)"
    try:
        given: str = secret(variable) or typer.prompt(prompt, hide_input=True, confirmation_prompt=True)
    except typer.Abort:
        raise CannotGoOn(f"No password was given. Type it at a terminal, or set {variable}.") from None
    return given


def show(items: "list[BaseModel]", as_json: bool, line: str) -> None:
    """Print each item on a line by the format string `line`, or all items as JSON."""
    plain = [item.model_dump(mode="json") for item in items]
    if as_json:
        typer.echo(json.dumps(plain, indent=2))
        return
    for item in plain:
        typer.echo(line.format(**item))
