"""The framework's test client, with a shorter way to the application: a request crosses to its event loop once, and not
eight times. The tests send some hundred thousand requests."""

import sys
from importlib.util import find_spec
from typing import Self

import httpx2
from fastapi.testclient import TestClient

if find_spec("sniffio") is None:  # or the transport looks for it on the whole path, twice a request
    sys.modules["sniffio"] = None  # type: ignore[assignment]


class DirectClient(TestClient):
    def __enter__(self) -> Self:
        super().__enter__()
        self._transport = _Direct(self)
        return self


class _Direct(httpx2.BaseTransport):
    def __init__(self, client: TestClient) -> None:
        self._asgi = httpx2.ASGITransport(client.app, client=("testclient", 50_000))
        self._portal = client.portal

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        assert self._portal is not None
        return self._portal.call(self._answered, request)

    async def _answered(self, request: httpx2.Request) -> httpx2.Response:
        answer = await self._asgi.handle_async_request(request)
        return httpx2.Response(answer.status_code, headers=answer.headers, content=await answer.aread())
