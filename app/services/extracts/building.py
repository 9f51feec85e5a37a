"""Building the files of approved extracts: one worker at a time has the lease, and any other takes over when it
expires.

The approval fixes the content: the people, their subject ids and the moment. So a second attempt writes the same bytes,
and what an unfinished build has written is deleted.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import datetime, timedelta
from threading import Event, Thread
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import sqlalchemy as sa
import structlog
from sqlalchemy import or_
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import Session, col, delete, select

from app import audit
from app.database import Database, one_moment, within
from app.errors import DatabaseUnavailable
from app.models.base import canonical_json, now, table_of
from app.models.extract import (
    Extract,
    ExtractBuild,
    ExtractChunk,
    ExtractFile,
    ExtractProfile,
    ExtractStatus,
)
from app.models.notification import EventType, SubjectType
from app.models.study import Study
from app.privacy.bundle import UnsafeText
from app.privacy.profile import PROFILES, VERSIONS, Profile
from app.security.keys import Keyring
from app.services.extracts import as_at, quasi_identifiers
from app.services.extracts.aggregate import AggregateRows
from app.services.extracts.bundling import SCHEMA, Files, content_digest
from app.services.extracts.extract_ends import end, moved
from app.services.extracts.extract_rows import ExtractRows
from app.services.extracts.extract_sql import unhurried
from app.services.extracts.reading import Pieces, Readers
from app.services.notifications.outbox import notify
from app.services.participation import sharing
from app.services.studies import sites_of

log = structlog.get_logger()
LEASE = timedelta(seconds=60)
READERS = 2
"""Sessions that read an extract in parallel on SQLite."""

ATTEMPTS = 5
"""Failed attempts after which an extract is given up, as then the fault is not the worker's."""

MOST_ATTEMPTS = 30
"""Attempts after which an extract is given up however they ended, so that one that crashes its workers ends too."""


class BuildLost(Exception):
    """The lease expired and another worker builds, or the extract was revoked, or this worker is to stop."""


class NotAsApproved(Exception):
    """The rows built now differ from those approved, or from those whose digest was published before their files were
    lost."""


class TooLate(Exception):
    """The time in which the files could be downloaded is over."""


class Claim(NamedTuple):
    """One extract to build, and the id of this attempt."""

    extract_id: UUID
    build: UUID
    attempts: int

    @property
    def held(self) -> sa.ColumnElement[bool]:
        """The condition for the row of the lease, which fails once another attempt has it."""
        return (col(ExtractBuild.extract_id) == self.extract_id) & (col(ExtractBuild.build) == self.build)

    def renewed(self) -> sa.Update:
        """The statement that renews the lease, if this attempt still has it."""
        return sa.update(ExtractBuild).where(self.held).values(leased_until=now() + LEASE)


def build_next(database: Database, keyring: Keyring, stopping: Callable[[], bool] = lambda: False) -> bool:
    """Build one extract that waits; False if none does. Raises OperationalError, PoolTimeout and
    DatabaseUnavailable."""
    claim = _claimed(database, now())
    if claim is None:
        return False
    if claim.attempts > MOST_ATTEMPTS:
        _ended(database, claim, ExtractStatus.failed)
        return True
    try:
        _build(database, keyring, claim, stopping)
    except BuildLost:
        _released(database, claim, counted=False)
    except NotAsApproved:
        log.warning("extract.not_as_approved", extract=str(claim.extract_id))
        _ended(database, claim, ExtractStatus.expired)
    except TooLate:
        _ended(database, claim, ExtractStatus.expired)
    except (OperationalError, PoolTimeout, DatabaseUnavailable):
        raise  # the database failed, not the extract: the lease expires, and the build starts again
    except Exception as fault:
        log.error("extract.build_failed", extract=str(claim.extract_id), fault=type(fault).__name__)
        _released(database, claim)
        if claim.attempts >= ATTEMPTS:
            _ended(database, claim, ExtractStatus.failed)
    return True


def queue_again(database: Database) -> list[UUID]:
    """Queue failed extracts again that have not expired. Gives the ids of all extracts that now wait."""
    failed = (Extract.status == ExtractStatus.failed, col(Extract.expires_at) > now())
    with database.write() as session:
        for row in session.exec(select(Extract).where(*failed).with_for_update()).all():
            session.add(ExtractBuild(extract_id=row.id))
            moved(session, row, "extract:queued", ExtractStatus.building)
        return list(session.exec(select(Extract.id).where(Extract.status == ExtractStatus.building)))


def _claimed(database: Database, at: datetime) -> Claim | None:
    """Take the lease of the oldest waiting extract, and delete the chunks of earlier attempts."""
    free = or_(col(ExtractBuild.leased_until).is_(None), col(ExtractBuild.leased_until) <= at)
    waiting = (
        select(ExtractBuild)
        .join(Extract, col(Extract.id) == col(ExtractBuild.extract_id))
        .where(Extract.status == ExtractStatus.building, free)
        .order_by(col(Extract.updated_at))
        .limit(1)
    )
    with database.read() as session:
        if session.exec(waiting).first() is None:  # no write transaction is needed, for which SQLite would wait
            return None
    with database.write() as session:
        row = session.exec(waiting.with_for_update(skip_locked=True, of=ExtractBuild)).first()
        if row is None:
            return None
        row.build, row.leased_until, row.attempts, row.rows = uuid4(), at + LEASE, row.attempts + 1, 0
        session.execute(delete(ExtractChunk).where(col(ExtractChunk.extract_id) == row.extract_id))
        session.flush()
        return Claim(row.extract_id, row.build, row.attempts)


def _released(database: Database, claim: Claim, *, counted: bool = True) -> None:
    """Give the lease back, so that the next attempt can begin at once. `counted`: whether this one counts as an
    attempt."""
    attempts = claim.attempts if counted else claim.attempts - 1
    with database.write() as session:
        free = sa.update(ExtractBuild).where(claim.held)
        session.execute(free.values(build=None, leased_until=None, attempts=attempts))


def _build(database: Database, keyring: Keyring, claim: Claim, stopping: Callable[[], bool]) -> None:
    progress = _Progress(claim, stopping)
    with database.read() as session:
        extract = session.get_one(Extract, claim.extract_id)
        study = session.get_one(Study, extract.study_id)
    if extract.expires_at is not None and extract.expires_at <= now():
        raise TooLate
    fixed = json.loads(extract.manifest or "{}")
    profile = _profile(extract, fixed)
    if profile is None or (profile != PROFILES[extract.profile] and "row_content_sha256" not in fixed):
        raise NotAsApproved  # what was never released is released by today's rules only
    with _beating(database, claim), Files(database, claim.extract_id, claim.build, progress.kept) as files:
        with _moment(database, extract) as readers, closing(_tables(readers, extract, profile)) as tables:
            for file, parts in tables:
                progress.rows += files.write_table(file, profile.files[file], parts, extract.formats)
        files.complete(extract, profile, study.code, fixed)
    if fixed.get("row_content_sha256") not in (None, files.manifest["row_content_sha256"]):  # its files were lost
        raise NotAsApproved
    with database.write() as session:
        row = _locked(session, extract.id)  # before the lease, in the order in which a revocation locks them
        progress.kept(session)
        files.require_all_there(session)
        _finish(session, row, files.rows(keyring), files.manifest)


@contextmanager
def _beating(database: Database, claim: Claim) -> Iterator[None]:
    """Renew the lease at regular times in a thread: the first rows of a large extract may take longer than the lease,
    and two workers would then take it from each other for ever."""
    over = Event()

    def beat() -> None:
        while not over.wait(LEASE.total_seconds() / 4):
            with suppress(SQLAlchemyError, DatabaseUnavailable), database.write() as session:  # the next may succeed
                session.execute(claim.renewed())

    thread = Thread(target=beat, name="extract-lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _Progress:
    """Renews the lease with each chunk that is stored. Raises BuildLost if it was lost."""

    def __init__(self, claim: Claim, stopping: Callable[[], bool]) -> None:
        self._claim, self._stopping, self.rows = claim, stopping, 0

    def kept(self, session: Session) -> None:
        renewed = self._claim.renewed().values(rows=self.rows)
        if self._stopping() or session.execute(renewed).rowcount != 1:  # type: ignore[attr-defined]
            raise BuildLost


@contextmanager
def _moment(database: Database, extract: Extract) -> Iterator[Readers]:
    """Sessions that read the data as of the extract's moment: one on PostgreSQL, several on SQLite. One connection of
    the pool is left for storing."""
    alone = not database.is_sqlite or extract.profile == ExtractProfile.aggregate
    at_once = 1 if alone else max(1, min(READERS, database.pool_size - 1))
    with ExitStack() as held:
        sessions = [held.enter_context(_reading(database, extract)) for _ in range(at_once)]
        with Readers(sessions) as readers:
            yield readers


def _tables(readers: Readers, extract: Extract, profile: Profile) -> Generator[tuple[str, Pieces], None, None]:
    """The tables of an extract as CSV."""
    rows = _rows(readers, extract, profile)
    for file, columns in profile.files.items():
        with closing(rows.csv(file, columns)) as parts:
            yield file, parts


@contextmanager
def _reading(database: Database, extract: Extract) -> Iterator[Session]:
    """A session that sees the sites of the study as they were at the extract's moment."""
    with database.read() as outer, one_moment(outer) as session:
        sites = sites_of(session, extract.study_id)
        with within(session, sites):
            unhurried(session)
            with as_at.as_at(session, as_at.read(extract.heads or "{}"), sites):
                yield session


def _rows(readers: Readers, extract: Extract, profile: Profile) -> AggregateRows | ExtractRows:
    if extract.profile == ExtractProfile.aggregate:
        return AggregateRows(readers.sessions[0], extract.id, profile)
    return ExtractRows(readers, extract.id, profile)


SAME, OTHER = "the same rows", "OTHER ROWS than those cited"


def differing(database: Database, extract: Extract) -> str | None:
    """Build the rows of an extract again from the data and the audit trail as they are now, and say how they compare.
    None: it was never built, or its moment was not stored."""
    manifest = json.loads(extract.manifest or "{}")
    if "row_content_sha256" not in manifest or extract.heads is None:
        return None
    profile = _profile(extract, manifest)
    if profile is None:
        return "cannot be compared: it was written by another version of the registry"
    try:
        with _moment(database, extract) as readers:
            if _shows_otherwise(readers.sessions[0], extract, manifest["levels"]):
                return OTHER
            rebuilt = _content(readers, extract, profile)
    except (UnsafeText, ArithmeticError, LookupError, TypeError, ValueError):
        return OTHER  # the rows first released could be built without such errors
    return SAME if rebuilt == manifest["row_content_sha256"] else OTHER


def _shows_otherwise(session: Session, extract: Extract, levels: Mapping[str, int] | None) -> bool:
    """Whether the traits of people, which the approval stored, have changed. Aggregates are counted from the people
    themselves."""
    return extract.profile != ExtractProfile.aggregate and quasi_identifiers.changed(session, extract.id, levels)


def _content(readers: Readers, extract: Extract, profile: Profile) -> str:
    """The digest (`row_content_sha256`) of an extract's rows if they were built now. Raises UnsafeText."""
    digests = {}
    with closing(_tables(readers, extract, profile)) as tables:
        for file, parts in tables:
            digest = hashlib.sha256()
            for part in parts:
                digest.update(part)
            digests[file] = digest.hexdigest()
    return content_digest(digests)


def _profile(extract: Extract, manifest: Mapping[str, Any]) -> Profile | None:
    """The version of the profile under which it was approved; None if this version of the registry cannot build it."""
    version = VERSIONS.get((extract.profile, str(manifest.get("profile_version"))))
    return version if manifest.get("schema") == SCHEMA else None


def _locked(session: Session, extract_id: UUID) -> Extract:
    return session.exec(select(Extract).where(Extract.id == extract_id).with_for_update(key_share=True)).one()


def _finish(session: Session, row: Extract, files: list[dict[str, Any]], manifest: Mapping[str, Any]) -> None:
    if row.status != ExtractStatus.building:
        raise BuildLost
    session.execute(sa.insert(table_of(ExtractFile)), files)
    session.execute(delete(ExtractBuild).where(col(ExtractBuild.extract_id) == row.id))
    notify(session, EventType.extract_ready, None, row.study_id, SubjectType.extract, row.id)
    with within(session, sites_of(session, row.study_id)):
        sharing.notify_if_missed(session, row.study_id, row.id)
    moved(session, row, "extract:built", ExtractStatus.ready, manifest=canonical_json(manifest))


def _ended(database: Database, claim: Claim, status: ExtractStatus) -> None:
    with database.write() as session:
        row = _locked(session, claim.extract_id)
        if row.status == ExtractStatus.building:
            end(session, row, status, audit.SYSTEM)
