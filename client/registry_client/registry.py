"""The client for site apps, monitors' scripts and analysts."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx

from registry_client.answers import Answer, Record, already_so, meant
from registry_client.calls import Call, Caller, Pause, Steps, T, amending, creating, new_key, step_after, voiding
from registry_client.credentials import Credentials
from registry_client.downloads import Progress, built, downloaded, silent
from registry_client.errors import Stale
from registry_client.uploads import Line, parts, uploaded


class Registry:
    """A registry, with blocking calls; not for several threads at once. `patience`: for how many seconds a call is
    retried. Other options are those of `httpx.Client`. Every call raises Refused and Unreachable."""

    def __init__(self, base_url: str, credentials: Credentials, *, patience: float = 60.0, **options: Any) -> None:
        self.caller = Caller(base_url.rstrip("/"), credentials, patience)
        self._http = httpx.Client(**{"timeout": 40.0, **options})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def run(self, steps: Steps[T]) -> T:
        """Take the steps of one act, to what it comes to."""
        outcome: httpx.Response | httpx.TransportError | None = None
        try:
            while True:
                outcome = self._done(step_after(steps, outcome))
        except StopIteration as ended:
            found: T = ended.value
            return found

    def _done(self, step: httpx.Request | Pause) -> httpx.Response | httpx.TransportError | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return self._http.send(step)
        except httpx.TransportError as error:
            return error

    def _answer(self, call: Call) -> Answer:
        return meant(self.run(self.caller.answered(call)))

    def token(self) -> str:
        """The access token that calls carry now. Raises NotSignedIn, Unreachable."""
        return self.run(self.caller.token())

    def get(self, path: str, **query: Any) -> Answer:
        return self._answer(Call("GET", path, query))

    def post(self, path: str, body: Record, key: str | None = None) -> Answer:
        """Create something, once. `key` is the idempotency key of the act: give it when you retry an earlier call, else
        a new one is made."""
        return self._answer(creating(path, body, key or new_key()))

    def amend(self, path: str, etag: str, reason: str, **changes: Any) -> Answer:
        """Correct a record that was read with this `etag`. Raises Stale when somebody was faster."""
        try:
            return self._answer(amending(path, {**changes, "reason": reason}, etag, new_key()))
        except Stale as stale:
            if not already_so(stale):
                raise
            return self.get(path)

    def void(self, path: str, etag: str, reason: str) -> Answer:
        """Void a record that was entered in error, as read with this `etag` (of a consent that of its participant, of
        a reading of vital signs that of its session). It counts as never recorded, and nothing brings it back. Raises
        Stale when somebody was faster."""
        return self._answer(voiding(path, reason, etag, new_key()))

    def pages(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Every item of a list, page after page."""
        cursor = None
        while True:
            page = self.get(path, cursor=cursor, **query).body
            yield from page["items"]
            cursor = page["next"]
            if cursor is None:
                return

    def bulk(self, noun: str, records: Iterable[tuple[str, Record]], *, dry_run: bool = False) -> Iterator[Line]:
        """Upload many records of `participants`, `visits`, `outcomes` or `adverse-events`, each with its own key. Those
        without an answer are sent again; their keys keep them from being stored twice. The result of a record that had
        to wait comes later than those after it."""
        for part in parts(records):
            waiting = part
            while waiting:
                lines, waiting = self.run(uploaded(self.caller, noun, waiting, dry_run))
                yield from lines

    def changes(
        self, after: str | None = None, *, wait: int = 30, **query: Any
    ) -> Iterator[tuple[dict[str, Any], str]]:
        """Every change at your sites, without end, each with a place to go on from: keep the place once you have acted
        on the change. The changes of a page share a place, so after a crash the last page may come again."""
        place = after
        while True:
            page = self.get("/v1/changes", after=place, wait=wait, **query).body
            for change in page["items"]:
                yield change, page["next"]
            place = page["next"]

    def extract(self, extract_id: str, *, wait: float = 600.0) -> dict[str, Any]:
        """An extract once it is no longer `building`, or as it is after this many seconds."""
        return self.run(built(self.caller, extract_id, wait))

    def download(self, extract_id: str, folder: Path, progress: Progress = silent) -> list[Path]:
        """Download all files of an extract and check each against its SHA-256. A partial download is continued, a file
        that is there is not fetched again. Raises NotReady, Damaged."""
        return self.run(downloaded(self.caller, extract_id, folder, progress))
