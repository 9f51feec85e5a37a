"""Reading one moment with several sessions in parallel. The order of the results does not depend on their speed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from itertools import islice
from queue import SimpleQueue
from typing import Self, TypeVar

from sqlmodel import Session

AHEAD = 2
"""Results for each session that may be read ahead while an earlier one is used."""

T = TypeVar("T")
Pieces = Generator[bytes, None, None]
"""Parts of one file, as they are read. Close it when you stop before the end, as it may hold a connection."""

Tables = Generator[tuple[str, Pieces], None, None]
"""Files by name. Close each, and all of them, when you stop before the end."""


class Readers:
    """Sessions of one moment, and a thread for each. When its block ends, no thread reads any more; the sessions stay
    open."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = sessions
        self._free: SimpleQueue[Session] = SimpleQueue()
        for session in sessions:
            self._free.put(session)
        self._threads = ThreadPoolExecutor(len(sessions), "extract-rows")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def in_order(self, read: Callable[[Session, T], bytes], asked: Iterable[T]) -> Pieces:
        """The results of `read` for each of `asked`, in that order. Raises what `read` raises."""
        waiting: deque[Future[bytes]] = deque()
        for one in asked:
            if len(waiting) >= AHEAD * len(self.sessions):
                yield waiting.popleft().result()
            waiting.append(self._threads.submit(self._alone, read, one))
        while waiting:
            yield waiting.popleft().result()

    def one_ahead(self, tables: Iterable[tuple[str, Pieces]]) -> Tables:
        """Tables of one session each, by name. The next one is begun in a thread while one is read. Raises what their
        reading raises."""
        waiting = iter(tables)
        begun = deque(map(self._begun, islice(waiting, len(self.sessions))))
        try:
            while begun:
                name, pieces, first = begun[0]
                yield name, _from(first, pieces)
                begun.popleft()
                begun.extend(map(self._begun, islice(waiting, 1)))
        finally:
            for _, pieces, first in begun:
                if not first.cancel():
                    wait([first])  # nothing can be closed while a thread reads from it
                pieces.close()

    def _begun(self, table: tuple[str, Pieces]) -> tuple[str, Pieces, Future[bytes]]:
        return *table, self._threads.submit(next, table[1])

    @contextmanager
    def one_free(self) -> Iterator[Session]:
        """A session that nobody else reads with."""
        session = self._free.get()
        try:
            yield session
        finally:
            self._free.put(session)

    def _alone(self, read: Callable[[Session, T], bytes], one: T) -> bytes:
        with self.one_free() as session:
            return read(session, one)


def _from(first: Future[bytes], rest: Pieces) -> Pieces:
    with closing(rest):
        yield first.result()
        yield from rest
