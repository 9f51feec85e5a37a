"""`registry retries`: the first answers that are kept for retries."""

from __future__ import annotations

import typer

from app.commands import opened

app = typer.Typer(help="Answers kept for retries.", no_args_is_help=True)


@app.callback()
def retries() -> None:
    """A noun of its own, also while there is one verb."""


@app.command()
def forget() -> None:
    """Delete the answers kept for retries that are older than REGISTRY_RETRY_DAYS. Run it daily."""
    from app.services import retries

    with opened() as (database, settings):
        forgotten = retries.forget(database, settings.retry_days)
    typer.echo(f"{forgotten} answers forgotten.")
