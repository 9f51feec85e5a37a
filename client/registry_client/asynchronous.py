"""The client for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any, Self

import httpx

from registry_client.answers import Answer, Record, already_so, meant
from registry_client.calls import Call, Caller, Pause, Steps, T, amending, creating, new_key, step_after, voiding
from registry_client.credentials import Credentials
from registry_client.downloads import Progress, built, downloaded, silent
from registry_client.errors import Stale
from registry_client.uploads import Line, parts, uploaded


class AsyncRegistry:
    """`Registry` for asyncio, for many tasks at once."""

    def __init__(self, base_url: str, credentials: Credentials, *, patience: float = 60.0, **options: Any) -> None:
        self.caller = Caller(base_url.rstrip("/"), credentials, patience)
        self._http = httpx.AsyncClient(**{"timeout": 40.0, **options})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, steps: Steps[T]) -> T:
        outcome: httpx.Response | httpx.TransportError | None = None
        try:
            while True:
                outcome = await self._done(step_after(steps, outcome))
        except StopIteration as ended:
            found: T = ended.value
            return found

    async def _done(self, step: httpx.Request | Pause) -> httpx.Response | httpx.TransportError | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            return await self._http.send(step)
        except httpx.TransportError as error:
            return error

    async def _answer(self, call: Call) -> Answer:
        return meant(await self.run(self.caller.answered(call)))

    async def token(self) -> str:
        return await self.run(self.caller.token())

    async def get(self, path: str, **query: Any) -> Answer:
        return await self._answer(Call("GET", path, query))

    async def post(self, path: str, body: Record, key: str | None = None) -> Answer:
        return await self._answer(creating(path, body, key or new_key()))

    async def amend(self, path: str, etag: str, reason: str, **changes: Any) -> Answer:
        try:
            return await self._answer(amending(path, {**changes, "reason": reason}, etag, new_key()))
        except Stale as stale:
            if not already_so(stale):
                raise
            return await self.get(path)

    async def void(self, path: str, etag: str, reason: str) -> Answer:
        return await self._answer(voiding(path, reason, etag, new_key()))

    async def pages(self, path: str, **query: Any) -> AsyncIterator[dict[str, Any]]:
        cursor = None
        while True:
            page = (await self.get(path, cursor=cursor, **query)).body
            for item in page["items"]:
                yield item
            cursor = page["next"]
            if cursor is None:
                return

    async def bulk(
        self, noun: str, records: Iterable[tuple[str, Record]], *, dry_run: bool = False
    ) -> AsyncIterator[Line]:
        for part in parts(records):
            waiting = part
            while waiting:
                lines, waiting = await self.run(uploaded(self.caller, noun, waiting, dry_run))
                for line in lines:
                    yield line

    async def changes(
        self, after: str | None = None, *, wait: int = 30, **query: Any
    ) -> AsyncIterator[tuple[dict[str, Any], str]]:
        place = after
        while True:
            page = (await self.get("/v1/changes", after=place, wait=wait, **query)).body
            for change in page["items"]:
                yield change, page["next"]
            place = page["next"]

    async def extract(self, extract_id: str, *, wait: float = 600.0) -> dict[str, Any]:
        return await self.run(built(self.caller, extract_id, wait))

    async def download(self, extract_id: str, folder: Path, progress: Progress = silent) -> list[Path]:
        return await self.run(downloaded(self.caller, extract_id, folder, progress))
