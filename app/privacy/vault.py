"""The vault: the site's own label of a participant, encrypted under a key of that person's own.

Each label has a fresh data key (AES-256-GCM) wrapped by a key-encryption key that the database never sees, both bound
to the row and its site. It is found again through a keyed blind index scoped to the site: equal labels at two sites
neither collide nor reveal each other. Deleting the row destroys the label for good.
"""

import base64
import os
import unicodedata

from sqlmodel import Session, select

from app.database import unique_or
from app.errors import Conflict
from app.models.participant import VaultIdentity
from app.security.keys import Keyring
from app.security.sealing import seal, unseal


class LabelAlreadyEnrolled(Conflict):
    """This site has already enrolled a participant under this label."""


def store_label(session: Session, keyring: Keyring, site_id: int, pid: str, label: str) -> None:
    """Keep a participant's label. Raises LabelAlreadyEnrolled when the site used it before."""
    data_key = os.urandom(32)
    context = _context(site_id, pid)
    session.add(
        VaultIdentity(
            site_id=site_id,
            pid=pid,
            blind_index=blind_index(keyring, site_id, label),
            kek_id=keyring.active_kek,
            wrapped_key=seal(keyring.kek[keyring.active_kek], data_key, b"key|" + context),
            ciphertext=seal(data_key, label.encode(), b"label|" + context),
        )
    )
    with unique_or(LabelAlreadyEnrolled):
        session.flush()


def find_pid(session: Session, keyring: Keyring, site_id: int, label: str) -> str | None:
    """The pid behind a label of this site, if any."""
    index = blind_index(keyring, site_id, label)
    statement = select(VaultIdentity.pid).where(VaultIdentity.site_id == site_id, VaultIdentity.blind_index == index)
    return session.exec(statement).first()


def erase(session: Session, site_id: int, pid: str) -> None:
    """Destroy a participant's label for good: the wrapped key and the ciphertext go together."""
    row = session.get(VaultIdentity, (site_id, pid))
    if row is not None:
        session.delete(row)
        session.flush()


def reveal_label(keyring: Keyring, row: VaultIdentity) -> str:
    """The label of a vault row, for tests and break-glass. Raises SealBroken when the row was moved or changed."""
    context = _context(row.site_id, row.pid)
    data_key = unseal(keyring.kek[row.kek_id], row.wrapped_key, b"key|" + context)
    return unseal(data_key, row.ciphertext, b"label|" + context).decode()


def blind_index(keyring: Keyring, site_id: int, label: str) -> str:
    """Keyed 128-bit digest of the label as people compare it: case and punctuation do not matter."""
    folded = unicodedata.normalize("NFKC", label).casefold()
    compared = "".join(character for character in folded if character.isalnum())
    return keyring.digest("blind-index", str(site_id).encode(), compared.encode())[:32]


def _context(site_id: int, pid: str) -> bytes:
    return base64.b64encode(f"{site_id}|{pid}".encode())
