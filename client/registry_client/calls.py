"""One call of the API, without the network: which request comes next, and after which pause.

Written as generators, which `Registry` and `AsyncRegistry` drive with the two clients of httpx: the rules are here
once.
"""

import random
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import httpx

from registry_client.answers import NotNow, Record, is_of_password, require_verdict
from registry_client.credentials import Credentials
from registry_client.errors import Unreachable

FIRST_WAIT, LONGEST_WAIT = 0.2, 15.0


class Pause(NamedTuple):
    """Wait so many seconds."""

    seconds: float


T = TypeVar("T")
Steps = Generator[httpx.Request | Pause, httpx.Response, T]


def step_after(steps: Steps[T], outcome: httpx.Response | httpx.TransportError | None) -> httpx.Request | Pause:
    """The next step after an answer or a broken connection; None begins the call, or ends a pause. Raises StopIteration
    with the result of the call."""
    if isinstance(outcome, httpx.TransportError):
        return steps.throw(outcome)
    return next(steps) if outcome is None else steps.send(outcome)


@dataclass(frozen=True)
class Call:
    """A request that may be sent again until it is answered."""

    method: str
    path: str
    query: Mapping[str, Any] | None = None
    json: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def request(self, base_url: str, token: str) -> httpx.Request:
        sent = {"Authorization": f"Bearer {token}", **(self.headers or {})}
        query = {name: value for name, value in (self.query or {}).items() if value is not None}
        return httpx.Request(
            self.method, base_url + self.path, params=query, json=self.json, content=self.content, headers=sent
        )


def new_key() -> str:
    """An idempotency key: one for each act, the same for each try."""
    return str(uuid4())


def creating(path: str, body: Record, key: str) -> Call:
    return Call("POST", path, json=dict(body), headers={"Idempotency-Key": key})


def amending(path: str, changes: Record, etag: str, key: str) -> Call:
    return Call("PATCH", path, json=dict(changes), headers={"If-Match": etag, "Idempotency-Key": key})


def voiding(path: str, reason: str, etag: str, key: str) -> Call:
    headers = {"If-Match": etag, "Idempotency-Key": key}
    return Call("POST", f"{path}/voiding", json={"reason": reason}, headers=headers)


class Patience:
    """Growing pauses, until this many seconds are over."""

    def __init__(self, seconds: float) -> None:
        self._until, self._tries = time.monotonic() + seconds, 0

    def pause(self, what: str, why: str, asked: float = 0.0) -> Pause:
        """The pause before the next try, no shorter than was asked for. Raises Unreachable."""
        self._tries += 1
        longest = min(FIRST_WAIT * 2**self._tries, LONGEST_WAIT)
        seconds = max(asked, longest * random.uniform(0.5, 1.0))  # noqa: S311
        if time.monotonic() + seconds > self._until:
            raise Unreachable(f"{what}: no answer after {self._tries} tries ({why})")
        return Pause(seconds)

    def after(self, what: str, failure: httpx.TransportError | NotNow) -> Pause:
        """Raises Unreachable."""
        if isinstance(failure, NotNow):
            return self.pause(what, str(failure), failure.seconds)
        return self.pause(what, type(failure).__name__)


@dataclass(frozen=True)
class Caller:
    """Credentials, the registry's address, and for how many seconds a call is retried."""

    base_url: str
    credentials: Credentials
    patience: float

    def token(self) -> Steps[str]:
        """Raises NotSignedIn, Unreachable."""
        patience = Patience(self.patience)
        while True:
            try:
                return (yield from self.credentials.token(self.base_url))
            except (httpx.TransportError, NotNow) as failure:
                yield patience.after("Signing in", failure)

    def answered(self, call: Call) -> Steps[httpx.Response]:
        """Send until there is an answer, with growing pauses after broken connections and answers that ask to wait. An
        expired token is fetched anew, once. Raises NotSignedIn, Unreachable."""
        patience, fresh = Patience(self.patience), False
        while True:
            try:
                token = yield from self.credentials.token(self.base_url, fresh=fresh)
                answer = yield call.request(self.base_url, token)
                require_verdict(answer)
            except (httpx.TransportError, NotNow) as failure:
                yield patience.after(str(call), failure)
                continue
            if answer.status_code != httpx.codes.UNAUTHORIZED or fresh or is_of_password(answer):
                return answer
            fresh = True
