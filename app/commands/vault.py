"""`registry vault`: checks and moves the sites' labels of participants. No command shows a label."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands import opened

if TYPE_CHECKING:
    from app.database import Database
    from app.settings import Settings

app = typer.Typer(help="The sites' labels of participants.", no_args_is_help=True)


@contextmanager
def opened_with_vault() -> "Iterator[tuple[Database, Settings]]":
    """The database and the settings, as `opened`, once the separate vault, if there is one, was checked too."""
    from app import schema

    with opened() as (database, settings):
        schema.require_vault_head(database)
        database.require_apart()
        yield database, settings


@app.command()
def rewrap() -> None:
    """After a rotation of wrapping keys: wrap every label's key with the active one."""
    from app.security.keys import load_keyring, read_key_file
    from app.security.rotation import next_of
    from app.services.operations import vault_care

    with opened_with_vault() as (database, settings):
        keyring = load_keyring(settings)
        wrapped = vault_care.rewrap(database, keyring)
        typer.echo(f"{wrapped} labels now use the active key.")
        if next_of(read_key_file(settings).kek):
            typer.echo("The next key is not active yet: registry keys rotate --kind kek once more, then this again.")
        vault_care.require_keys(database, keyring)


@app.command()
def check(
    sweep: Annotated[bool, typer.Option("--sweep", help="Delete the reservations over an hour old.")] = False,
) -> None:
    """Check that every participant has a label, and every label a participant."""
    from app.security.keys import load_keyring
    from app.services.operations import vault_care

    with opened_with_vault() as (database, settings):
        checked = vault_care.check(database, sweep=sweep)
        typer.echo(
            f"{checked.labels} labels, {checked.reservations} of them reservations over an hour old"
            f"{', now deleted' if sweep else ''}; {checked.nameless} participants without a label that was not erased."
        )
        if checked.left:
            typer.echo(f"{checked.left} labels are still in the main database. Run: registry vault move")
        vault_care.require_keys(database, load_keyring(settings))
    raise typer.Exit(1 if checked.nameless or checked.left else 0)


@app.command()
def move() -> None:
    """Move the labels into the database of REGISTRY_VAULT_URL. Stop the servers first."""
    from app.privacy.erasure_journal import ErasureJournal
    from app.security.keys import load_keyring
    from app.services.operations import erasure, vault_care

    with opened_with_vault() as (database, settings):
        replayed = erasure.replay(database, ErasureJournal(settings.erasures, load_keyring(settings)))
        moved = vault_care.move(database)
    typer.echo(f"{moved} labels moved, {replayed.erased} erased again.")


@app.command()
def replay(
    journal_from_trail: Annotated[
        bool,
        typer.Option(
            "--journal-from-trail", help="The journal is lost for good: write a new one from the audit trail."
        ),
    ] = False,
) -> None:
    """After a restore: erase the labels again that REGISTRY_ERASURE_JOURNAL names."""
    from app.privacy.erasure_journal import ErasureJournal, noted
    from app.security.keys import load_keyring
    from app.services.operations import erasure

    with opened_with_vault() as (database, settings):
        journal = ErasureJournal(settings.erasures, load_keyring(settings))
        if journal_from_trail:
            typer.echo(
                f"{erasure.note_from_trail(database, journal)} erasures noted in {journal.path} from the audit trail. "
                "Where this database was restored, those since the backup are in neither, and their labels are back: "
                "ask the sites whom they had erased since, and let them record those withdrawals again."
            )
        replayed, unreadable = erasure.replay(database, journal), noted(journal.path).unreadable
        typer.echo(f"{replayed.erased} labels erased again.")
        if replayed.remembered:
            typer.echo(f"{replayed.remembered} erasures written to the audit trail again.")
        if not journal.path.exists():
            typer.echo(f"There is no erasure journal ({journal.path}).")
        if unreadable:
            typer.echo(f"{unreadable} lines of {journal.path} cannot be read, and are skipped.")
        erasure.require_noted(database, journal)
