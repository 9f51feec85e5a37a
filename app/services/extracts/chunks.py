"""The files of extracts, stored in the database in chunks: written by one build, read by any worker, in constant
memory.

Each chunk is deflated independently, so that it can be read without those before it, and all of them in order are still
one deflate stream, which the zip file takes unchanged. Then it is encrypted (AES-256-GCM) under a key of the file's
own, which is stored encrypted by the key file: a copy of the database does not disclose an extract, and deleting the
row of a file deletes its key.
"""

import hashlib
import io
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlmodel import Session

from app.database import Database
from app.models.base import table_of
from app.models.extract import ExtractChunk
from app.security.keys import Keyring
from app.security.sealing import seal, unseal

SIZE = 1 << 20
AHEAD = 3
"""Pieces of work that may wait for a thread while the next rows are read."""

FAST, UNCOMPRESSED = 1, 0
"""zlib levels. CSV of codes shrinks to a tenth at any level; Parquet and zip files are compressed already."""

_CHUNKS = table_of(ExtractChunk)
_RAW = -zlib.MAX_WBITS


class ChunkGone(Exception):
    """A part of the file was deleted while it was read: the extract has expired, or was revoked."""


class EncryptedFile(NamedTuple):
    """One file of one build, and its key."""

    extract_id: UUID
    build: UUID
    name: str
    key: bytes

    def encrypted(self, start: int, content: bytes) -> bytes:
        """Encrypt a chunk. Call it once for each: the nonce is its start, and the key is used for this file only."""
        return AESGCM(self.key).encrypt(_nonce(start), content, self._context)

    def decrypted(self, start: int, content: bytes) -> bytes:
        return AESGCM(self.key).decrypt(_nonce(start), content, self._context)

    @property
    def _context(self) -> bytes:
        return f"{self.extract_id}|{self.build}|{self.name}".encode()

    @property
    def its_chunks(self) -> sa.ColumnElement[bool]:
        mine = _CHUNKS.c.extract_id == self.extract_id, _CHUNKS.c.build == self.build, _CHUNKS.c.name == self.name
        return sa.and_(*mine)


def _nonce(start: int) -> bytes:
    return start.to_bytes(12, "big")


def new_file(extract_id: UUID, build: UUID, name: str) -> EncryptedFile:
    return EncryptedFile(extract_id, build, name, os.urandom(32))


def sealed_key(keyring: Keyring, file: EncryptedFile) -> str:
    """The key of a file as it is stored: encrypted, and usable for this file only."""
    return seal(keyring.derived("extract"), file.key, file._context)


def file_of(keyring: Keyring, extract_id: UUID, build: UUID, name: str, sealed: str) -> EncryptedFile:
    """Raises SealBroken."""
    unkeyed = EncryptedFile(extract_id, build, name, b"")
    return unkeyed._replace(key=unseal(keyring.derived("extract"), sealed, unkeyed._context))


class Written(NamedTuple):
    """Size and checksums of a whole file."""

    length: int
    sha256: str
    crc32: int
    packed: int
    """Size of all deflated chunks, in bytes."""


class Background:
    """Work that a thread does in the order in which it is given; at most AHEAD pieces wait. An exception is raised to
    the caller with a later piece, or at the end."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._thread = thread
        self._waiting: deque[Future[Any]] = deque()

    def do(self, act: Callable[..., Any], *arguments: Any) -> None:
        while len(self._waiting) >= AHEAD:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(act, *arguments))

    def finish(self) -> None:
        """Wait until all pieces are done."""
        while self._waiting:
            self._waiting.popleft().result()


class Writer(io.RawIOBase):
    """One file, written from start to end. Chunks are hashed, deflated, encrypted and stored in a thread, while the
    next ones are made. `kept` is called in the transaction that stores each chunk, and may raise to stop the build."""

    def __init__(
        self,
        database: Database,
        file: EncryptedFile,
        level: int,
        worker: ThreadPoolExecutor,
        kept: Callable[[Session], None],
    ) -> None:
        super().__init__()
        self._database, self._file, self._level, self._kept = database, file, level, kept
        self._buffer, self._start, self._digest = bytearray(), 0, hashlib.sha256()
        self._crc32 = self._packed = 0
        self._background = Background(worker)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._start + len(self._buffer)

    def write(self, content: bytes, /) -> int:  # type: ignore[override]  # never a partial write
        self._buffer += content
        while len(self._buffer) > SIZE:  # the last chunk ends the stream, and only `finish` knows which it is
            self._hand_over(bytes(self._buffer[:SIZE]), zlib.Z_SYNC_FLUSH)
            del self._buffer[:SIZE]
        return len(content)

    def finish(self) -> Written:
        """Store the rest; gives size and checksums."""
        self._hand_over(bytes(self._buffer), zlib.Z_FINISH)
        self._buffer.clear()
        self._background.finish()
        return Written(self._start, self._digest.hexdigest(), self._crc32, self._packed)

    def _hand_over(self, content: bytes, flush: int) -> None:
        self._background.do(self._store, self._start, content, flush)
        self._start += len(content)

    def _store(self, start: int, content: bytes, flush: int) -> None:
        self._digest.update(content)
        self._crc32 = zlib.crc32(content, self._crc32)
        deflate = zlib.compressobj(self._level, zlib.DEFLATED, _RAW)
        packed = deflate.compress(content) + deflate.flush(flush)
        self._packed += len(packed)
        file = self._file
        row = {"extract_id": file.extract_id, "build": file.build, "name": file.name, "start": start}
        with self._database.write() as session:
            if not self._database.is_sqlite:  # the later commit that lists the files makes the chunks durable too
                session.connection().exec_driver_sql("SET LOCAL synchronous_commit = off")
            self._kept(session)
            session.execute(sa.insert(_CHUNKS), [{**row, "content": file.encrypted(start, packed)}])


def all_there(session: Session, files: Mapping[EncryptedFile, int]) -> bool:
    """Whether every chunk of these files (with their lengths in bytes) is stored. Chunks are committed without waiting
    for the disk, so a crash of PostgreSQL can lose the last ones without an error for the worker that wrote them."""
    count = sa.select(sa.func.count()).select_from(_CHUNKS)
    return all(session.scalar(count.where(file.its_chunks)) == len(_starts(length)) for file, length in files.items())


def _starts(length: int) -> range:
    return range(0, max(1, length), SIZE)


def packed(database: Database, file: EncryptedFile, length: int) -> Iterator[bytes]:
    """A whole file of `length` bytes, still deflated: its chunks as they are stored. Raises ChunkGone."""
    for start in _starts(length):
        with database.read() as session:
            content = session.scalar(sa.select(_CHUNKS.c.content).where(file.its_chunks, _CHUNKS.c.start == start))
        if content is None:
            raise ChunkGone
        yield file.decrypted(start, content)


def read(database: Database, file: EncryptedFile, start: int, end: int) -> Iterator[bytes]:
    """The bytes from `start` up to `end`, the end not included. Each chunk is read in a session of its own, so that a
    slow client occupies no connection. Raises ChunkGone."""
    at = start
    while at < end:
        with database.read() as session:
            part = part_at(session, file, at, end)
        if not part:
            raise ChunkGone
        yield part
        at += len(part)


def part_at(session: Session, file: EncryptedFile, at: int, end: int) -> bytes:
    """The bytes from `at` to the end of its chunk, or to `end`; empty if the chunk was deleted."""
    found = sa.select(_CHUNKS.c.start, _CHUNKS.c.content).where(file.its_chunks, _CHUNKS.c.start <= at)
    row = session.execute(found.order_by(_CHUNKS.c.start.desc()).limit(1)).first()
    if row is None:
        return b""
    content = zlib.decompressobj(_RAW).decompress(file.decrypted(row.start, row.content))
    return content[at - row.start : end - row.start]


class Reader(io.RawIOBase):
    """Parts of a file as a stream, for libraries that need one."""

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
