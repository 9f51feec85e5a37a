"""Maintenance of the vault by an operator: wrap keys again, move it to a database of its own, check that it is
complete."""

from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, select

from app import schema
from app.database import Database, NotApart, vault_session, within
from app.errors import CannotGoOn
from app.models.audit import AuditEntry
from app.models.base import now, table_of
from app.models.participant import Participant, VaultIdentity
from app.privacy import vault
from app.security.keys import Keyring
from app.services.studies import every_site

_LABELS = table_of(VaultIdentity)
_WHOSE = (_LABELS.c.site_id, _LABELS.c.pid)
_AT_ONCE = 500
"""Rows of one transaction: few, as sites enrol meanwhile."""


class WrappingKeyMissing(CannotGoOn):
    """Labels are there that no key of the key file opens; the message says what to do."""


class LabelsMissing(CannotGoOn):
    """Participants are there whose labels are not, and nobody erased them; the message says what to do."""


class Check(NamedTuple):
    """The numbers that a check found."""

    labels: int
    reservations: int
    """Labels of enrolments that were never committed."""

    nameless: int
    """Participants whose label is missing without having been erased: their site cannot find them any more."""

    left: int
    """Labels in the main database although the vault is a database of its own, as after a restore of an older
    backup."""


@contextmanager
def whole_vault(session: Session) -> Iterator[Session]:
    """The session of the vault; it and the given session see the rows of every site."""
    sites, own = every_site(session), vault_session(session)
    with within(own, sites):
        if own is session:
            yield own
        else:
            with within(session, sites):
                yield own


def rewrap(database: Database, keyring: Keyring) -> int:
    """Wrap every data key with the active key; gives how many were wrapped by another. Can be stopped and run again."""
    wrapped = 0
    while True:
        with database.write() as session, whole_vault(session):
            count = vault.rewrap(session, keyring, _AT_ONCE)
        wrapped += count
        if count < _AT_ONCE:
            return wrapped


def require_not_lost(database: Database) -> None:
    """Raises LabelsMissing if a migration would create an empty vault for participants whose labels are elsewhere:
    nobody would be found in it, and everybody could be enrolled a second time. It runs before the migration, so it uses
    only tables and columns that every version has."""
    if database.vault is None or schema.current(database) is None or schema.current(database.vault) is not None:
        return
    with database.read() as session, within(session, every_site(session)):
        with_the_rest = {tuple(row) for row in session.execute(sa.select(*_WHOSE))}
        missing = _nameless(session, _people(session), with_the_rest)
    if missing:
        raise LabelsMissing(
            f"The labels' database (REGISTRY_VAULT_URL) has no tables, and {missing} participants have their labels in "
            "one. Bring it back: see that its address is right and its disk there, or restore its last backup "
            "(registry backup restore --vault). An empty one would find nobody, and enrol people a second time."
        )


def needs(database: Database, kek_id: str) -> bool:
    """Whether any label needs this wrapping key."""
    with _labels_read(database) as own:
        return vault.uses(own, kek_id)


def require_keys(database: Database, keyring: Keyring) -> None:
    """Raises WrappingKeyMissing when some label was wrapped by a key that the file does not have."""
    with _labels_read(database) as own:
        wrapped = sa.select(_LABELS.c.kek_id, sa.func.count()).group_by(_LABELS.c.kek_id)
        missing = {kek_id: count for kek_id, count in own.execute(wrapped) if kek_id not in keyring.kek}
    if missing:
        raise WrappingKeyMissing(
            f"{sum(missing.values())} labels cannot be opened: the key file lacks the wrapping key "
            f"{', '.join(sorted(missing))}. Bring back a copy that has it."
        )


def require_own_keys(database: Database, keyring: Keyring) -> None:
    """Raises WrappingKeyMissing if no label was wrapped by a key of the key file: it is the file of another registry,
    with which nobody would be found here and people would be enrolled a second time. If only some keys are lost, sites
    can still work."""
    with _labels_read(database) as own:
        label = sa.select(_LABELS.c.pid).limit(1)
        ours = own.execute(label.where(_LABELS.c.kek_id.in_(keyring.kek))).first()
        foreign = ours is None and own.execute(label).first() is not None
    if foreign:
        raise WrappingKeyMissing(
            "No key of the key file opens any label of this database: it is not the key file of this registry. Bring "
            "that back from its copy; REGISTRY_KEY_FILE names its place."
        )


@contextmanager
def _labels_read(database: Database) -> Iterator[Session]:
    """A session that reads every site's labels, in the vault's database."""
    with database.read() as session:
        sites = every_site(session)
    with (database.vault or database).read() as own, within(own, sites):
        yield own


@contextmanager
def _everything_read(database: Database) -> Iterator[tuple[Session, Session]]:
    """Two sessions: one reads everything, the other every site's labels. They wait for no writer."""
    with database.read() as session, within(session, every_site(session)):
        if database.vault is None:
            yield session, session
        else:
            with _labels_read(database) as own:
                yield session, own


@contextmanager
def _everything_written(database: Database) -> Iterator[tuple[Session, Session]]:
    with database.write() as session, whole_vault(session) as own:
        yield session, own


def erased_in_trail(session: Session) -> set[str]:
    """The pids of those whose erasure is in the audit trail."""
    return set(session.exec(select(AuditEntry.subject_id).where(AuditEntry.action == "vault:erased")))


def _people(session: Session) -> set[tuple[int, str]]:
    return set(session.exec(select(Participant.site_id, Participant.pid)).all())


def _nameless(session: Session, people: Set[tuple[int, str]], kept: Set[tuple[Any, ...]]) -> int:
    """The number of participants whose label is missing without having been erased."""
    erased = erased_in_trail(session)
    return sum(pid not in erased for _, pid in people - kept)


def check(database: Database, *, sweep: bool) -> Check:
    """Compare labels with participants; with `sweep`, also delete old reservations."""
    with (_everything_written if sweep else _everything_read)(database) as (session, own):
        people = _people(session)
        labels = own.execute(sa.select(*_WHOSE, _LABELS.c.created_at)).all()
        kept = {(row.site_id, row.pid) for row in labels}
        before = now() - vault.RESERVED_FOR
        waiting = [(row.site_id, row.pid) for row in labels if row.created_at < before and row[:2] not in people]
        for site_id, pid in waiting if sweep else ():
            vault.erase(session, site_id, pid, before=before)  # unless it was used meanwhile
        nameless = _nameless(session, people, kept)
        left = 0 if own is session else session.execute(sa.select(sa.func.count()).select_from(_LABELS)).scalar_one()
    return Check(len(labels), len(waiting), nameless, left)


def require_whole(database: Database) -> None:
    """Raises LabelsMissing if participants lack their label, or labels are outside the vault."""
    found = check(database, sweep=False)
    if found.left:
        raise LabelsMissing(f"{found.left} labels are still in the main database. Run: registry vault move")
    if found.nameless:
        raise LabelsMissing(
            f"{found.nameless} participants are without their label, which nobody erased: nobody finds them by it, and "
            "they would be enrolled a second time. The labels are older than the rest, or another registry's. Restore "
            "both from backups of one time, or the labels from a newer one; registry vault check counts them."
        )


def move(database: Database) -> int:
    """Move labels that are still in the main database into the vault's own; gives their number. It may be stopped and
    run again: a label is deleted here once it is stored there. Raises NotApart where the vault has no database of its
    own."""
    if database.vault is None:
        raise NotApart("REGISTRY_VAULT_URL is not set: the labels stay in the main database.")
    database.require_apart()
    moved = 0
    while True:
        with database.write() as session, whole_vault(session) as own:
            rows = session.execute(sa.select(_LABELS).order_by(*_WHOSE).limit(_AT_ONCE)).mappings().all()
            there = set(own.exec(select(VaultIdentity.site_id, VaultIdentity.pid)).all()) if rows else set()
            new = [dict(row) for row in rows if (row["site_id"], row["pid"]) not in there]
            if new:
                own.execute(sa.insert(_LABELS), new)
            own.flush()
            for row in rows:
                mine = (_LABELS.c.site_id == row["site_id"], _LABELS.c.pid == row["pid"])
                session.execute(sa.delete(_LABELS).where(*mine))
        moved += len(rows)
        if len(rows) < _AT_ONCE:
            return moved
