"""Refusals: families that know the HTTP status; each refusal is a class named for the fact.

The class docstring is the sentence that clients read, the class name in snake case is the stable code.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Fault:
    """One field that breaks one rule. `pointer` is a JSON Pointer (RFC 6901); never the sent value."""

    pointer: str
    code: str
    message: str


class CannotGoOn(Exception):
    """What stops a command, or the server from starting; the message says why, and what to do."""


class RegistryError(Exception):
    """A refusal. Subclass a family below; only what is alone with its status is a subclass of this."""

    status: ClassVar[int] = 500
    title: ClassVar[str] = "Error"

    def __init__(
        self,
        *faults: Fault,
        headers: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> None:
        super().__init__(self.code())
        self.faults: Sequence[Fault] = faults
        self.headers = dict(headers or {})
        self.facts = facts

    @classmethod
    def code(cls) -> str:
        """Stable machine code, e.g. `visit_outside_window`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def detail(cls) -> str:
        """The first paragraph of the class docstring, on one line."""
        return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


class Invalid(RegistryError):
    """The request contradicts itself or a rule."""

    status = 422
    title = "Invalid"


class Forbidden(RegistryError):
    """Your role does not allow this."""

    status = 403
    title = "Forbidden"


class Conflict(RegistryError):
    """The record is in a state that does not allow this."""

    status = 409
    title = "Conflict"


class Locked(RegistryError):
    """The data are closed for changes."""

    status = 423
    title = "Locked"


class SecondPersonNeeded(Conflict):
    """The person who asked cannot decide; another person has to."""


class Gone(RegistryError):
    """It existed, and does not any more."""

    status = 410
    title = "Gone"


class Malformed(RegistryError):
    """The request cannot be read."""

    status = 400
    title = "Bad request"


class Unauthenticated(RegistryError):
    """A valid access token is needed."""

    status = 401
    title = "Unauthorized"


class Unavailable(RegistryError):
    """The registry cannot answer just now; try again."""

    status = 503
    title = "Service unavailable"


class ValidationFailed(Invalid):
    """Some fields break a rule; see errors."""


class NotFound(RegistryError):
    """There is no such record for you."""

    status = 404
    title = "Not found"


class MalformedJson(Malformed):
    """The body is not acceptable JSON (UTF-8, no duplicate keys, no NaN or Infinity)."""


class MalformedRequest(Malformed):
    """The request cannot be read."""


class UnsupportedMediaType(RegistryError):
    """The body must be sent as application/json; a bulk upload as application/x-ndjson, or as application/json."""

    status = 415
    title = "Unsupported media type"


class UnsupportedContentEncoding(RegistryError):
    """The body must be sent as it is, not compressed: without Content-Encoding, or with identity."""

    status = 415
    title = "Unsupported media type"


class BodyTooLarge(RegistryError):
    """The body is larger than this registry accepts."""

    status = 413
    title = "Content too large"


class AddressTooLong(RegistryError):
    """Path and query together are longer than this registry accepts."""

    status = 414
    title = "URI too long"


class HeadersTooLarge(RegistryError):
    """The headers together are larger than this registry accepts."""

    status = 431
    title = "Request header fields too large"


class MethodNotAllowed(RegistryError):
    """This address does not offer that method."""

    status = 405
    title = "Method not allowed"


class IfMatchMissing(RegistryError):
    """A change needs the If-Match header with the ETag of the version you saw."""

    status = 428
    title = "Precondition required"


class VersionStale(RegistryError):
    """The record was changed after you read it; read it again, and then decide whether to change it."""

    status = 412
    title = "Precondition failed"


class TooManyAttempts(RegistryError):
    """Too many failed attempts on this account or from this address; wait as Retry-After says."""

    status = 429
    title = "Too many requests"


class RateExceeded(RegistryError):
    """This account sends more requests than it may (REGISTRY_REQUESTS_PER_MINUTE); wait as Retry-After says."""

    status = 429
    title = "Too many requests"


class TooManyRequests(RegistryError):
    """Too many requests come from this network address, or it holds too many connections; wait as Retry-After says.

    The proxy says it (deploy/nginx/registry.conf), as it does NoAnswer."""

    status = 429
    title = "Too many requests"


class BodyTooSlow(RegistryError):
    """The body did not arrive in time (REGISTRY_BODY_SECONDS); send the request again, under the same key."""

    status = 408
    title = "Request timeout"


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached or is busy; try again."""


class Stopping(Unavailable):
    """The registry is being stopped, and this request had not ended in time; send it again, under the same key."""


class NoAnswer(Unavailable):
    """The proxy got no answer from the registry, which may have stored what was sent; send it again, under the same
    key."""


class StorageFull(RegistryError):
    """The registry's disk is full: nothing of this request was stored, and reading goes on. Its operator has to make
    room; send the same again later."""

    status = 507
    title = "Insufficient storage"


class InternalError(RegistryError):
    """The registry failed; nothing of this request was stored."""

    title = "Internal server error"


def every_refusal(root: type[RegistryError] = RegistryError) -> Iterator[type[RegistryError]]:
    """Each concrete refusal class that is loaded, for the documentation and its test."""
    for child in root.__subclasses__():
        if not child.__subclasses__():
            yield child
        yield from every_refusal(child)
