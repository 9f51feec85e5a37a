"""The end of an extract: its files are deleted when it expires or a custodian revokes it. The list of its people
stays."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, visible_row
from app.database import Database
from app.errors import Conflict, Gone
from app.models.audit import REGISTRY_CHAIN
from app.models.base import now
from app.models.extract import OPEN, Extract, ExtractBuild, ExtractChunk, ExtractFile, ExtractStatus


class ExtractExpired(Gone):
    """The time in which the files of this extract could be downloaded is over; ask for it again."""


class ExtractRevoked(Gone):
    """A custodian has revoked this extract."""


class ExtractNotReady(Conflict):
    """Only an extract that was approved, and has not expired, failed or been revoked, can be revoked."""


def expiry(row: Extract, days: int) -> None:
    """Set the time until which the files of an extract approved now can be downloaded."""
    row.expires_at = now() + timedelta(days=days)


def require_downloadable(row: Extract) -> None:
    """Raises ExtractExpired, ExtractRevoked."""
    if row.status == ExtractStatus.revoked:
        raise ExtractRevoked
    if row.status == ExtractStatus.expired or (row.expires_at is not None and row.expires_at <= now()):
        raise ExtractExpired


def revoke(session: Session, actor: Actor, extract_id: UUID, reason: str) -> None:
    """Revoke an extract, also while its files are being built: the lease is deleted, after which no worker can store
    more. Raises NotFound, ExtractNotReady."""
    # a worker that holds the lease refers to the extract with each chunk: a stronger lock would keep it from that
    row = visible_row(session, actor, Extract, extract_id, lock=True, key_share=True)
    if row.status not in OPEN:
        raise ExtractNotReady
    end(session, row, ExtractStatus.revoked, actor.account_id, reason)


def expire(database: Database) -> int:
    """Delete the files of every expired extract, each in its own transaction; gives their number."""
    there = col(Extract.status).in_((ExtractStatus.ready, ExtractStatus.failed))
    over = (there, col(Extract.expires_at) <= now())
    with database.read() as session:
        late = session.exec(select(Extract.id).where(*over)).all()
    ended = 0
    for extract_id in late:
        with database.write() as session:
            row = session.exec(select(Extract).where(Extract.id == extract_id, *over).with_for_update()).first()
            if row is not None:
                end(session, row, ExtractStatus.expired, audit.SYSTEM)
                ended += 1
    return ended


def end(session: Session, row: Extract, status: ExtractStatus, who: UUID | str, reason: str | None = None) -> None:
    """Delete the files and the build of an extract, and write the audit entry. The build goes first: it waits for the
    chunk that a worker is storing, which then goes with the others."""
    for table in (ExtractBuild, ExtractChunk, ExtractFile):
        session.execute(delete(table).where(col(table.extract_id) == row.id))
    moved(session, row, f"extract:{status}", status, who, reason)


def moved(
    session: Session,
    row: Extract,
    action: str,
    status: ExtractStatus,
    who: UUID | str = audit.SYSTEM,
    reason: str | None = None,
    manifest: str | None = None,
) -> None:
    """Set the status of an extract, and the manifest of what was built, and write the audit entry."""
    before = audit.snapshot(row)
    row.status, row.manifest = status, manifest or row.manifest
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    event = audit.changed(action, row, row.id, row.version, before, reason)
    audit.append(session, who, REGISTRY_CHAIN, [event])
