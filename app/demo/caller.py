"""A caller of the API: keeps its connection, and repeats what a failing network may have swallowed."""

import time
from typing import Any, Self
from uuid import uuid4

import httpx

from app.demo.demo_file import DemoAccount

TRIES = 6
FIRST_WAIT_SECONDS = 0.1

Answer = dict[str, Any]


class Refused(Exception):
    """The server refused a request of the demo, or could not be reached. The message says which and why."""


class Caller:
    """One signed-in person or site app. Not for use by several threads."""

    def __init__(self, base_url: str, token: str = "") -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Straight to 127.0.0.1, whatever proxy the environment names.
        self._client = httpx.Client(base_url=base_url, headers=headers, timeout=30, trust_env=False)

    @classmethod
    def signed_in(cls, base_url: str, account: DemoAccount) -> Self:
        """Also leaves the fresh token in the account. Raises Refused."""
        with cls(base_url) as stranger:
            account.token = stranger.token_of(account)
        return cls(base_url, account.token)

    def token_of(self, account: DemoAccount) -> str:
        """A fresh access token: people by password, site apps by client credentials. Raises Refused."""
        if account.kind == "user":
            body = {"username": account.username, "password": account.password}
            answer = self._send("POST", "/v1/auth/sessions", json=body)
        else:
            login = (account.client_id or "", account.client_secret or "")
            form = {"grant_type": "client_credentials"}
            answer = self._send("POST", "/v1/auth/token", data=form, auth=login)
        return str(answer["access_token"])

    def post(self, path: str, body: Answer) -> Answer:
        """One request with one Idempotency-Key, however often it is sent. Raises Refused."""
        return self._send("POST", path, json=body, headers={"Idempotency-Key": str(uuid4())})

    def get(self, path: str, **query: Any) -> Answer:
        """Raises Refused."""
        return self._send("GET", path, params=query)

    def _send(self, method: str, path: str, **request: Any) -> Answer:
        fault = ""
        for attempt in range(TRIES):
            if attempt:
                time.sleep(FIRST_WAIT_SECONDS * 2**attempt)
            try:
                answer = self._client.request(method, path, **request)
            except httpx.TransportError as error:
                fault = type(error).__name__
                continue
            if answer.is_success:
                return dict(answer.json())
            fault = f"{answer.status_code} {answer.text}"
            if answer.status_code < 500 and answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
        raise Refused(f"{method} {path}: {fault}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
