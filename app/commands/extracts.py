"""`registry extracts`: the files that were released."""

from __future__ import annotations

import typer

app = typer.Typer(help="Extracts.", no_args_is_help=True)


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


@app.command()
def build() -> None:
    """Build what waits, as every server does by itself."""
    from app import schema
    from app.database import Database
    from app.security.keys import load_keyring
    from app.services.building import build_next
    from app.settings import Settings

    settings = Settings()
    keyring = load_keyring(settings)
    with Database(settings) as database:
        schema.require_head(database)
        built = 0
        while build_next(database, keyring):
            built += 1
    typer.echo(f"{built} extracts built.")


@app.command()
def verify() -> None:
    """Build the rows of every extract anew, from today's data and trail, and hold them against its manifest."""
    from sqlmodel import col, select

    from app import schema
    from app.database import Database
    from app.models.extract import Extract
    from app.services.building import OTHER, differing
    from app.settings import Settings

    with Database(Settings()) as database:
        schema.require_head(database)
        with database.read() as session:
            extracts = session.exec(select(Extract).order_by(col(Extract.created_at))).all()
        verdicts = {str(row.id): differing(database, row) for row in extracts}
    for name, verdict in verdicts.items():
        if verdict is not None:
            typer.echo(f"{name}: {verdict}")
    raise typer.Exit(1 if OTHER in verdicts.values() else 0)
