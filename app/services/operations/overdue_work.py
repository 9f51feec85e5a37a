"""Overdue work of workers, people and daily jobs, in sentences for `registry doctor`."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col

from app import audit
from app.database import Database, one_moment, within
from app.models.audit import AuditChain, AuditEntry
from app.models.base import now, table_of
from app.models.extract import Extract, ExtractStatus
from app.models.idempotency import IdempotencyRecord
from app.models.notification import Delivery, DeliveryState, Subscription
from app.models.sync import SyncOperation
from app.services.offline.sync_shelf import UNSETTLED
from app.services.operations import backups
from app.services.studies import every_chain
from app.settings import Settings

PATIENCE = timedelta(hours=1)
"""Workers need minutes. What has waited for an hour, no worker is doing."""

SETTLED_WITHIN = timedelta(days=7)
"""By when a person should have dealt with an act of sync that was refused or waits for a lock or another act."""

DAYS_AFTER = timedelta(days=2)
"""How old the last run of a daily job may be: it may miss one day."""

BACKUP_AGE = timedelta(hours=26)
"""How old the last backup may be: a day, and the time that a backup takes."""

PAUSED = "paused"

_GIVEN_UP = (
    "replay them once their receiver is back, or dismiss what nobody needs; if it is gone for good, disable its "
    "subscription"
)

Wrong = str | None


class Undelivered(NamedTuple):
    """The undelivered messages of one state."""

    messages: int = 0
    late: int = 0
    """Those that have been due for longer than PATIENCE."""

    due: datetime | None = None
    """When the first of them was or will be due."""

    oldest: datetime | None = None


def overdue(database: Database, settings: Settings, every_entry: bool) -> Iterator[tuple[str, Wrong]]:
    """Each check by name, with what is wrong and what to do; None if nothing is wrong."""
    with database.read() as outer, one_moment(outer) as session, within(session, every_chain(session)):
        yield "chains", _chains(session, every_entry)
        yield "messages", _messages(session)
        yield "extracts", _extracts(session)
        yield "apps' acts", _sync(session)
        yield "daily jobs", _daily(session, settings)
    yield "backup", _backup(settings.backup_folder)


def _count(session: Session, *conditions: Any) -> int:
    return int(session.execute(sa.select(sa.func.count()).where(*conditions)).scalar_one())


def _chains(session: Session, every_entry: bool) -> Wrong:
    if every_entry:
        faults = [f"{one.site_id} ({one.fault})" for one in audit.verify(session) if one.fault]
    else:
        faults = [str(site_id) for site_id in session.execute(_damaged_heads()).scalars()]
    advice = "do not write on; keep the database as it is, and compare with a backup (docs/audit.md)"
    return f"broken at site number {', '.join(faults)}: {advice}" if faults else None


def _damaged_heads() -> sa.Select[Any]:
    """Chains whose head is not their last entry, or whose last entry does not follow the one before it."""
    chain, last = table_of(AuditChain), table_of(AuditEntry).alias("last")
    before, later = table_of(AuditEntry).alias("before"), table_of(AuditEntry).alias("later")
    well = (
        sa.select(last.c.seq)
        .outerjoin(before, (before.c.site_id == last.c.site_id) & (before.c.seq == last.c.seq - 1))
        .where(last.c.site_id == chain.c.site_id, last.c.seq == chain.c.seq, last.c.hash == chain.c.hash)
        .where(last.c.previous_hash == sa.func.coalesce(before.c.hash, audit.GENESIS))
        .exists()
    )
    more = sa.select(later.c.seq).where(later.c.site_id == chain.c.site_id, later.c.seq > chain.c.seq).exists()
    return sa.select(chain.c.site_id).where(chain.c.seq > 0, ~well | more).order_by(chain.c.site_id)


def _messages(session: Session) -> Wrong:
    by_state = undelivered(session)
    late, dead = by_state[DeliveryState.pending].late, by_state[DeliveryState.dead].messages
    if late:
        return f"{late} wait for over an hour: see that registry deliver runs"
    return f"{dead} were given up: {_GIVEN_UP} (docs/notifications.md)" if dead else None


def undelivered(session: Session) -> Mapping[str, Undelivered]:
    """The undelivered messages by state: `pending`, `dead`, or `paused` if their subscription is disabled and so nobody
    waits for them."""
    paused = (col(Subscription.disabled_at).is_not(None), PAUSED)
    state = sa.case(paused, else_=col(Delivery.state)).label("shown")
    late = sa.func.count().filter(col(Delivery.next_attempt_at) < now() - PATIENCE)
    theirs = col(Subscription.id) == col(Delivery.subscription_id)
    open_ones = col(Delivery.state).in_([DeliveryState.pending, DeliveryState.dead])
    first = [sa.func.min(col(at)) for at in (Delivery.next_attempt_at, Delivery.created_at)]
    counted = sa.select(state, sa.func.count(), late, *first).join(Subscription, theirs)
    by_state = {name: Undelivered(*rest) for name, *rest in session.execute(counted.where(open_ones).group_by(state))}
    return {
        str(name): by_state.get(name, Undelivered()) for name in (DeliveryState.pending, DeliveryState.dead, PAUSED)
    }


def _extracts(session: Session) -> Wrong:
    late = col(Extract.updated_at) < now() - PATIENCE
    waiting = _count(session, col(Extract.status) == ExtractStatus.building, late)
    failed = _count(session, col(Extract.status) == ExtractStatus.failed)
    if waiting:
        return f"{waiting} approved over an hour ago are not built: see that a server runs, and its log"
    again = "registry extracts build tries again, and a custodian can take one back"
    return f"{failed} could not be built: the log says why; {again}" if failed else None


def _sync(session: Session) -> Wrong:
    """Acts of sync, judged by when they came, as each attempt changes `updated_at`."""
    old = col(SyncOperation.created_at) < now() - SETTLED_WITHIN
    left = _count(session, col(SyncOperation.state).in_(UNSETTLED), old)
    what = "came over a week ago and are not stored: their sites see what holds them (GET /v1/sync)"
    return f"{left} {what}, send them again or discard them" if left else None


def _daily(session: Session, settings: Settings) -> Wrong:
    ended = _count(session, col(Extract.status) == ExtractStatus.ready, col(Extract.expires_at) < now() - DAYS_AFTER)
    if ended:
        return f"{ended} extracts are past their time and still there: run registry extracts expire daily"
    oldest = now() - timedelta(days=settings.retry_days) - DAYS_AFTER
    kept = _count(session, col(IdempotencyRecord.created_at) < oldest)
    return (
        f"{kept} answers are kept longer than REGISTRY_RETRY_DAYS: run registry retries forget daily" if kept else None
    )


def _backup(folder: Path | None) -> Wrong:
    """The age of the last backup. Without a configured folder it is unknown: the machine may have backups of its
    own."""
    if folder is None:
        return None
    try:
        made = last_backup(folder)
    except OSError:
        return f"REGISTRY_BACKUP_FOLDER ({folder}) cannot be read by this user"
    if made is None:
        return f"there is none in {folder}: run registry backup daily {folder}"
    age = now() - made
    return f"the last is {age.days} days old: see that registry backup daily runs" if age > BACKUP_AGE else None


def last_backup(folder: Path) -> datetime | None:
    """The time of the newest backup of the database. Raises OSError."""
    return max((at for at, _ in backups.finished(folder / "database")), default=None)
