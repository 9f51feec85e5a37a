"""The registry, as a site app, a monitor's script or an analyst calls it."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import httpx

from app.client.calls import Answer, Call, Pause, already_so, amending, answered, creating, meant, new_key, step_after
from app.client.credentials import Credentials
from app.client.errors import Damaged, Stale, Unreachable

BULK_LINES = 500
Record = Mapping[str, Any]
T = TypeVar("T")


class Line(NamedTuple):
    """What became of one record of a bulk upload: `created`, `replayed`, `invalid`, `conflict` or `blocked`."""

    key: str
    result: str
    location: str | None
    problem: Mapping[str, Any] | None


class Registry:
    """Calls that wait. Not for several threads at once. `patience`: for how many seconds a call is tried again."""

    def __init__(self, base_url: str, credentials: Credentials, *, patience: float = 60.0, **options: Any) -> None:
        self._base, self._credentials, self._patience = base_url.rstrip("/"), credentials, patience
        self._http = httpx.Client(**{"timeout": 40.0, **options})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def _call(self, call: Call) -> httpx.Response:
        return self._driven(answered(self._credentials, self._base, call, self._patience))

    def _driven(self, steps: Generator[httpx.Request | Pause, httpx.Response, T]) -> T:
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

    def token(self) -> str:
        """The access token that calls carry just now. Raises NotSignedIn, Unreachable."""
        try:
            return self._driven(self._credentials.token(self._base))
        except httpx.TransportError as error:
            raise Unreachable(f"Signing in: {type(error).__name__}") from error

    def get(self, path: str, **query: Any) -> Answer:
        """Raises Refused, Unreachable, like every call here."""
        return meant(self._call(Call("GET", path, query)))

    def post(self, path: str, body: Record, key: str | None = None) -> Answer:
        """Create something, once: `key` is the act's, made here unless it is the second try of an earlier one."""
        return meant(self._call(creating(path, body, key or new_key())))

    def amend(self, path: str, etag: str, reason: str, **changes: Any) -> Answer:
        """Change a record as it was seen under `etag`. Raises Stale when somebody was faster."""
        try:
            return meant(self._call(amending(path, {**changes, "reason": reason}, etag)))
        except Stale as stale:
            if not already_so(stale):
                raise
            return self.get(path)

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
        """Upload many records of `participants`, `visits`, `outcomes` or `adverse-events`, each with its own key. What
        was not answered is sent again: under its key it cannot double."""
        waiting = iter(records)
        while part := list(islice(waiting, BULK_LINES)):
            while part:
                call = _uploading(noun, part, dry_run)
                told = _lines(self._call(call), part)
                if not told:
                    raise Unreachable(f"{call.path}: the registry takes nothing just now")
                yield from told
                part = part[len(told) :]

    def changes(
        self, after: str | None = None, *, wait: int = 30, **query: Any
    ) -> Iterator[tuple[dict[str, Any], str]]:
        """Every change at one's sites, for ever, each with a place to go on from: keep it once you have acted on the
        change. A page's changes share a place, so after a crash the last page may come again."""
        place = after
        while True:
            page = self.get("/v1/changes", after=place, wait=wait, **query).body
            for change in page["items"]:
                yield change, page["next"]
            place = page["next"]

    def extract(self, extract_id: str, *, wait: float = 600.0) -> dict[str, Any]:
        """An extract, once it is no longer `building`."""
        until = time.monotonic() + wait
        while True:
            found: dict[str, Any] = self.get(f"/v1/extracts/{extract_id}").body
            if found["status"] != "building" or time.monotonic() > until:
                return found
            time.sleep(1)

    def download(
        self, extract_id: str, folder: Path, progress: Callable[[str, int, int], None] = lambda *_: None
    ) -> list[Path]:
        """All files of an extract, each held against its SHA-256. A file that broke off goes on where it stopped.
        `progress` hears name, bytes so far and bytes in all. Raises Damaged."""
        folder.mkdir(parents=True, exist_ok=True)
        files = self.get(f"/v1/extracts/{extract_id}").body["files"]
        return [self._file(f"/v1/extracts/{extract_id}/files/{one['name']}", folder, one, progress) for one in files]

    def _file(
        self, path: str, folder: Path, file: Record, progress: Callable[[str, int, int], None], part: int = 1 << 22
    ) -> Path:
        partial, whole = folder / f"{file['name']}.part", folder / file["name"]
        with partial.open("ab") as target:
            while (have := target.tell()) < file["bytes"]:
                last = min(have + part, file["bytes"]) - 1
                wanted = {"Range": f"bytes={have}-{last}", "If-Range": f'"{file["sha256"]}"'}
                answer = self._call(Call("GET", path, headers=wanted))
                if answer.status_code != httpx.codes.PARTIAL_CONTENT:
                    meant(answer)
                    raise Damaged(f"{file['name']} is another file now")
                target.write(answer.content)
                progress(file["name"], target.tell(), file["bytes"])
        if hashlib.sha256(partial.read_bytes()).hexdigest() != file["sha256"]:
            partial.unlink()
            raise Damaged(f"{file['name']} does not have the checksum that was announced")
        return partial.rename(whole)


class AsyncRegistry:
    """The same for asyncio: calls, lists and changes."""

    def __init__(self, base_url: str, credentials: Credentials, *, patience: float = 60.0, **options: Any) -> None:
        self._base, self._credentials, self._patience = base_url.rstrip("/"), credentials, patience
        self._http = httpx.AsyncClient(**{"timeout": 40.0, **options})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def _call(self, call: Call) -> httpx.Response:
        steps = answered(self._credentials, self._base, call, self._patience)
        outcome: httpx.Response | httpx.TransportError | None = None
        try:
            while True:
                outcome = await self._done(step_after(steps, outcome))
        except StopIteration as ended:
            found: httpx.Response = ended.value
            return found

    async def _done(self, step: httpx.Request | Pause) -> httpx.Response | httpx.TransportError | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._http.send(step)
        except httpx.TransportError as error:
            return error

    async def get(self, path: str, **query: Any) -> Answer:
        return meant(await self._call(Call("GET", path, query)))

    async def post(self, path: str, body: Record, key: str | None = None) -> Answer:
        return meant(await self._call(creating(path, body, key or new_key())))

    async def amend(self, path: str, etag: str, reason: str, **changes: Any) -> Answer:
        try:
            return meant(await self._call(amending(path, {**changes, "reason": reason}, etag)))
        except Stale as stale:
            if not already_so(stale):
                raise
            return await self.get(path)

    async def pages(self, path: str, **query: Any) -> AsyncIterator[dict[str, Any]]:
        cursor = None
        while True:
            page = (await self.get(path, cursor=cursor, **query)).body
            for item in page["items"]:
                yield item
            cursor = page["next"]
            if cursor is None:
                return

    async def changes(
        self, after: str | None = None, *, wait: int = 30, **query: Any
    ) -> AsyncIterator[tuple[dict[str, Any], str]]:
        place = after
        while True:
            page = (await self.get("/v1/changes", after=place, wait=wait, **query)).body
            for change in page["items"]:
                yield change, page["next"]
            place = page["next"]


def _uploading(noun: str, part: list[tuple[str, Record]], dry_run: bool) -> Call:
    content = b"".join(json.dumps({"key": key, "record": record}).encode() + b"\n" for key, record in part)
    headers = {"Content-Type": "application/x-ndjson"}
    return Call("POST", f"/v1/{noun}/bulk", {"dry_run": dry_run} if dry_run else None, content=content, headers=headers)


def _lines(answer: httpx.Response, part: list[tuple[str, Record]]) -> list[Line]:
    """The lines that were tried. What the database could not take just now, or what was one line too many, was not.
    Raises Refused."""
    if not answer.headers.get("Content-Type", "").startswith("application/x-ndjson"):
        meant(answer)
    told = [json.loads(text) for text in answer.text.splitlines()]
    return [
        Line(key, one["result"], one.get("location"), one.get("problem"))
        for (key, _), one in zip(part, told, strict=False)
        if one.get("status") != httpx.codes.SERVICE_UNAVAILABLE and _code(one) != "too_many_lines"
    ]


def _code(line: Record) -> str | None:
    code: str | None = (line.get("problem") or {}).get("code")
    return code
