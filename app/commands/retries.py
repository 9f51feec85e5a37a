"""`registry retries`: the stored answers that a retry under the same Idempotency-Key gets."""

from __future__ import annotations

import typer

from app.commands import opened

app = typer.Typer(help="Answers kept for retries.", no_args_is_help=True)


@app.callback()
def retries() -> None:
    """Keeps the name `forget`: typer drops the name of an only command."""


@app.command()
def forget() -> None:
    """Delete the answers kept for retries that are older than REGISTRY_RETRY_DAYS. Run it daily."""
    from app.services.operations import retries

    with opened() as (database, settings):
        forgotten = retries.forget(database, settings.retry_days)
    typer.echo(f"{forgotten} answers deleted.")
