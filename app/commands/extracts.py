"""`registry extracts`: build, verify and expire extracts; find those that a participant is in."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands import opened

app = typer.Typer(help="Extracts.", no_args_is_help=True)


@app.command()
def expire() -> None:
    """Delete the files of extracts that have expired. Run it daily."""
    from app.services.extracts import extract_ends

    with opened() as (database, _):
        ended = extract_ends.expire(database)
    typer.echo(f"{ended} extracts expired.")


@app.command()
def build() -> None:
    """Build the extracts that wait, as every server does by itself, and try failed ones once more."""
    from collections import Counter

    from sqlmodel import col, select

    from app.models.extract import Extract, ExtractStatus
    from app.security.keys import load_keyring
    from app.services.extracts.building import build_next, queue_again

    with opened() as (database, settings):
        keyring = load_keyring(settings)
        waiting = queue_again(database)
        while build_next(database, keyring):
            pass
        with database.read() as session:
            became = Counter(session.exec(select(Extract.status).where(col(Extract.id).in_(waiting))))
    typer.echo(f"{became[ExtractStatus.ready]} extracts built.")
    if expired := became[ExtractStatus.expired]:
        typer.echo(f"{expired} expired: the time for downloads is over, or the rows would differ from those approved.")
    if failed := became[ExtractStatus.failed]:
        typer.echo(f"{failed} could not be built: the log says why.")
        raise typer.Exit(1)


@app.command()
def verify() -> None:
    """Build the rows of every extract again from the data and the trail, and compare them with its manifest. Exit 1 if
    any differ."""
    from sqlmodel import col, select

    from app.models.extract import Extract
    from app.services.extracts.building import OTHER, differing

    with opened() as (database, _):
        with database.read() as session:
            extracts = session.exec(select(Extract).order_by(col(Extract.created_at))).all()
        others = 0
        for row in extracts:
            verdict = differing(database, row)
            others += verdict == OTHER
            if verdict is not None:
                typer.echo(f"{row.id}: {verdict}")
    raise typer.Exit(1 if others else 0)


@app.command(name="of")
def of_person(pid: Annotated[str, typer.Argument(help="The participant's pid.")]) -> None:
    """List the extracts that a participant is in, and who received them. The audit trail remembers that you looked."""
    from app.pid import normalise
    from app.services.extracts.receivers import received

    try:
        symbols = normalise(pid)
    except ValueError:
        raise typer.BadParameter("This is not a pid; it was mistyped.") from None
    with opened() as (database, _):
        extracts = received(database, symbols)
    for one in extracts:
        there = "downloaded" if one.downloaded else "not downloaded"
        typer.echo(
            f"{one.extract_id}: {one.profile}, {one.organisation}, approved {one.approved_at}, {one.status}, {there}"
        )
    if not extracts:
        typer.echo("In no extract.")
