"""Files of extracts in the database, in chunks: written by one build, read by any worker, in constant memory."""

import hashlib
import io
from collections.abc import Callable, Iterator
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Session

from app.database import Database
from app.models.base import table_of
from app.models.extract import ExtractChunk

SIZE = 1 << 20
_CHUNKS = table_of(ExtractChunk)


class ChunkGone(Exception):
    """A part of the file was deleted while it was read: the extract has expired, or was taken back."""


class Writer(io.RawIOBase):
    """One file of a build, written from its beginning to its end. `kept` is called in the transaction of each chunk,
    and may raise to stop the build."""

    def __init__(
        self, database: Database, extract_id: UUID, build: UUID, name: str, kept: Callable[[Session], None]
    ) -> None:
        super().__init__()
        self._database, self._key, self._kept = database, (extract_id, build, name), kept
        self._buffer, self._start, self._digest = bytearray(), 0, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._start + len(self._buffer)

    def write(self, content: bytes, /) -> int:  # type: ignore[override]  # never a partial write
        self._digest.update(content)
        self._buffer += content
        while len(self._buffer) >= SIZE:
            self._store(SIZE)
        return len(content)

    def finish(self) -> tuple[int, str]:
        """Store the rest; gives the length and the SHA-256 of the whole."""
        if self._buffer:
            self._store(len(self._buffer))
        return self._start, self._digest.hexdigest()

    def _store(self, length: int) -> None:
        extract_id, build, name = self._key
        row = {"extract_id": extract_id, "build": build, "name": name, "start": self._start}
        with self._database.write() as session:
            self._kept(session)
            session.execute(sa.insert(_CHUNKS), [{**row, "content": bytes(self._buffer[:length])}])
        del self._buffer[:length]
        self._start += length


def read(
    database: Database, extract_id: UUID, build: UUID, name: str, start: int = 0, end: int | None = None
) -> Iterator[bytes]:
    """The bytes from `start` up to `end`, the end not included. Each chunk is read for itself: nothing is held open
    while a client is slow. Raises ChunkGone."""
    at = start
    while end is None or at < end:
        with database.read() as session:
            part = part_at(session, extract_id, build, name, at, end)
        if not part:
            if end is None:
                return
            raise ChunkGone
        yield part
        at += len(part)


def part_at(session: Session, extract_id: UUID, build: UUID, name: str, at: int, end: int | None) -> bytes:
    """From one byte to the end of its chunk, or to `end`; nothing behind the last byte."""
    mine = (_CHUNKS.c.extract_id == extract_id, _CHUNKS.c.build == build, _CHUNKS.c.name == name)
    found = sa.select(_CHUNKS.c.start, _CHUNKS.c.content).where(*mine, _CHUNKS.c.start <= at)
    row = session.execute(found.order_by(_CHUNKS.c.start.desc()).limit(1)).first()
    if row is None:
        return b""
    content: bytes = row.content
    return content[at - row.start : None if end is None else end - row.start]


class Reader(io.RawIOBase):
    """The same as a stream, for libraries that want one."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        super().__init__()
        self._parts, self._rest = parts, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray, /) -> int:  # type: ignore[override]
        if not self._rest:
            self._rest = next(self._parts, b"")
        length = min(len(buffer), len(self._rest))
        buffer[:length], self._rest = self._rest[:length], self._rest[length:]
        return length
