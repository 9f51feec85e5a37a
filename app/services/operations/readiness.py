"""Whether a worker can do its work: database, tables, keys, room on the disk, and leave to write there."""

import os
import shutil
from collections.abc import Mapping

import sqlalchemy as sa
from sqlmodel import Session

from app import schema
from app.errors import Unavailable
from app.security.keys import KeysUnusable, read_key_file
from app.settings import Settings

ROOM = 200 * 1024 * 1024
"""Bytes that SQLite's disk has to have left: a day of a busy site with its log, several times over."""


class NotReady(Unavailable):
    """This worker cannot serve requests now; `lacking` names what it lacks."""


def readiness(session: Session, settings: Settings) -> Mapping[str, bool]:
    """Each thing that is needed, and whether it is well. A database that does not answer raises."""
    revision = session.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return {
        "database": True,
        "revision": schema.is_served_at(revision),
        "keys": _keys_readable(settings),
        "disk": _room(session),
        "writable": writable(session),
    }


def _keys_readable(settings: Settings) -> bool:
    """A worker goes on with the keys it has, but could not start again."""
    try:
        read_key_file(settings)
    except KeysUnusable:
        return False
    return True


def _room(session: Session) -> bool:
    """Of PostgreSQL's disk its own monitoring knows."""
    url = session.get_bind().engine.url
    if url.get_backend_name() != "sqlite" or not url.database:
        return True
    return shutil.disk_usage(url.database).free >= ROOM


def writable(session: Session) -> bool:
    """Not on a disk that was mounted to be read only, nor on a standby that nobody promoted: reading goes on there."""
    url = session.get_bind().engine.url
    if url.get_backend_name() == "sqlite":
        return os.access(str(url.database), os.W_OK)
    # reading transactions are read only anyway, so that this asks what makes the others so
    made_so = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean"
    return not session.execute(sa.text(made_so)).scalar_one()
