"""Faults of an SQLite file while a registry uses it."""

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from bench.scenes import Place, Scene, filled, small_disk
from tests.server import LiveServer

HOLD_SECONDS = 8.0
"""Longer than a writer waits for its turn."""


@contextmanager
def disk(folder: Path) -> Iterator[Scene]:
    """The disk of database and log is full."""
    with small_disk(folder / "disk", 260) as place:

        def strike(_server: LiveServer) -> None:
            with filled(place):
                time.sleep(HOLD_SECONDS)

        yield Scene(place, None, strike)


@contextmanager
def locked(folder: Path) -> Iterator[Scene]:
    """Another process holds the database's write lock."""

    def strike(server: LiveServer) -> None:
        path = server.database_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(HOLD_SECONDS)
            other.execute("ROLLBACK")

    yield Scene(folder, None, strike)


FAULTS: Mapping[str, Place] = {"disk": disk, "locked": locked}
