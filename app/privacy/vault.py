"""The vault: the site's own label of a participant, encrypted under a key of that person's own.

Each label has a fresh data key (AES-256-GCM) wrapped by a key-encryption key that the database never sees, both bound
to the row and its site. It is found again through a keyed blind index scoped to the site: equal labels at two sites
neither collide nor reveal each other. Deleting the row destroys the label for good.

The vault may be a database of its own (`REGISTRY_VAULT_URL`); a session is always that of the main database.
"""

import base64
import os
from collections.abc import Callable
from contextlib import nullcontext
from datetime import datetime, timedelta

from sqlalchemy import bindparam, delete, insert
from sqlmodel import Session, col, select

from app.database import unique_or, vault_session
from app.errors import Conflict, Gone, Unavailable
from app.models.base import as_compared, new_row, now, table_of
from app.models.participant import Participant, VaultIdentity
from app.security.keys import Keyring
from app.security.sealing import seal, unseal

RESERVED_FOR = timedelta(hours=1)
"""How long a label may be stored before its participant is."""

_LABELS = table_of(VaultIdentity)
_BY_LABEL = select(_LABELS.c.pid).where(
    _LABELS.c.site_id == bindparam("site_id"), _LABELS.c.blind_index == bindparam("blind_index")
)


class LabelAlreadyEnrolled(Conflict):
    """This site has already enrolled a participant under this label; POST /v1/participants/lookup finds the pid."""


class EnrolmentUnderWay(Unavailable):
    """Another enrolment under this label has begun and is not finished; try again within the hour."""


class LabelErased(Gone):
    """The site's label of this participant was erased for good."""


class LabelKeyMissing(Unavailable):
    """The key file lacks the key that opens this label; the operator has to bring it back from a copy."""


def reserve(session: Session, keyring: Keyring, site_id: int, label: str, draw: Callable[[], str]) -> str:
    """The pid under which to enrol the person with this label: a fresh one, or that of an earlier attempt whose
    participant was never committed, as can happen where the vault is a database of its own. Raises
    LabelAlreadyEnrolled."""
    try:
        return _reserved(session, keyring, site_id, label, draw)
    except LabelAlreadyEnrolled:
        if vault_session(session) is session:
            raise
        return _reserved(session, keyring, site_id, label, draw)  # another enrolment at the same moment may yet fail


def _reserved(session: Session, keyring: Keyring, site_id: int, label: str, draw: Callable[[], str]) -> str:
    """As `reserve`. The label of an enrolment that broke off is stored again, with the present time, so that
    `registry vault check --sweep` does not delete it."""
    pid = find_pid(session, keyring, site_id, label)
    if pid is None:
        pid = draw()
    elif session.get(Participant, (site_id, pid)) is None:
        erase(session, site_id, pid)
    else:
        raise LabelAlreadyEnrolled
    store_label(session, keyring, site_id, pid, label)
    return pid


def store_under(session: Session, keyring: Keyring, site_id: int, pid: str, label: str) -> None:
    """Store the label of a participant whose row exists: just added under a reserved pid, or whose label is corrected.
    The wrong label is deleted, and so are labels that attempts which were never committed left under this pid, or this
    label under another pid. Raises LabelAlreadyEnrolled, EnrolmentUnderWay."""
    earlier = find_pid(session, keyring, site_id, label)
    if earlier is not None and earlier != pid:
        if session.get(Participant, (site_id, earlier)) is not None:
            raise LabelAlreadyEnrolled
        left = find(session, site_id, earlier)
        if left is not None and left.created_at > now() - RESERVED_FOR:
            raise EnrolmentUnderWay(headers={"Retry-After": "60"})
        erase(session, site_id, earlier)
    erase(session, site_id, pid)
    store_label(session, keyring, site_id, pid, label)


def store_label(session: Session, keyring: Keyring, site_id: int, pid: str, label: str) -> None:
    """Keep a participant's label. Raises LabelAlreadyEnrolled when the site used it before."""
    data_key = os.urandom(32)
    vault = vault_session(session)
    given = {
        "site_id": site_id,
        "pid": pid,
        "blind_index": blind_index(keyring, site_id, label),
        "kek_id": keyring.active_kek,
        "wrapped_key": _wrapped(keyring, site_id, pid, data_key),
        "ciphertext": seal(data_key, label.encode(), b"label|" + _context(site_id, pid)),
    }
    with nullcontext() if vault is session else vault.begin_nested(), unique_or(LabelAlreadyEnrolled):
        vault.execute(insert(_LABELS), new_row(VaultIdentity, given))


def find_pid(session: Session, keyring: Keyring, site_id: int, label: str) -> str | None:
    """The pid behind a label of this site, if any."""
    asked = {"site_id": site_id, "blind_index": blind_index(keyring, site_id, label)}
    pid: str | None = vault_session(session).execute(_BY_LABEL, asked).scalar()
    return pid


def find(session: Session, site_id: int, pid: str) -> VaultIdentity | None:
    """The label of a participant, encrypted; None after an erasure."""
    return vault_session(session).get(VaultIdentity, (site_id, pid))


def erase(session: Session, site_id: int, pid: str, *, before: datetime | None = None) -> None:
    """Delete a participant's label for good, with the wrapped key and the ciphertext. `before`: only if it was stored
    before then."""
    theirs = [col(VaultIdentity.site_id) == site_id, col(VaultIdentity.pid) == pid]
    older = [] if before is None else [col(VaultIdentity.created_at) < before]
    vault_session(session).execute(delete(VaultIdentity).where(*theirs, *older))


def reveal_label(keyring: Keyring, row: VaultIdentity) -> str:
    """The label of a vault row, for break-glass. Raises LabelKeyMissing, and SealBroken when the row was moved or
    changed."""
    context = _context(row.site_id, row.pid)
    return unseal(_data_key(keyring, row), row.ciphertext, b"label|" + context).decode()


def rewrap(session: Session, keyring: Keyring, batch: int) -> int:
    """Wrap up to `batch` data keys with the active key that are still under an older one; gives how many there were.
    The labels' own encryption does not change. Raises SealBroken."""
    vault = vault_session(session)
    older = col(VaultIdentity.kek_id).in_(keyring.kek.keys() - {keyring.active_kek})
    old = select(VaultIdentity).where(older).limit(batch).with_for_update()
    rows = vault.exec(old.order_by(col(VaultIdentity.site_id), col(VaultIdentity.pid))).all()
    for row in rows:
        data_key = _data_key(keyring, row)
        row.kek_id, row.wrapped_key = keyring.active_kek, _wrapped(keyring, row.site_id, row.pid, data_key)
    vault.flush()
    return len(rows)


def uses(session: Session, kek_id: str) -> bool:
    """Whether any data key is still wrapped by this key."""
    used = select(VaultIdentity.pid).where(VaultIdentity.kek_id == kek_id).limit(1)
    return vault_session(session).exec(used).first() is not None


def _data_key(keyring: Keyring, row: VaultIdentity) -> bytes:
    if row.kek_id not in keyring.kek:
        raise LabelKeyMissing(headers={"Retry-After": "3600"})
    return unseal(keyring.kek[row.kek_id], row.wrapped_key, b"key|" + _context(row.site_id, row.pid))


def _wrapped(keyring: Keyring, site_id: int, pid: str, data_key: bytes) -> str:
    return seal(keyring.kek[keyring.active_kek], data_key, b"key|" + _context(site_id, pid))


def blind_index(keyring: Keyring, site_id: int, label: str) -> str:
    """Keyed 128-bit digest of the label as people compare it."""
    return keyring.digest("blind-index", str(site_id).encode(), as_compared(label).encode())[:32]


def _context(site_id: int, pid: str) -> bytes:
    return base64.b64encode(f"{site_id}|{pid}".encode())
