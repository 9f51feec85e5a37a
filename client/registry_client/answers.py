"""What an answer of the registry means."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from registry_client.errors import Stale, refusal

Record = Mapping[str, Any]
NDJSON = "application/x-ndjson"
IN_FLIGHT = "idempotency_key_in_flight"
"""An earlier try of the same act is not answered yet."""


class NotNow(Exception):
    """The answer says nothing about the act itself: the server fails, is too busy or still works on an earlier try, or
    it was not the registry that answered."""

    def __init__(self, answer: httpx.Response, why: str = "") -> None:
        super().__init__(f"{answer.status_code}{why}")
        self.seconds = _seconds(answer.headers.get("Retry-After"))


_OF_PASSWORD = frozenset({"credentials_wrong", "totp_needed", "totp_wrong"})
_LATER = frozenset({httpx.codes.REQUEST_TIMEOUT, httpx.codes.TOO_MANY_REQUESTS})
_OAUTH = frozenset({httpx.codes.BAD_REQUEST, httpx.codes.UNAUTHORIZED})


def is_for_later(status: int) -> bool:
    """Whether to send the same again later, by an answer or by a line of an upload."""
    return status in _LATER or status >= httpx.codes.INTERNAL_SERVER_ERROR


def require_verdict(answer: httpx.Response) -> None:
    """Raises NotNow."""
    status = answer.status_code
    in_flight = status == httpx.codes.CONFLICT and problem_of(answer).get("code") == IN_FLIGHT
    if in_flight or is_for_later(status):
        raise NotNow(answer)
    if not _is_own(answer):
        raise NotNow(answer, ", not an answer of the registry")


def is_of_password(answer: httpx.Response) -> bool:
    """Whether a 401 is about a password or code in the body, as of a signature, and not about the token. Sent again it
    would count as another failure."""
    return problem_of(answer).get("code") in _OF_PASSWORD


def _is_own(answer: httpx.Response) -> bool:
    """Whether the registry itself answered. The sign-in page of a guest network, a proxy or a server that is being
    replaced can answer too, and knows nothing of the act."""
    if _form(answer) == _form(answer.request) == NDJSON:
        return True
    return _is_success(answer) if answer.is_success else answer.is_client_error and bool(problem_of(answer))


def _is_success(answer: httpx.Response) -> bool:
    asked, headers = answer.request, answer.headers
    if "Range" in asked.headers:
        return "Repr-Digest" in headers
    if answer.content and (_form(answer) != "application/json" or _json_of(answer) is None):
        return False
    if "Idempotency-Key" not in asked.headers:
        return bool(answer.content) and _form(asked) != NDJSON
    stored = "Location" in headers if asked.method == "POST" else headers.get("ETag", "").startswith('"')
    return stored or "X-Request-Id" in headers  # something that was asked or tried, but not stored


def _form(message: httpx.Request | httpx.Response) -> str:
    return str(message.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _json_of(answer: httpx.Response) -> Any:
    """The JSON of an answer; None where it is not JSON."""
    try:
        return answer.json()
    except ValueError:
        return None


def _seconds(asked: str | None) -> float:
    """The seconds of a Retry-After header (RFC 9110, section 10.2.3), which proxies may send as a date."""
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
    """An address without the path of a base URL such as https://host/registry, since calls have paths below that."""
    return location if location is None else location[location.find("/v1/") :]


def problem_of(answer: httpx.Response) -> Record:
    """The problem document, or at the OAuth address an `error` (RFC 6749, section 5.2); empty where it is neither, and
    so no refusal of the registry."""
    body = _json_of(answer)
    if not isinstance(body, dict):
        return {}
    if _form(answer) == "application/problem+json" and isinstance(body.get("code"), str):
        return body
    if answer.status_code in _OAUTH and answer.request.url.path.endswith("/v1/auth/token") and "error" in body:
        return {"code": body["error"], "detail": body.get("error_description", ""), **body}
    return {}


def already_so(stale: Stale) -> bool:
    """A correction that somebody has made already, perhaps with other changes. (A retry of one's own correction gets
    the first answer.)"""
    return stale.problem.get("differing_fields") == []
