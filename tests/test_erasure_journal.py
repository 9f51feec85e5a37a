"""The erasure journal holds every acknowledged erasure, whatever a crash or a full disk did to the file."""

import os
from pathlib import Path

import pytest

from app.models.base import now
from app.privacy.erasure_journal import (
    ErasureJournal,
    ErasureJournalUnavailable,
    ErasureJournalUnusable,
    noted,
    require_usable,
)
from app.security.keys import Keyring, new_key_file

FIRST, SECOND, THIRD = "AAAAAAAAAAAA", "BBBBBBBBBBBB", "CCCCCCCCCCCC"


@pytest.fixture
def journal(tmp_path: Path) -> ErasureJournal:
    return ErasureJournal(tmp_path / "journal", Keyring(new_key_file()))


def digests(journal: ErasureJournal, *pids: str) -> set[str]:
    return {journal.person(pid) for pid in pids}


def test_a_line_that_a_crash_cut_off_takes_no_other_with_it(journal: ErasureJournal) -> None:
    assert noted(journal.path) == (set(), 0)
    journal.note(FIRST, now())
    journal.note(SECOND, now())
    journal.path.write_text(journal.path.read_text()[:-9])
    journal.note(THIRD, now())
    assert noted(journal.path) == (digests(journal, FIRST, THIRD), 1)
    with pytest.raises(ErasureJournalUnusable, match="1 lines"):
        require_usable(journal.path)


def test_an_erasure_that_a_full_disk_cut_off_is_refused_and_leaves_nothing(
    journal: ErasureJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.note(FIRST, now())
    before, write = journal.path.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:30]))
    with pytest.raises(ErasureJournalUnavailable):
        journal.note(SECOND, now())
    assert journal.path.read_bytes() == before
    monkeypatch.undo()
    journal.note(SECOND, now())
    assert noted(journal.path) == (digests(journal, FIRST, SECOND), 0)


@pytest.mark.parametrize("line", [b"no journal", b"\xff\xfe", b"[]", b"1", b'{"at": 1}', b""])
def test_an_invalid_line_of_the_journal_is_skipped_and_counted(journal: ErasureJournal, line: bytes) -> None:
    journal.path.write_bytes(line + b"\n")
    journal.note(FIRST, now())
    assert noted(journal.path) == (digests(journal, FIRST), 1)


def test_a_folder_is_no_journal(journal: ErasureJournal) -> None:
    journal.path.mkdir()
    with pytest.raises(ErasureJournalUnusable, match="cannot be read"):
        require_usable(journal.path)
    with pytest.raises(ErasureJournalUnavailable):
        journal.note(FIRST, now())
