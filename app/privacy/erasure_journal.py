"""The erasure journal: whose label was destroyed, in a file that no restore of a database turns back.

A line holds an instant and a keyed digest of the pid, so that the file tells nothing to whoever lacks the keys.
"""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from app.errors import Unavailable
from app.models.base import utc_text
from app.security.keys import Keyring


class ErasureJournalUnavailable(Unavailable):
    """The erasure could not be noted where a restored backup will look for it, so nothing was erased. Try again."""


class ErasureJournal(NamedTuple):
    """The journal of one deployment; every worker adds to it."""

    path: Path
    keyring: Keyring

    def note(self, pid: str, at: datetime) -> None:
        """Note an erasure durably, before it is committed: one that is noted and then fails was asked for, and is asked
        for again. Raises ErasureJournalUnavailable."""
        line = json.dumps({"at": utc_text(at), "person": self.person(pid)}) + "\n"
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(descriptor, line.encode())  # one write: lines of several workers do not mix
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            raise ErasureJournalUnavailable from None

    def person(self, pid: str) -> str:
        return self.keyring.digest("erasure", pid.encode())

    def persons(self) -> frozenset[str]:
        """Everybody who was erased. A last line that a crash cut off was never acknowledged. Raises OSError, and
        ValueError for a file that is no journal."""
        if not self.path.exists():
            return frozenset()
        whole, _, _cut_off = self.path.read_text().rpartition("\n")
        return frozenset(str(json.loads(line)["person"]) for line in whole.splitlines())
