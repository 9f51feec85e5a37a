"""`registry queries`: the data queries that rules raise."""

from __future__ import annotations

import typer

from app.commands import opened

app = typer.Typer(help="Data queries.", no_args_is_help=True)


@app.callback()
def queries() -> None:
    """Keeps the name `refresh`: typer drops the name of an only command."""


@app.command()
def refresh() -> None:
    """Raise and close the data queries that depend on the date: overdue visits, missing instruments, adverse events
    that nobody has updated. Run it daily."""
    from app.services.quality import rules_over_time

    with opened() as (database, _):
        changed = rules_over_time.refresh(database)
    typer.echo(f"{changed} data queries raised, closed or opened again.")
