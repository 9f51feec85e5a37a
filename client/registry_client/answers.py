"""What an answer of the registry means."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from registry_client.errors import Stale, refusal

Record = Mapping[str, Any]
IN_FLIGHT = "idempotency_key_in_flight"
"""An earlier try of the same act is not answered yet."""


class NotNow(Exception):
    """Nothing is said about the act itself: the server fails, has too much to do, or still works on an earlier try."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(str(answer.status_code))
        self.seconds = _seconds(answer.headers.get("Retry-After"))


_LATER = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS})


def require_verdict(answer: httpx.Response) -> None:
    """Raises NotNow."""
    status = answer.status_code
    in_flight = status == httpx.codes.CONFLICT and problem_of(answer).get("code") == IN_FLIGHT
    if in_flight or status in _LATER or status >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise NotNow(answer)


def _seconds(asked: str | None) -> float:
    """Of a Retry-After (RFC 9110, section 10.2.3): seconds, or a date, as proxies may send."""
    if asked is None or asked.isdecimal():
        return float(asked or 0)
    try:
        return (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0


@dataclass(frozen=True)
class Answer:
    """What the registry stored or holds."""

    body: Any
    location: str | None
    etag: str | None
    replayed: bool
    """An earlier try had stored it."""


def meant(answer: httpx.Response) -> Answer:
    """Raises Refused."""
    if not answer.is_success:
        raise refusal(answer.status_code, problem_of(answer), answer.headers.get("ETag"))
    body = answer.json() if answer.content else None
    replayed = answer.headers.get("Idempotent-Replayed") == "true"
    return Answer(body, _below_base(answer.headers.get("Location")), answer.headers.get("ETag"), replayed)


def _below_base(location: str | None) -> str | None:
    """Without the path of a base URL such as https://host/registry, as calls name their paths."""
    return location if location is None else location[location.find("/v1/") :]


def problem_of(answer: httpx.Response) -> Record:
    """The problem document, also of the OAuth addresses, which say `error` (RFC 6749, section 5.2)."""
    try:
        told = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, dict):
        return {"code": "no_problem_document", "detail": "Not an answer of the registry"}
    return {"code": told.get("error", ""), "detail": told.get("error_description", ""), **told}


def already_so(stale: Stale) -> bool:
    """Somebody has written the same already, perhaps with other changes. (A second try of this amendment is answered as
    the first was.)"""
    return stale.problem.get("differing_fields") == []
