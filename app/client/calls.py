"""One call of the API, without the network: which request comes next, after which pause, and what its answer means.

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

from app.client.credentials import Credentials
from app.client.errors import Stale, Unreachable, refusal

FIRST_WAIT, LONGEST_WAIT = 0.2, 15.0
_AGAIN = frozenset({429, 502, 503, 504})


class Pause(NamedTuple):
    """Wait so many seconds."""

    seconds: float


Steps = Generator[httpx.Request | Pause, httpx.Response, httpx.Response]
T = TypeVar("T")


def step_after(
    steps: Generator[httpx.Request | Pause, httpx.Response, T], outcome: httpx.Response | httpx.TransportError | None
) -> httpx.Request | Pause:
    """The next step, once the last one ended in an answer or a broken connection; None begins, or follows a pause.
    Raises StopIteration with what the call came to."""
    if isinstance(outcome, httpx.TransportError):
        return steps.throw(outcome)
    return next(steps) if outcome is None else steps.send(outcome)


@dataclass(frozen=True)
class Answer:
    """What the registry stored or holds."""

    body: Any
    location: str | None
    etag: str | None
    replayed: bool
    """An earlier try had stored it."""


@dataclass(frozen=True)
class Call:
    """A request that may be sent again until it is answered."""

    method: str
    path: str
    query: Mapping[str, Any] | None = None
    json: Any = None
    content: bytes | None = None
    headers: Mapping[str, str] | None = None

    def request(self, base_url: str, token: str) -> httpx.Request:
        sent = {"Authorization": f"Bearer {token}", **(self.headers or {})}
        query = {name: value for name, value in (self.query or {}).items() if value is not None}
        return httpx.Request(
            self.method, base_url + self.path, params=query, json=self.json, content=self.content, headers=sent
        )


def new_key() -> str:
    """An idempotency key: one for each act, the same for each try."""
    return str(uuid4())


def creating(path: str, body: Any, key: str) -> Call:
    return Call("POST", path, json=body, headers={"Idempotency-Key": key})


def amending(path: str, changes: Mapping[str, Any], etag: str) -> Call:
    return Call("PATCH", path, json=dict(changes), headers={"If-Match": etag})


def answered(credentials: Credentials, base_url: str, call: Call, patience: float) -> Steps:
    """Send until there is an answer: after broken connections and answers that ask for patience, with growing pauses.
    A token that has just ended is fetched anew once. Raises Refused, Unreachable."""
    until, tries, fresh, why = time.monotonic() + patience, 0, False, ""
    while True:
        try:
            token = yield from credentials.token(base_url, fresh=fresh)
            answer = yield call.request(base_url, token)
        except httpx.TransportError as error:
            why, asked = type(error).__name__, 0.0
        else:
            if answer.status_code == 401 and not fresh:
                fresh = True
                continue
            if answer.status_code not in _AGAIN:
                return answer
            why, asked = str(answer.status_code), _seconds(answer.headers.get("Retry-After"))
        tries += 1
        pause = max(asked, min(FIRST_WAIT * 2**tries, LONGEST_WAIT) * random.uniform(0.5, 1.0))  # noqa: S311
        if time.monotonic() + pause > until:
            raise Unreachable(f"{call.method} {call.path}: no answer after {tries} tries ({why})")
        yield Pause(pause)


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isdecimal() else 0.0


def meant(answer: httpx.Response) -> Answer:
    """Raises Refused."""
    if not answer.is_success:
        raise refusal(answer.status_code, _problem(answer), answer.headers.get("ETag"))
    body = answer.json() if answer.content else None
    replayed = answer.headers.get("Idempotent-Replayed") == "true"
    return Answer(body, _below_base(answer.headers.get("Location")), answer.headers.get("ETag"), replayed)


def _below_base(location: str | None) -> str | None:
    """Without the path of a base URL such as https://host/registry, as calls name their paths."""
    return location if location is None else location[location.find("/v1/") :]


def _problem(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        told = answer.json()
    except ValueError:
        told = None
    return (
        told if isinstance(told, dict) else {"code": "no_problem_document", "detail": "Not an answer of the registry"}
    )


def already_so(stale: Stale) -> bool:
    """An amendment whose answer was lost meets a newer ETag on its second try, and no field that differs."""
    return stale.problem.get("differing_fields") == []
