"""Reading one moment with several sessions in parallel. The order of the results does not depend on their speed."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Self, TypeVar

from sqlmodel import Session

AHEAD = 2
"""Results for each session that may be read ahead while an earlier one is used."""

T = TypeVar("T")
Pieces = Generator[bytes, None, None]
"""Parts of one file, as they are read. Close it when you stop before the end, as it may hold a connection."""


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

    def _alone(self, read: Callable[[Session, T], bytes], one: T) -> bytes:
        session = self._free.get()
        try:
            return read(session, one)
        finally:
            self._free.put(session)
