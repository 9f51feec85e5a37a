"""`registry extracts`: the files that were released."""

from __future__ import annotations

import typer

app = typer.Typer(help="Extracts.", no_args_is_help=True)


@app.callback()
def extracts() -> None:
    """A noun of its own, also while there is one verb."""


@app.command()
def expire() -> None:
    """Delete the files of extracts whose time is over. Run it daily."""
    from app import schema
    from app.database import Database
    from app.services import extract_ends
    from app.settings import Settings

    with Database(Settings()) as database:
        schema.require_head(database)
        ended = extract_ends.expire(database)
    typer.echo(f"{ended} extracts expired.")
