"""The nouns of the `registry` command: they call the services that the routes call, as the actor `system`."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel
    from sqlmodel import Session

    from app.settings import Settings

WHY = Annotated[str, typer.Option("--reason", help="Why; it is kept in the audit trail.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def writing() -> "Iterator[tuple[Session, Settings]]":
    """A transaction that is committed when the block ends well."""
    from app import schema
    from app.database import Database
    from app.settings import Settings

    settings = Settings()
    with Database(settings) as database:
        schema.require_head(database)
        with database.write() as session:
            yield session, settings


def ask_password(login: str) -> str:
    """From REGISTRY_NEW_PASSWORD, or typed twice; never an argument, which others can read in the process list."""
    from app.settings import secret

    given: str = secret("REGISTRY_NEW_PASSWORD") or typer.prompt(
        f"Password for {login} (12 characters or more)", hide_input=True, confirmation_prompt=True
    )
    return given


def show(items: "list[BaseModel]", as_json: bool, line: str) -> None:
    """Each item on a line of its own, by a format string, or everything as JSON."""
    plain = [item.model_dump(mode="json") for item in items]
    if as_json:
        typer.echo(json.dumps(plain, indent=2))
        return
    for item in plain:
        typer.echo(line.format(**item))
