"""Several sessions read one moment: results come in the order in which they were asked for, whichever was faster."""

import threading
import time
from typing import cast

import pytest
from sqlmodel import Session

from app.services.extracts.reading import AHEAD, Readers

SESSIONS = [cast(Session, name) for name in ("first", "second")]


def test_results_come_in_the_order_in_which_they_were_asked() -> None:
    def read(_session: Session, number: int) -> bytes:
        time.sleep(0.02 * (number % 3 == 0))
        return b"%d" % number

    with Readers(SESSIONS) as readers:
        assert list(readers.in_order(read, range(20))) == [b"%d" % number for number in range(20)]


def test_a_session_is_used_by_one_thread_at_a_time() -> None:
    busy: set[Session] = set()

    def read(session: Session, _number: int) -> bytes:
        assert session not in busy
        busy.add(session)
        time.sleep(0.005)
        busy.remove(session)
        return str(session).encode()

    with Readers(SESSIONS) as readers:
        assert set(readers.in_order(read, range(20))) == {b"first", b"second"}


def test_no_more_is_read_ahead_than_may_wait() -> None:
    asked: list[int] = []

    def read(_session: Session, number: int) -> bytes:
        asked.append(number)
        return b""

    with Readers(SESSIONS) as readers:
        next(readers.in_order(read, range(100)))
        time.sleep(0.05)
    assert len(asked) <= AHEAD * len(SESSIONS) + 1


def test_what_a_reader_raises_is_raised_and_nobody_reads_after_it() -> None:
    reading = threading.Semaphore(0)

    def read(_session: Session, number: int) -> bytes:
        if number == 1:
            raise ValueError
        time.sleep(0.02)
        reading.release()
        return b""

    with pytest.raises(ValueError), Readers(SESSIONS) as readers:  # noqa: PT011 - the reader's own
        list(readers.in_order(read, range(100)))
    while reading.acquire(blocking=False):
        pass
    assert not reading.acquire(timeout=0.1)
