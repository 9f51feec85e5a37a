"""A served registry into which faults are injected, and small disks that can be filled."""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.server import LiveServer


@dataclass(frozen=True)
class Scene:
    """A place for a registry, and what will happen to it there."""

    folder: Path
    """For keys, log and, on SQLite, the database."""

    server_url: str | None
    """The PostgreSQL server; none means SQLite."""

    strike: Callable[[LiveServer], None]
    """Break it, and mend it again."""

    settings: Mapping[str, str] = field(default_factory=dict)


Place = Callable[[Path], AbstractContextManager[Scene]]
"""Prepares a scene in an empty folder."""


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A file system in memory that can be filled without harm to others. Needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=0755", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """No byte is left on it."""
    filler = disk / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            for size in (2**20, 2**12, 1):
                with suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        yield
    finally:
        filler.unlink(missing_ok=True)
