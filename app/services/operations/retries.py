"""Deleting old records of Idempotency-Keys, which contain answers and therefore are not kept for ever."""

from datetime import timedelta

from sqlalchemy import delete, select, tuple_
from sqlalchemy.orm import aliased
from sqlmodel import col

from app.database import Database, within
from app.models.base import now, table_of
from app.models.idempotency import IdempotencyRecord
from app.models.sync import SyncOperation
from app.services.offline.sync_shelf import UNSETTLED
from app.services.studies import every_site

_RECORDS = table_of(IdempotencyRecord)
_AT_ONCE = 5_000
"""The number of records deleted in one transaction: few, so that other writes do not wait long."""


def forget(database: Database, days: int) -> int:
    """Delete records older than this many days; gives their number. Acts of sync that wait or were refused are kept,
    with all other acts of the same account, as the kept ones, which are encrypted, may refer to any of them."""
    before, forgotten = now() - timedelta(days=days), 0
    kept = aliased(SyncOperation)
    needing = select(col(kept.account_id)).where(col(kept.state).in_(UNSETTLED))
    needed = col(SyncOperation.account_id).in_(needing)
    with database.write() as session:
        session.execute(delete(SyncOperation).where(~needed, col(SyncOperation.updated_at) < before))
    key = (_RECORDS.c.account_id, _RECORDS.c.key_digest)
    old = select(*key).where(_RECORDS.c.created_at < before).limit(_AT_ONCE)
    while True:
        with database.write() as session, within(session, every_site(session)):
            gone = session.execute(delete(_RECORDS).where(tuple_(*key).in_(old)).returning(_RECORDS.c.key_digest)).all()
        forgotten += len(gone)
        if len(gone) < _AT_ONCE:
            return forgotten
