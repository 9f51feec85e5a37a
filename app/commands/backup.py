"""`registry backup`: make, verify and restore backups of the database; the key file is kept apart."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.commands.vault import opened_with_vault, replay

if TYPE_CHECKING:
    from app.database import Database
    from app.services.operations.backups import Manifest

app = typer.Typer(help="Backups of the database. The key file is kept apart.", no_args_is_help=True)
FOLDER = Annotated[Path, typer.Argument(help="The backup's folder.")]
OF_VAULT = Annotated[bool, typer.Option("--vault", help="Of the vault's own database (REGISTRY_VAULT_URL).")]


@app.command()
def make(folder: FOLDER, vault: OF_VAULT = False) -> None:
    """Copy the database into a new folder, while sites go on writing."""
    from app.models.base import now
    from app.services.operations import backups

    with _database(vault) as database:
        _report("Backed up", backups.make(database, folder, now()))


@app.command()
def daily(
    folder: Annotated[Path, typer.Argument(help="The folder of all backups.")],
    keep: Annotated[int, typer.Option(min=1, help="Number of backups to keep.")] = 14,
) -> None:
    """Make the day's backup in a folder of backups, also of a vault with its own database, and delete the oldest."""
    from app.database import Database
    from app.models.base import now
    from app.services.operations import backups
    from app.settings import Settings

    settings, at = Settings(), now()
    kinds = ("database", *(() if settings.vault_url is None else ("vault",)))
    for kind in kinds:
        with Database(settings, of_vault=kind == "vault") as database:
            place = backups.backup_folder(backups.backup_folder(folder) / kind) / f"{at:%Y-%m-%dT%H%M%SZ}"
            _report("Backed up", backups.make(database, place, at))
    for kind in kinds:
        for gone in backups.forget(folder / kind, keep):
            typer.echo(f"Deleted {gone}.")


@app.command()
def verify(
    folder: FOLDER,
    scratch: Annotated[
        str | None, typer.Option(help="PostgreSQL: an empty database of the same server, left empty again.")
    ] = None,
) -> None:
    """Restore a backup into another database, and check rows, revision and every audit chain."""
    from app.services.operations import backups

    manifest = backups.read(folder)
    if manifest.engine == "postgresql" and scratch is None:
        _report("The file is whole; name an empty database with --scratch to see that it can be restored", manifest)
        return
    with tempfile.TemporaryDirectory(prefix="registry-backup-") as place:
        database = _scratch_database(Path(place) / "scratch.db" if manifest.engine == "sqlite" else None, scratch)
        with database:
            _report("Restored elsewhere, and whole", backups.try_restore(database, folder))


@app.command()
def restore(folder: FOLDER, vault: OF_VAULT = False) -> None:
    """Restore a backup into the empty database, check it, and erase again the labels that were erased since."""
    from app.schema import SchemaOutdated
    from app.services.operations import backups, vault_care

    _require_erasures_readable()
    with _database(vault) as database:
        _report("Restored", backups.restore(database, folder))
    try:
        replay()
    except SchemaOutdated:
        typer.echo(
            "Labels that were erased since are not erased again yet. Once the other database is restored too, and both "
            "are of this version (registry migrate), run: registry vault replay"
        )
        return
    except Exception:
        typer.echo(
            "Labels that were erased since are not all erased again. Do not start the server. Correct the error that "
            "follows, then run: registry vault replay",
            err=True,
        )
        raise
    with opened_with_vault() as (whole, _):
        vault_care.require_whole(whole)


def _require_erasures_readable() -> None:
    """Check before a restore what erasing again after it needs, the key file and the journal: if the erasing failed,
    the restore could not be repeated, as the database is then not empty. Raises BackupRefused."""
    from app.errors import CannotGoOn
    from app.privacy.erasure_journal import noted
    from app.security.keys import load_keyring
    from app.services.operations.backups import BackupRefused
    from app.settings import Settings

    settings = Settings()
    try:
        load_keyring(settings)
        noted(settings.erasures)
    except CannotGoOn as refused:
        raise BackupRefused(
            f"Nothing was restored: labels that were erased since could not be erased again. {refused}"
        ) from None


def _database(vault: bool) -> "Database":
    from app.database import Database
    from app.settings import Settings

    settings = Settings()
    if vault and settings.vault_url is None:
        raise typer.BadParameter("REGISTRY_VAULT_URL is not set", param_hint="--vault")
    return Database(settings, of_vault=vault)


def _scratch_database(file: Path | None, name: str | None) -> "Database":
    """An empty database: a new SQLite file, or another database of the same PostgreSQL server."""
    from sqlalchemy import make_url

    from app.database import Database
    from app.settings import Settings

    settings = Settings()
    if file is not None:
        url = f"sqlite:///{file}"
    else:
        ours = make_url(settings.owner_database_url or settings.database_url)
        url = ours.set(database=name).render_as_string(hide_password=False)
    return Database(settings.model_copy(update={"database_url": url, "owner_database_url": None, "vault_url": None}))


def _report(what: str, manifest: "Manifest") -> None:
    rows = sum(manifest.rows.values())
    typer.echo(f"{what}: {rows} rows in {len(manifest.rows)} tables, {len(manifest.chains)} audit chains.")
    typer.echo(f"Made at {manifest.made_at:%Y-%m-%d %H:%M:%S} UTC, revision {manifest.revision}, {manifest.engine}.")
