"""Tables of an extract that are read one after the other, each begun while the one before is read."""

from threading import Event

import pytest
from sqlmodel import Session

from app.services.extracts.reading import Pieces, Readers


class Told:
    """A table that says what becomes of it."""

    def __init__(self, name: str, fault: type[Exception] | None = None) -> None:
        self.name, self._fault = name, fault
        self.begun, self.ended = Event(), Event()

    def pieces(self) -> Pieces:
        try:
            self.begun.set()
            if self._fault is not None:
                raise self._fault
            yield f"{self.name}1".encode()
            yield f"{self.name}2".encode()
        finally:
            self.ended.set()


def test_the_next_table_is_begun_while_one_is_read_and_no_further_one() -> None:
    told = [Told(name) for name in "abc"]
    with Readers([Session(), Session()]) as readers:
        tables = readers.one_ahead((one.name, one.pieces()) for one in told)
        name, pieces = next(tables)
        assert told[1].begun.wait(10)
        assert not told[2].begun.is_set()
        assert (name, list(pieces)) == ("a", [b"a1", b"a2"])
        assert [(name, list(pieces)) for name, pieces in tables] == [("b", [b"b1", b"b2"]), ("c", [b"c1", b"c2"])]


def test_tables_that_were_begun_are_closed_when_nobody_reads_on() -> None:
    told = [Told(name) for name in "abc"]
    with Readers([Session(), Session()]) as readers:
        tables = readers.one_ahead((one.name, one.pieces()) for one in told)
        _, pieces = next(tables)
        next(pieces)
        assert told[1].begun.wait(10)
        pieces.close()
        tables.close()
        assert told[0].ended.is_set()
        assert told[1].ended.is_set()
        assert not told[2].begun.is_set()


def test_what_fails_ahead_is_raised_when_that_table_is_read() -> None:
    told = [Told("a"), Told("b", LookupError)]
    with Readers([Session(), Session()]) as readers:
        tables = readers.one_ahead((one.name, one.pieces()) for one in told)
        assert list(next(tables)[1]) == [b"a1", b"a2"]
        with pytest.raises(LookupError):
            list(next(tables)[1])
