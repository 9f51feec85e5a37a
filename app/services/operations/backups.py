"""Backups: a copy of one moment of a database, with a manifest by which a restore is checked.

SQLite is copied by its online backup, PostgreSQL by pg_dump, both while sites go on writing. The key file is not part
of a backup, so that nobody can read a label from a backup alone.
"""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from psycopg import conninfo
from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from sqlalchemy.orm import Session

from app import __version__, audit
from app.database import Database
from app.database_role import grant
from app.errors import CannotGoOn

MANIFEST = "manifest.json"
_FILES = frozenset({"registry.dump", "registry.db", *(f"registry.db-{beside}" for beside in ("journal", "wal", "shm"))})
A_DAY = 86_400
_GROUP_MAY_LIST = 0o750
_CHECK_DISK = "See that the disk has room, and that this user may write there."
_PASSED_ON = frozenset(
    {
        "host",
        "hostaddr",
        "port",
        "user",
        "dbname",
        "service",
        "passfile",
        "connect_timeout",
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "gssencmode",
        "krbsrvname",
    }
)
"""The connection parameters that are given to pg_dump and pg_restore: those that every supported version knows."""


class BackupRefused(CannotGoOn):
    """The backup cannot be made, trusted or restored; the message says why, and what to do."""


class Chain(BaseModel):
    """The head of a site's audit chain at the moment of the backup."""

    site_id: int
    seq: int
    hash: str


class Manifest(BaseModel):
    """What a backup contains, without personal data. It is written last: a folder without one is no backup."""

    model_config = ConfigDict(extra="forbid")
    form: Literal["research-registry/backup/1"] = "research-registry/backup/1"
    made_at: AwareDatetime
    software: str
    engine: Literal["sqlite", "postgresql"]
    revision: str
    file: str
    bytes: int
    sha256: str
    rows: dict[str, int]
    """The number of rows of each table."""

    chains: list[Chain]


def backup_folder(folder: Path) -> Path:
    """Make the folder of all backups. Its group may list it, as `registry doctor` needs to. Raises BackupRefused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(_GROUP_MAY_LIST)
    except OSError:
        raise BackupRefused(f"{folder} cannot be made. {_CHECK_DISK}") from None
    return folder


def make(database: Database, folder: Path, at: datetime) -> Manifest:
    """Copy the database into a new folder, which is deleted if that fails. Raises BackupRefused."""
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise BackupRefused(f"{folder} is there already. A backup is never written over another.") from None
    except OSError:
        raise BackupRefused(f"{folder} cannot be made. {_CHECK_DISK}") from None
    try:
        return _written(database, folder, at)
    except (OSError, sqlite3.Error):
        raise BackupRefused(f"Nothing was backed up into {folder}. {_CHECK_DISK}") from None
    finally:
        if not (folder / MANIFEST).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _written(database: Database, folder: Path, at: datetime) -> Manifest:
    if database.is_sqlite:
        file, state = folder / "registry.db", _copied(database, folder / "registry.db")
    else:
        file, state = folder / "registry.dump", _dumped(database, folder / "registry.dump")
    engine: Literal["sqlite", "postgresql"] = "sqlite" if database.is_sqlite else "postgresql"
    manifest = Manifest(
        made_at=at,
        software=__version__,
        engine=engine,
        file=file.name,
        bytes=file.stat().st_size,
        sha256=_sha256(file),
        **state,
    )
    unfinished = folder / f".{MANIFEST}"
    unfinished.write_text(manifest.model_dump_json(indent=2) + "\n")
    unfinished.chmod(0o640)
    folder.chmod(_GROUP_MAY_LIST)
    _sync_to_disk(file, unfinished)
    unfinished.rename(folder / MANIFEST)
    _sync_to_disk(folder)
    return manifest


def finished(folder: Path) -> list[tuple[datetime, Path]]:
    """The complete backups in a folder that this user may read, oldest first, each with its time. Raises
    PermissionError if the folder itself may not be read."""
    backups = []
    for place in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError, ValidationError, UnicodeDecodeError):
            manifest = Manifest.model_validate_json((place / MANIFEST).read_text())
            backups.append((manifest.made_at, place))
    return sorted(backups)


def forget(folder: Path, keep: int) -> Iterator[Path]:
    """Delete all backups but the newest `keep`, and those interrupted over a day ago; nothing else. Gives the deleted
    folders. Raises BackupRefused."""
    old = [place for _, place in finished(folder)[:-keep]]
    for place in sorted([*old, *_interrupted(folder)]):
        try:
            shutil.rmtree(place)
        except OSError as error:
            raise BackupRefused(f"{place} is too old, and cannot be deleted ({error.strerror}).") from None
        yield place


def _interrupted(folder: Path) -> Iterator[Path]:
    for place in folder.iterdir():
        with suppress(FileNotFoundError, PermissionError):  # a folder that this user may not list is not its own
            started = place.is_dir() and {file.name for file in place.iterdir()} <= {f".{MANIFEST}", *_FILES}
            if started and place.stat().st_mtime < time.time() - A_DAY:
                yield place


def read(folder: Path) -> Manifest:
    """The manifest of a backup whose file is as it was written. Raises BackupRefused."""
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
        file = folder / manifest.file
        whole = file.is_file() and file.stat().st_size == manifest.bytes and _sha256(file) == manifest.sha256
    except FileNotFoundError:
        raise BackupRefused(f"{folder} has no {MANIFEST}: it is no backup, or one that was interrupted.") from None
    except PermissionError:
        raise BackupRefused(f"{folder} cannot be read by this user. Run this as the user who made it.") from None
    except (ValidationError, UnicodeDecodeError):
        raise BackupRefused(f"{MANIFEST} of {folder} is damaged. Take another backup.") from None
    except OSError as error:
        raise BackupRefused(f"{folder} cannot be read ({error.strerror}).") from None
    if not whole:
        raise BackupRefused(f"{manifest.file} of {folder} is damaged: not what was backed up. Take another backup.")
    return manifest


def restore(database: Database, folder: Path) -> Manifest:
    """Fill an empty database from a backup, and check it by the manifest. Raises BackupRefused."""
    manifest = read(folder)
    if (manifest.engine == "sqlite") != database.is_sqlite:
        raise BackupRefused(f"This is a backup of {manifest.engine}; REGISTRY_DATABASE_URL names another engine.")
    _require_empty(database)
    file = folder / manifest.file
    if database.is_sqlite:
        try:
            _copy(f"{file.resolve().as_uri()}?mode=ro&immutable=1", str(database.url.database))
        except sqlite3.Error:
            raise BackupRefused(f"Nothing was restored from {folder}. {_CHECK_DISK}") from None
    else:
        with database.engine.connect() as connection:
            _tool("pg_restore", connection, "--single-transaction", "--no-owner", "--no-privileges", str(file))
        if database.server_role is not None:
            with database.migrating() as connection:
                grant(connection, database.server_role)
        with database.migrating() as connection:
            connection.exec_driver_sql("ANALYZE")  # a dump brings no statistics, and without them plans are guesses
    for fault in differences(database, manifest):
        raise BackupRefused(f"What was restored is not what was backed up: {fault}. Do not serve it.")
    return manifest


def try_restore(database: Database, folder: Path) -> Manifest:
    """Restore into an empty database to check the backup, and empty it again, so that no second copy of the registry
    stays, in which erasures would not be done. Raises BackupRefused."""
    _require_empty(database)
    try:
        return restore(database, folder)
    finally:
        if not database.is_sqlite:
            with database.migrating() as connection:
                _empty(connection)


def _require_empty(database: Database) -> None:
    if sa.inspect(database.engine).get_table_names():
        raise BackupRefused("The database is not empty. A restore never writes over data: give it an empty one.")


_ROUTINES = """
SELECT pg_proc.oid::regprocedure FROM pg_proc WHERE pronamespace = current_schema()::regnamespace
AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE objid = pg_proc.oid AND deptype = 'e')
"""
"""The routines of the schema, without those of extensions."""


def _empty(connection: sa.Connection) -> None:
    quote = connection.dialect.identifier_preparer.quote_identifier
    for table in sa.inspect(connection).get_table_names():
        connection.exec_driver_sql(f"DROP TABLE {quote(table)} CASCADE")
    for routine in connection.exec_driver_sql(_ROUTINES).scalars().all():
        connection.exec_driver_sql(f"DROP ROUTINE {routine}")


def differences(database: Database, manifest: Manifest) -> Iterator[str]:
    """The differences between a database and the manifest, and the faults of its audit chains and pages."""
    with database.read() as session:
        state = _state(session)
        for name in ("revision", "rows", "chains"):
            if state[name] != manifest.model_dump()[name]:
                yield f"other {name}"
        yield from (f"audit chain {one.site_id}: {one.fault}" for one in audit.verify(session) if one.fault)
        if database.is_sqlite and session.execute(sa.text("PRAGMA integrity_check")).scalar() != "ok":
            yield "damaged pages"


def _state(session: Session) -> dict[str, Any]:
    """Revision, number of rows of each table and heads of the chains, as the session sees them."""
    names = [name for name in sa.inspect(session.connection()).get_table_names() if name != "alembic_version"]
    counts = {name: sa.select(sa.func.count()).select_from(sa.table(name)) for name in sorted(names)}
    heads = sa.text("SELECT site_id, seq, hash FROM audit_chain ORDER BY site_id")
    return {
        "revision": session.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one(),
        "rows": {name: session.execute(count).scalar_one() for name, count in counts.items()},
        "chains": [dict(row) for row in session.execute(heads).mappings()],
    }


def _copied(database: Database, file: Path) -> dict[str, Any]:
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    _copy(Path(str(database.url.database)).resolve().as_uri(), str(file))
    with closing(sqlite3.connect(file)) as copy:
        copy.execute("PRAGMA journal_mode=DELETE")  # a single file, without a WAL file
    engine = sa.create_engine(f"sqlite:///{file}", hide_parameters=True)
    try:
        with Session(engine) as session:
            return _state(session)
    finally:
        engine.dispose()


def _copy(source: str, target: str) -> None:
    """SQLite's online backup, which copies one moment."""
    with closing(sqlite3.connect(source, uri=True)) as original, closing(sqlite3.connect(target)) as copy:
        original.backup(copy)


def _dumped(database: Database, file: Path) -> dict[str, Any]:
    with _one_moment(database) as connection:
        snapshot = connection.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one()
        target = f"--file={file}"
        _tool(
            "pg_dump", connection, "--format=custom", f"--snapshot={snapshot}", "--no-owner", "--no-privileges", target
        )
        file.chmod(0o600)
        with Session(connection) as session:
            return _state(session)


@contextmanager
def _one_moment(database: Database) -> Iterator[sa.Connection]:
    """A transaction that sees one moment, however long pg_dump takes."""
    engine = database.engine.execution_options(isolation_level="REPEATABLE READ")
    with engine.connect() as connection:
        for timeout in ("statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(sa.text(f"SET LOCAL {timeout} = 0"))
        yield connection


def _tool(name: str, connection: sa.Connection, *arguments: str) -> None:
    """Run a tool of PostgreSQL against the database of a connection. Raises BackupRefused."""
    path = shutil.which(name)
    if path is None:
        raise BackupRefused(f"{name} is not installed. It comes with PostgreSQL's client programs.")
    info = connection.connection.driver_connection.info  # type: ignore[union-attr]
    address = {key: value for key, value in info.get_parameters().items() if key in _PASSED_ON}
    command = [path, f"--dbname={conninfo.make_conninfo(**address)}", *arguments]
    secret = {"PGPASSWORD": info.password or ""}  # not an argument, which other users could read
    environment = {**os.environ, **secret, "LC_ALL": "C"}  # error messages in English, which are looked for below
    done = subprocess.run(command, env=environment, capture_output=True, errors="replace", check=False)  # noqa: S603
    if done.returncode and "version mismatch" in done.stderr:
        raise BackupRefused(f"{name} is older than the server. Install the client programs of the server's version.")
    if done.returncode:
        why = _reason(name, done.stderr, info.password) or f"The server's log says why; if it does not: {_CHECK_DISK}"
        raise BackupRefused(f"{name} failed (exit {done.returncode}). {why}")


def _reason(name: str, output: str, password: str | None) -> str | None:
    """The last error line of a tool, which names tables, roles and hosts. Other lines may contain rows."""
    faults = [line for line in output.splitlines() if line.startswith(f"{name}: error: ")]
    return faults[-1] if faults and not (password and password in faults[-1]) else None


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _sync_to_disk(*paths: Path) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
