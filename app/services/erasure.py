"""After a restore: erasures that the backup does not know are done again, from the journal that outlived it."""

import sqlalchemy as sa
from sqlmodel import select

from app import audit
from app.database import Database
from app.models.base import table_of
from app.models.participant import Participant, VaultIdentity
from app.privacy import vault
from app.privacy.erasure_journal import ErasureJournal
from app.services.vault_care import whole_vault

_PERSON = table_of(Participant).c
WHY = "Done again from the erasure journal after a restore"


def replay(database: Database, journal: ErasureJournal) -> int:
    """Erase the label of everybody in the journal who has one; how many had. Each is an entry in the chain of its
    site. Raises OSError and ValueError when the journal cannot be read."""
    erased = journal.persons()
    with database.write() as session, whole_vault(session) as own:
        kept = own.exec(select(VaultIdentity.site_id, VaultIdentity.pid)).all()
        back = [(site_id, pid) for site_id, pid in kept if journal.person(pid) in erased]
        for site_id, pid in back:
            vault.erase(session, site_id, pid)
            version = session.execute(sa.select(_PERSON.version).where(_PERSON.pid == pid)).scalar()
            if version is not None:  # else a reservation that nobody took up
                event = audit.Event("vault:erased", "participant", pid, version, [], WHY)
                audit.append(session, audit.SYSTEM, site_id, [event])
    return len(back)
