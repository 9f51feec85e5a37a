"""The erasure journal: a file that notes whose label was erased. No restore of a database takes a line back.

A line has an instant and a keyed digest of the pid, so without the keys the file reveals nobody.
"""

import errno
import fcntl
import json
import os
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from app.errors import CannotGoOn, Unavailable
from app.models.base import utc_text
from app.security.keys import Keyring


class ErasureJournalUnavailable(Unavailable):
    """The erasure could not be noted where a restored backup will look for it, so nothing was erased. Try again."""


class ErasureJournalUnusable(CannotGoOn):
    """The file cannot serve as the journal; the message says what to do."""


class Noted(NamedTuple):
    """What a journal holds."""

    persons: frozenset[str]
    """Everybody who was erased."""

    unreadable: int
    """Lines that a crash cut off, which were never acknowledged, or that were damaged since."""


class ErasureJournal(NamedTuple):
    """The journal of one deployment; every worker adds to it."""

    path: Path
    keyring: Keyring

    def note(self, pid: str, at: datetime) -> None:
        """Note an erasure durably, before it is committed. If the commit then fails, the line stays: the erasure was
        asked for, and will be again. Raises ErasureJournalUnavailable."""
        line = json.dumps({"at": utc_text(at), "person": self.person(pid)}) + "\n"
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed: one worker at a time
                _append(descriptor, line.encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            raise ErasureJournalUnavailable from None

    def person(self, pid: str) -> str:
        return self.keyring.digest("erasure", pid.encode())


def _append(descriptor: int, line: bytes) -> None:
    """Write the whole line or, as on a full disk, nothing; after a line that a crash cut off, on a line of its own."""
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    if os.write(descriptor, line) < len(line):
        os.ftruncate(descriptor, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def noted(path: Path) -> Noted:
    """What the journal holds; it is empty before the first erasure. Raises ErasureJournalUnusable."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as error:
        raise ErasureJournalUnusable(f"The erasure journal {path} cannot be read ({error.strerror}).") from None
    persons = [_person(line) for line in lines]
    return Noted(frozenset(person for person in persons if person), persons.count(None))


def _person(line: bytes) -> str | None:
    try:
        return str(json.loads(line)["person"])
    except (ValueError, KeyError, TypeError):
        return None


def require_usable(path: Path) -> None:
    """Raises ErasureJournalUnusable when no erasure could be noted, or not every line can be read."""
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ErasureJournalUnusable(f"{path} cannot be written, so no label can be erased; let the server write it")
    unreadable = noted(path).unreadable
    if unreadable:
        raise ErasureJournalUnusable(
            f"{unreadable} lines of {path} cannot be read: look for them in its copies. A line that a crash cut off "
            "belongs to an erasure that was never acknowledged, and may be deleted"
        )
