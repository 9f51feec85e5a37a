"""The framework's test client, with a shorter way to the application. The tests send some hundred thousand requests.

What a test asks in its own thread is done in that thread, handler and all: each step to another thread and back costs a
tenth of a small request. What other threads ask meets in the application's event loop, and its handlers in threads, as
when it is served.
"""

import asyncio
import sys
import threading
from collections.abc import Callable
from contextvars import copy_context
from importlib.util import find_spec
from typing import Any, Self

import anyio.to_thread
import httpx2
from fastapi.testclient import TestClient

if find_spec("sniffio") is None:  # or the transport looks for it on the whole path, twice a request
    sys.modules["sniffio"] = None  # type: ignore[assignment]

_in_another_thread = anyio.to_thread.run_sync


class OwnLoop(asyncio.SelectorEventLoop):
    """Of the tests' own thread."""


async def _run_sync(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if isinstance(asyncio.get_running_loop(), OwnLoop):
        return copy_context().run(work, *arguments)
    return await _in_another_thread(work, *arguments, **options)


anyio.to_thread.run_sync = _run_sync


class DirectClient(TestClient):
    def __enter__(self) -> Self:
        super().__enter__()
        self._transport = _Direct(self)
        return self

    def __exit__(self, *ended: object) -> None:
        self._transport.close()
        super().__exit__(*ended)


class _Direct(httpx2.BaseTransport):
    def __init__(self, client: TestClient) -> None:
        self._asgi = httpx2.ASGITransport(client.app, client=("testclient", 50_000))
        self._portal = client.portal
        self._loop = OwnLoop()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        assert self._portal is not None
        if _in_own_thread() and not _waits(request):
            return self._loop.run_until_complete(self._answered(request))
        return self._portal.call(self._answered, request)

    async def _answered(self, request: httpx2.Request) -> httpx2.Response:
        answer = await self._asgi.handle_async_request(request)
        return httpx2.Response(answer.status_code, headers=answer.headers, content=await answer.aread())

    def close(self) -> None:
        self._loop.close()


def _in_own_thread() -> bool:
    """And not within a request, or in an event loop of the test's."""
    return threading.current_thread() is threading.main_thread() and asyncio._get_running_loop() is None


def _waits(request: httpx2.Request) -> bool:
    """Whoever waits for changes does so where everybody else does."""
    return request.url.path.endswith("/changes")
