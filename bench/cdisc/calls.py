"""One caller of the API: signs in, keeps its connection, and repeats what a failing network may have swallowed."""

import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Self
from uuid import uuid4

import httpx

TRIES = 8
FIRST_WAIT_SECONDS = 0.1
Answered = Callable[[str, float], None]
"""Called with the path and the seconds of every single answer."""


class NoAnswer(Exception):
    """The server could not be reached, or failed, each time."""


class Caller:
    """A signed-in person or site app. Not for use by several threads."""

    def __init__(
        self,
        base_url: str,
        sign_in: Callable[[httpx.Client], httpx.Response],
        answered: Answered | None = None,
        lose: float = 0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`lose` is a share of answers to throw away and ask for again, as after a broken connection."""
        self._client = httpx.Client(base_url=base_url, timeout=60, transport=transport)
        self._sign_in, self._answered, self._lose = sign_in, answered, lose
        self.retries = 0

    @classmethod
    def person(cls, base_url: str, username: str, password: str) -> Self:
        body = {"username": username, "password": password}
        return cls(base_url, lambda client: client.post("/v1/auth/sessions", json=body))

    @classmethod
    def site_app(cls, base_url: str, login: tuple[str, str], answered: Answered, lose: float) -> Self:
        form = {"grant_type": "client_credentials"}
        return cls(base_url, lambda client: client.post("/v1/auth/token", data=form, auth=login), answered, lose)

    def post(self, path: str, body: Any) -> httpx.Response:
        """One request with one Idempotency-Key, however often it is sent. Raises NoAnswer."""
        return self._send("POST", path, json=body, headers={"Idempotency-Key": str(uuid4())})

    def get(self, path: str, **query: Any) -> httpx.Response:
        """Raises NoAnswer."""
        return self._send("GET", path, params=query)

    def items(self, path: str, **query: Any) -> Iterator[dict[str, Any]]:
        """Everything in a list, page by page. Raises NoAnswer, httpx.HTTPStatusError."""
        cursor: dict[str, str] = {}
        while True:
            page = self.get(path, limit=500, **query, **cursor).raise_for_status().json()
            yield from page["items"]
            if page["next"] is None:
                return
            cursor = {"cursor": page["next"]}

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        fault = ""
        for attempt in range(TRIES):
            if attempt:
                self.retries += 1
                time.sleep(FIRST_WAIT_SECONDS * 2**attempt * random.uniform(0.25, 0.5))
            try:
                answer = self._once(method, path, **request)
            except httpx.TransportError as error:
                fault = type(error).__name__
                continue
            if answer.status_code >= 500 or answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
                fault = f"status {answer.status_code}"
            elif attempt or random.random() >= self._lose:
                return answer
        raise NoAnswer(f"{method} {path}: {fault}, {TRIES} times")

    def _once(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send, and sign in where there is no token or it has run out."""
        if "Authorization" not in self._client.headers:
            self._authenticate()
        answer = self._timed(method, path, **request)
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            self._authenticate()
            answer = self._timed(method, path, **request)
        return answer

    def _timed(self, method: str, path: str, **request: Any) -> httpx.Response:
        started = time.perf_counter()
        answer = self._client.request(method, path, **request)
        if self._answered is not None:
            self._answered(path, time.perf_counter() - started)
        return answer

    def _authenticate(self) -> None:
        self._client.headers.pop("Authorization", None)
        token = self._sign_in(self._client).raise_for_status().json()["access_token"]
        self._client.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        self._client.close()
