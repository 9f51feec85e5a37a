"""A durable outbox for apps that are offline: what was done is on disk before the person goes on, and is sent in order
as soon as the registry can be reached, under keys that were drawn when it was done.

The file is SQLite, for its owner only. It holds what the app wrote until it is sent: keep it on an encrypted disk.
"""

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Self

from registry_client.answers import Answer, Record, already_so, meant
from registry_client.asynchronous import AsyncRegistry
from registry_client.calls import Call, Caller, Steps, amending, creating, new_key, voiding
from registry_client.errors import NotSignedIn, Refused, Stale, Unreachable
from registry_client.registry import Registry

_TABLE = """
CREATE TABLE IF NOT EXISTS act (
  number INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL UNIQUE, path TEXT NOT NULL, body TEXT NOT NULL,
  seen TEXT, state TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'stored', 'refused')),
  location TEXT, etag TEXT, problem TEXT
)
"""

UNSETTLED = ("waiting", "refused")

_NAME = re.compile(r"@[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_VOIDING = "/voiding"
_PARTS = ("doses", "vitals")
"""Parts of a dosing session. Recording one answers with the session's address."""

_UNSEEN = '""'
"""An ETag that no version has: a correction of a version that nobody here saw is refused with it (412), and shown to a
person."""

_HOLDING = (403, 423)
"""As the registry's own sync has it."""


class Act(NamedTuple):
    """One thing that was done here. `waiting`: nobody knows whether the registry has it. `refused`: the registry does
    not have it, for the reason in `problem`, which may pass. `stored`: its body is empty, as the registry has it."""

    key: str
    path: str
    body: Any
    seen: str | None
    """For a correction or a voiding: the ETag that was seen, or the name of the act that left the version."""

    state: str
    location: str | None
    problem: Mapping[str, Any] | None
    """Why it was refused last."""

    @property
    def held(self) -> bool:
        """Refused as somebody else has to act first: lift a lock, or give a role. Nothing is wrong with the act."""
        return self.state == "refused" and (self.problem or {}).get("status") in _HOLDING


class Outbox:
    """Acts in the order in which they were done. A later act names the record of an earlier one by `@` and its key, as
    a step of its path or a value in its body."""

    def __init__(self, file: Path) -> None:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        self._file = sqlite3.connect(file, isolation_level=None, timeout=30)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=FULL")
        self._file.execute("PRAGMA secure_delete=ON")
        self._file.execute(_TABLE)
        self._file.execute("UPDATE act SET body = '{}' WHERE state = 'stored' AND body <> '{}'")  # 0.1.0 kept them

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, path: str, body: Record) -> str:
        """Keep one act. Gives the name by which later acts refer to its record."""
        return self._kept(path, body, None)

    def amend(self, path: str, seen: str, reason: str, **changes: Any) -> str:
        """Keep a correction of a record. `seen` is its ETag, or the name of the act that left that version."""
        return self._kept(path, {**changes, "reason": reason}, seen)

    def void(self, path: str, seen: str, reason: str) -> str:
        """Keep the voiding of a record that was entered in error. `seen` as in `amend`; of a consent or a screening
        the ETag of its participant, of a reading of vital signs that of its session."""
        return self._kept(path + _VOIDING, {"reason": reason}, seen)

    def _kept(self, path: str, body: Record, seen: str | None) -> str:
        key = new_key()
        kept = "INSERT INTO act (key, path, body, seen) VALUES (?, ?, ?, ?)"
        self._file.execute(kept, (key, path, json.dumps(dict(body)), seen))
        return f"@{key}"

    def acts(self, state: str | None = None) -> Iterator[Act]:
        return self._acts((state,) if state else (*UNSETTLED, "stored"))

    def _acts(self, states: Sequence[str]) -> Iterator[Act]:
        asked = (
            "SELECT key, path, body, seen, state, location, problem FROM act "
            "WHERE state IN (SELECT value FROM json_each(?)) ORDER BY number"
        )
        rows = self._file.execute(asked, (json.dumps(states),)).fetchall()
        for key, path, body, seen, found, location, problem in rows:
            address = location and _address(location)
            yield Act(key, path, json.loads(body), seen, found, address, json.loads(problem) if problem else None)

    def send(self, registry: Registry, told: Callable[[Act], None] = lambda _: None, *, again: bool = True) -> int:
        """Send whatever is not stored or discarded, also what was refused before (unless not `again`): a lock may have
        been lifted, a moment have come. How much was stored. Of acts that met the same lock one is tried; what hangs on
        something that is not stored waits. Stops without a word when the registry cannot be reached: nothing is lost,
        and what may have arrived has its key. `told` hears of each act that was tried. Raises NotSignedIn, which is
        about the app and not about an act."""
        return registry.run(self._sending(registry.caller, told, again))

    async def send_async(
        self, registry: AsyncRegistry, told: Callable[[Act], None] = lambda _: None, *, again: bool = True
    ) -> int:
        """The same for asyncio."""
        return await registry.run(self._sending(registry.caller, told, again))

    def _sending(self, caller: Caller, told: Callable[[Act], None], again: bool) -> Steps[int]:
        stored, made, etags = 0, *self._made()
        standing: set[str] = set()
        for act in self._acts(UNSETTLED if again else ("waiting",)):
            if act.problem is not None and _lock_in(act.problem) in standing:
                continue
            try:
                call = _call(act, made, etags)
            except KeyError:
                continue
            if act.state == "refused":  # until there is an answer it may be stored, and cannot be discarded
                self._note(act, "waiting", None, None, act.problem)
            try:
                answer = yield from _answer(caller, call)
            except Unreachable:
                break
            except NotSignedIn:
                raise
            except Refused as refused:
                self._note(act, "refused", None, None, refused.problem)
                standing.update(filter(None, [_lock_in(refused.problem)]))
            else:
                location = _location(act, answer)
                self._note(act, "stored", location, answer.etag, None)
                stored += 1
                if location is not None:
                    made[f"@{act.key}"] = location
                etags[f"@{act.key}"] = answer.etag or _UNSEEN
            told(act)
        self._forget()
        return stored

    def mend(self, name: str, body: Record, seen: str | None = None) -> None:
        """Send a refused act again, changed; a correction with the version that is `seen` now. It keeps its name, so
        that acts which refer to it still do. If a try that got no answer had stored the first form, the changed one is
        refused (`idempotency_key_reused`). Raises KeyError of an act that was not refused."""
        changed = self._file.execute(
            "UPDATE act SET body = ?, seen = coalesce(?, seen), state = 'waiting', problem = NULL "
            "WHERE key = ? AND state <> 'stored' AND problem IS NOT NULL",
            (json.dumps(dict(body)), seen, name.removeprefix("@")),
        )
        if changed.rowcount != 1:
            raise KeyError(name)
        self._forget()

    def discard(self, name: str) -> None:
        """Give up a refused act. Only a person should decide this. Raises KeyError of any other, and of
        one that waits for an answer, as it may be stored."""
        key = name.removeprefix("@")
        if self._file.execute("DELETE FROM act WHERE key = ? AND state = 'refused'", (key,)).rowcount != 1:
            raise KeyError(name)
        self._forget()

    def _forget(self) -> None:
        """Remove overwritten and deleted content from the log as well."""
        self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _made(self) -> tuple[dict[str, str], dict[str, str]]:
        """The addresses of the records that acts made, by name, and the ETags that they left."""
        rows = self._file.execute("SELECT key, seen, location, etag FROM act WHERE state = 'stored'").fetchall()
        made = {f"@{key}": location for key, seen, location, _ in rows if seen is None and location is not None}
        return made, {f"@{key}": etag or _UNSEEN for key, _, _, etag in rows}

    def _note(
        self, act: Act, state: str, location: str | None, etag: str | None, problem: Mapping[str, Any] | None
    ) -> None:
        """Note the result of an act. A stored act loses its body: later acts only refer to its address and ETag."""
        told, body = json.dumps(problem) if problem is not None else None, {} if state == "stored" else act.body
        changed = "UPDATE act SET state = ?, body = ?, location = ?, etag = ?, problem = ? WHERE key = ?"
        self._file.execute(changed, (state, json.dumps(body), location, etag, told, act.key))


def _call(act: Act, made: Mapping[str, str], etags: Mapping[str, str]) -> Call:
    """Raises KeyError while something that the act refers to is not stored."""
    path, body = _path(act.path, made), _filled(act.body, made)
    if act.seen is None:
        return creating(path, body, act.key)
    seen = etags[act.seen.lower()] if _is_name(act.seen) else act.seen
    if path.endswith(_VOIDING):
        return voiding(path.removesuffix(_VOIDING), body["reason"], seen, act.key)
    return amending(path, body, seen, act.key)


def _lock_in(problem: Mapping[str, Any]) -> str | None:
    """The locks that a refusal names, equal for all acts that met them."""
    return json.dumps(problem["locks"]) if "locks" in problem else None


def _answer(caller: Caller, call: Call) -> Steps[Answer]:
    """Raises Refused, Unreachable."""
    answer = yield from caller.answered(call)
    try:
        return meant(answer)
    except Stale as stale:
        if call.method != "PATCH" or not already_so(stale):
            raise
        return Answer(None, None, None, replayed=True)  # somebody else wrote the same, and what else nobody here saw


def _location(act: Act, answer: Answer) -> str | None:
    """The address of what an act made; with `#` and the id of the dose or reading, where it made one in a session."""
    parts = act.path.rpartition("/")[2]
    if act.seen is not None or answer.location is None or parts not in _PARTS:
        return answer.location
    return f"{answer.location}#{_made_of(act.body, answer.body[parts])}"


def _made_of(body: Record, parts: Sequence[Record]) -> str:
    """The id of the dose or reading that an act made, of all in its session: the one most like what was sent, and of
    equal ones the newest."""

    def likeness(part: Record) -> tuple[int, str]:
        return sum(part.get(name) == value for name, value in body.items()), part["created_at"]

    return str(max(parts, key=likeness)["id"])


def _address(location: str) -> str:
    return location.partition("#")[0]


def _id_in(location: str) -> str:
    return _address(location).rpartition("/")[2]


def _part_in(location: str) -> str:
    return location.partition("#")[2] or _id_in(location)


def _path(path: str, made: Mapping[str, str]) -> str:
    """Raises KeyError."""
    steps = pairwise(["", *path.split("/")])
    return "/".join(
        _part_in(made[step.lower()]) if _is_name(step) and before in _PARTS else _filled(step, made)
        for before, step in steps
    )


def _filled(value: Any, made: Mapping[str, str]) -> Any:
    """A value with the registry's ids in place of names. Raises KeyError while one is not stored."""
    if isinstance(value, Mapping):
        return {name: _filled(one, made) for name, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, made) for one in value]
    if isinstance(value, str) and _is_name(value):
        return _id_in(made[value.lower()])
    return value


def _is_name(text: str) -> bool:
    """Whether a text is a name, as in the registry's sync."""
    return _NAME.fullmatch(text) is not None
