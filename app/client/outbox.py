"""A durable outbox for apps that are offline: what was done is on disk before the person goes on, and is sent in order
as soon as the registry can be reached, under keys that were drawn when it was done.

The file is SQLite, for its owner only. It holds what the app wrote until it is sent: keep it on an encrypted disk.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Self

from app.client.calls import new_key
from app.client.errors import Refused, Unreachable
from app.client.registry import Registry

_TABLE = """
CREATE TABLE IF NOT EXISTS act (
  number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, path TEXT NOT NULL, body TEXT NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'stored', 'refused')),
  location TEXT, problem TEXT
)
"""


class Act(NamedTuple):
    """One thing that was done here. `refused`: its body is kept, with the registry's reason, until somebody decides."""

    key: str
    path: str
    body: Any
    state: str
    location: str | None
    problem: Mapping[str, Any] | None


class Outbox:
    """Acts in the order in which they were done. A later act refers to what an earlier one made by `@` and its key,
    anywhere in its path or body."""

    def __init__(self, file: Path) -> None:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        self._file = sqlite3.connect(file, isolation_level=None, timeout=30)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=FULL")
        self._file.execute(_TABLE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, path: str, body: Mapping[str, Any]) -> str:
        """Keep one act; gives what later acts call its record."""
        key = new_key()
        self._file.execute("INSERT INTO act (key, path, body) VALUES (?, ?, ?)", (key, path, json.dumps(body)))
        return f"@{key}"

    def acts(self, state: str | None = None) -> Iterator[Act]:
        asked = "SELECT key, path, body, state, location, problem FROM act WHERE ? IS NULL OR state = ? ORDER BY number"
        with closing(self._file.execute(asked, (state, state))) as rows:
            for key, path, body, found, location, problem in rows.fetchall():
                yield Act(key, path, json.loads(body), found, location, json.loads(problem) if problem else None)

    def send(self, registry: Registry) -> int:
        """Send what waits; how much was stored. What hangs on something refused goes on waiting. Stops without a word
        when the registry cannot be reached: nothing is lost, and what may have arrived has its key."""
        stored, made = 0, self._made()
        for act in self.acts("waiting"):
            try:
                path, body = _filled(act.path, made), _filled(act.body, made)
            except KeyError:
                continue
            try:
                answer = registry.post(path, body, act.key)
            except Unreachable:
                break
            except Refused as refused:
                self._keep(act.key, "refused", None, refused.problem)
                continue
            self._keep(act.key, "stored", answer.location, None)
            stored += 1
            if answer.location is not None:
                made[f"@{act.key}"] = _id_in(answer.location)
        return stored

    def mend(self, name: str, body: Mapping[str, Any]) -> None:
        """Send a refused act again in another form. It keeps its name, so that what hangs on it finds it."""
        changed = self._file.execute(
            "UPDATE act SET body = ?, state = 'waiting', problem = NULL WHERE key = ? AND state = 'refused'",
            (json.dumps(body), name.removeprefix("@")),
        )
        if changed.rowcount != 1:
            raise KeyError(name)

    def discard(self, name: str) -> None:
        """Give up a refused act. Only a person should decide this."""
        key = name.removeprefix("@")
        if self._file.execute("DELETE FROM act WHERE key = ? AND state = 'refused'", (key,)).rowcount != 1:
            raise KeyError(name)

    def _made(self) -> dict[str, str]:
        rows = self._file.execute("SELECT key, location FROM act WHERE state = 'stored' AND location IS NOT NULL")
        return {f"@{key}": _id_in(location) for key, location in rows.fetchall()}

    def _keep(self, key: str, state: str, location: str | None, problem: Mapping[str, Any] | None) -> None:
        told = json.dumps(problem) if problem is not None else None
        changed = "UPDATE act SET state = ?, location = ?, problem = ? WHERE key = ?"
        self._file.execute(changed, (state, location, told, key))


def _id_in(location: str) -> str:
    return location.rpartition("/")[2]


def _filled(value: Any, made: Mapping[str, str]) -> Any:
    """With the registry's ids in place of names. Raises KeyError while one is not stored."""
    if isinstance(value, Mapping):
        return {name: _filled(one, made) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, made) for one in value]
    if isinstance(value, str) and "@" in value:
        return "/".join(made[part] if _is_name(part) else part for part in value.split("/"))
    return value


def _is_name(part: str) -> bool:
    return part.startswith("@") and len(part) == 37
