"""`registry doctor`: checks a deployment and prints one line for each check."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from app.commands import JSON, reason_of

if TYPE_CHECKING:
    from app.database import Database
    from app.settings import Settings

OLDEST_POSTGRESQL = 15
SKEW_SECONDS = 2.0
"""The largest difference between two clocks with which timestamps of different machines can still be ordered."""


_NEW = "if the registry is new, run registry init"
_LOST = "if it is lost, restore its last backup (registry backup restore --vault)"


class Finding(NamedTuple):
    """The result of one check. The names are those of the JSON output."""

    check: str
    well: bool
    told: str


CHAINS = Annotated[
    bool, typer.Option("--chains", help="Verify every audit chain from its first entry, which may take long.")
]


def doctor(as_json: JSON = False, chains: CHAINS = False) -> None:
    """Check this deployment and say what is wrong. Exit 1 if something is. It changes nothing."""
    findings = list(_findings(chains))
    if as_json:
        typer.echo(json.dumps([one._asdict() for one in findings], indent=2))
    else:
        for one in findings:
            typer.echo(f"{'ok   ' if one.well else 'WRONG'}  {one.check}: {one.told}")
    raise typer.Exit(0 if all(one.well for one in findings) else 1)


def _findings(chains: bool) -> "Iterator[Finding]":
    """The results of all checks. Settings that cannot be read end the command with their own message, as with every
    other command."""
    from app import schema
    from app.database import Database
    from app.privacy.erasure_journal import require_usable
    from app.security.keys import load_keyring
    from app.settings import Settings

    settings = Settings()
    yield Finding("settings", True, f"environment {settings.environment}")
    keys = _tried("keys", lambda: load_keyring(settings), "the key file is complete, and only its owner can read it")
    yield keys
    yield _tried("erasure journal", lambda: require_usable(settings.erasures), "erasures can be noted")
    with Database(settings, for_server=True) as database:
        for check, one, then in (("database", database, _NEW), ("vault", database.vault, _LOST)):
            if one is not None and one.is_sqlite and not Path(str(one.url.database)).exists():
                yield Finding(check, False, f"its file is not there. Check its path and its disk; {then}")
                return
        for check, place in _places(database, settings):
            yield _disk(check, place)  # first, as without free space the other checks fail
        reached = _tried("database", lambda: _version(database), "it answers")
        yield reached
        if reached.well:
            tables = _tried("tables", lambda: schema.require_head(database), "at the revision of this version")
            yield tables
            yield from _while_it_answers(_of_database(database, settings))
            if tables.well:
                yield from _while_it_answers(_of_work(database, settings, chains))
            if tables.well and keys.well:
                yield from _of_labels(database, settings)


def _of_database(database: "Database", settings: "Settings") -> "Iterator[Finding]":
    from app import schema
    from app.database_role import require_second_wall, require_vault_wall

    yield _tried(
        "vault",
        lambda: schema.require_vault_head(database),
        "its tables are at that revision too, or there is no separate vault",
    )
    yield _writable(database)
    yield _tried("vault apart", database.require_apart, "its address does not lead to the main database")
    yield _tried("sessions", database.require_own_sessions, "no pooler, or one that the settings name")
    yield _tried("durable", database.require_durable, "a commit outlives a power cut")
    yield _tried(
        "second wall",
        lambda: require_second_wall(database, settings),
        "the server's role has the rights that it needs, and no others",
    )
    yield _tried("vault's wall", lambda: require_vault_wall(database, settings), "the same in the vault's database")
    yield _tried("connections", lambda: database.require_room(1), "there is room for a worker")
    if database.is_sqlite:
        return
    major = _version(database) // 10_000
    message = f"PostgreSQL {major}" + (
        "" if major >= OLDEST_POSTGRESQL else f"; {OLDEST_POSTGRESQL} or newer is needed"
    )
    yield Finding("version", major >= OLDEST_POSTGRESQL, message)
    yield _clock(database)
    yield _letters(database)


def _of_work(database: "Database", settings: "Settings", chains: bool) -> "Iterator[Finding]":
    """What workers, people and timers should have done by now."""
    from app.services.operations.overdue_work import overdue

    well = {
        "chains": "every entry is as it was written" if chains else "their heads are their last entries",
        "backup": "younger than a day" if settings.backup_folder else "not checked: REGISTRY_BACKUP_FOLDER is not set",
    }
    for check, fault in overdue(database, settings, chains):
        yield Finding(check, fault is None, fault or well.get(check, "nothing is overdue"))


def _of_labels(database: "Database", settings: "Settings") -> "Iterator[Finding]":
    """Whether the key file opens the stored labels, and the journal has the erased ones."""
    from app.privacy.erasure_journal import ErasureJournal
    from app.security.keys import load_keyring
    from app.services.operations import erasure, vault_care

    keyring = load_keyring(settings)
    journal = ErasureJournal(settings.erasures, keyring)
    yield _tried("labels", lambda: vault_care.require_keys(database, keyring), "the key file opens each of them")
    yield _tried("people", lambda: vault_care.require_whole(database), "each participant has a label, or it was erased")
    yield _tried(
        "erasures", lambda: erasure.require_noted(database, journal), "the journal has every erasure of the audit trail"
    )


def _while_it_answers(findings: "Iterator[Finding]") -> "Iterator[Finding]":
    """The findings; if the database fails, the last one says so, and the rest are missing."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield from findings
    except SQLAlchemyError as error:
        yield Finding("database", False, reason_of(error))


def _tried(check: str, look: Callable[[], object], well: str) -> Finding:
    """The result of a check that raises when it fails, as at the server's start, with the same message."""
    from sqlalchemy.exc import SQLAlchemyError

    from app.errors import CannotGoOn

    try:
        look()
    except CannotGoOn as refused:
        return Finding(check, False, str(refused))
    except SQLAlchemyError as error:
        return Finding(check, False, reason_of(error))
    return Finding(check, True, well)


def _version(database: "Database") -> int:
    """PostgreSQL's version as a number: 150018 is 15.18. 0 for SQLite."""
    with database.engine.connect() as connection:
        statement = "SELECT 0" if database.is_sqlite else "SHOW server_version_num"
        return int(connection.exec_driver_sql(statement).scalar() or 0)


def _writable(database: "Database") -> Finding:
    from app.services.operations import readiness

    with database.read() as session:
        well = readiness.writable(session)
    message = "it takes writes" if well else "it is read-only: a standby, a disk mounted so, or a file of another user"
    return Finding("writable", well, message)


def _places(database: "Database", settings: "Settings") -> Iterator[tuple[str, str | Path]]:
    """The files and folders of this deployment whose disks are checked. PostgreSQL's disk has its own monitoring; a
    backup folder that is missing is reported by the check of the last backup."""
    for check, one in (("disk", database), ("vault's disk", database.vault)):
        if one is not None and one.is_sqlite:
            yield check, str(one.url.database)
    if settings.backup_folder is not None and os.path.isdir(settings.backup_folder):
        yield "backup's disk", settings.backup_folder


def _disk(check: str, place: str | Path) -> Finding:
    from app.services.operations.readiness import ROOM

    free = shutil.disk_usage(place).free
    message = f"{free // 2**20} MiB free" + ("" if free >= ROOM else f"; {ROOM // 2**20} MiB are needed: make room")
    return Finding(check, free >= ROOM, message)


def _clock(database: "Database") -> Finding:
    from app.models.base import now

    with database.engine.connect() as connection:
        theirs = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    skew = abs((theirs - now()).total_seconds())
    message = f"{skew:.1f} s from the database's" + (
        "" if skew <= SKEW_SECONDS else "; let both follow the same time server"
    )
    return Finding("clock", skew <= SKEW_SECONDS, message)


def _letters(database: "Database") -> Finding:
    """Whether PostgreSQL's locale has upper case beyond ASCII; the locale C has not."""
    with database.engine.connect() as connection:
        well = connection.exec_driver_sql("SELECT lower('Ø') = 'ø'").scalar_one()
    message = (
        "searches ignore case in every alphabet"
        if well
        else "searches ignore case for ASCII letters only; make the database with a UTF-8 locale, not C"
    )
    return Finding("letters", well, message)
