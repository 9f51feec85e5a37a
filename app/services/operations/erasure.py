"""After a restore: erasures made since the backup are done again, from the erasure journal, which is no part of
backups."""

from collections.abc import Set
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from app import audit
from app.database import Database, within
from app.errors import CannotGoOn
from app.models.audit import AuditEntry
from app.models.base import table_of
from app.models.participant import Participant, VaultIdentity
from app.models.sync import SyncOperation
from app.privacy.erasure_journal import ErasureJournal, noted
from app.privacy.vault import LabelAlreadyEnrolled
from app.services.offline.sync_shelf import forget_erased, kept_enrolments
from app.services.operations.vault_care import erased_in_trail, whole_vault
from app.services.studies import every_site
from app.services.trail.registry_chain import remember

_PERSON = (table_of(Participant).c.site_id, table_of(Participant).c.pid, table_of(Participant).c.version)
_LABEL = (table_of(VaultIdentity).c.site_id, table_of(VaultIdentity).c.pid)
_INDEX = (table_of(VaultIdentity).c.site_id, table_of(VaultIdentity).c.blind_index)
_ENTRY = table_of(AuditEntry)
WHY = "Done again after a restore"


class JournalIncomplete(CannotGoOn):
    """The audit trail has erasures that the journal lacks; the message says what to do."""


class Replayed(NamedTuple):
    """What a replay did."""

    erased: int
    """Labels that the restore had brought back."""

    remembered: int
    """Erasures that only the audit trail lacked, for example because the vault was not restored with it."""


def replay(database: Database, journal: ErasureJournal) -> Replayed:
    """Erase every label whose erasure is in the journal or in the audit trail. A backup from before the vault was moved
    has labels in the main database: they are erased too. Each erasure gets an entry in the audit chain of its site,
    also one that the journal and the vault have and only the trail lacks. Operations of sync kept under such a label
    are discarded. Raises ErasureJournalUnusable."""
    erased = noted(journal.path).persons
    with database.write() as session, whole_vault(session) as own:
        in_trail = erased_in_trail(session)
        kept = {tuple(row) for store in (own, session) for row in store.execute(sa.select(*_LABEL))}
        people = {(site_id, pid): version for site_id, pid, version in session.execute(sa.select(*_PERSON))}
        back = {one for one in kept if one[1] in in_trail or journal.person(one[1]) in erased}
        lacking = {one for one in people.keys() - kept if one[1] not in in_trail and journal.person(one[1]) in erased}
        before = _indexes(own, session)
        for store in (own, session):
            store.execute(sa.delete(VaultIdentity).where(sa.tuple_(*_LABEL).in_(sorted(back))))
        discarded = forget_erased(session, _kept_of_erased(session, journal, before, _indexes(own, session)), WHY)
        remember(session, None, *discarded)
        for site_id, pid in sorted((back | lacking) & people.keys()):  # others were never enrolled
            event = audit.Event("vault:erased", "participant", pid, people[site_id, pid], [], WHY)
            audit.append(session, audit.SYSTEM, site_id, [event])
    return Replayed(len(back), len(lacking))


def _indexes(*stores: Session) -> set[tuple[int, str]]:
    return {(site_id, index) for store in stores for site_id, index in store.execute(sa.select(*_INDEX))}


def _kept_of_erased(
    session: Session, journal: ErasureJournal, before: Set[tuple[int, str]], after: Set[tuple[int, str]]
) -> list[SyncOperation]:
    """Enrolments kept by sync under labels that were erased again; and, if the vault was not restored, those refused
    because their label was enrolled, when it no longer is."""
    return [
        one.row
        for one in kept_enrolments(session, journal.keyring)
        if (label := (one.site_id, one.blind_index)) not in after
        and (label in before or LabelAlreadyEnrolled.code() in (one.row.problem or ""))
    ]


def note_from_trail(database: Database, journal: ErasureJournal) -> int:
    """After the loss of the journal: add the erasures in the audit trail that it lacks; gives their number. Erasures
    that a restored database does not have remain unknown. Raises ErasureJournalUnusable, ErasureJournalUnavailable."""
    erased = noted(journal.path).persons
    erasures = sa.select(_ENTRY.c.subject_id, sa.func.min(_ENTRY.c.at)).where(_ENTRY.c.action == "vault:erased")
    with database.read() as session, within(session, every_site(session)):
        rows = session.execute(erasures.group_by(_ENTRY.c.subject_id)).all()
    missing = [(at, pid) for pid, at in rows if journal.person(pid) not in erased]
    for at, pid in sorted(missing):
        journal.note(pid, at)
    return len(missing)


def require_noted(database: Database, journal: ErasureJournal) -> None:
    """Raises JournalIncomplete if the audit trail has erasures that the journal lacks: it may then lack those made
    after a backup, too. Raises ErasureJournalUnusable."""
    erased = noted(journal.path).persons
    with database.read() as session, within(session, every_site(session)):
        missing = sum(journal.person(pid) not in erased for pid in erased_in_trail(session))
    if missing:
        raise JournalIncomplete(
            f"The audit trail has {missing} erasures that {journal.path} lacks: it is not the complete erasure journal "
            "of this registry. Restore that, then run: registry vault replay (if it is lost for good, with "
            "--journal-from-trail: docs/vault.md)"
        )
