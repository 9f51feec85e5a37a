"""Errors, by what one can do about them."""

from collections.abc import Mapping, Sequence
from typing import Any


class RegistryFailure(Exception):
    """Any failure of a call."""


class Unreachable(RegistryFailure):
    """No answer within the call's patience. If the call has an idempotency key, send it again later: it cannot be done
    twice."""


class Damaged(RegistryFailure):
    """A downloaded file differs from the registry's description of it."""


class NotReady(RegistryFailure):
    """The extract has no files: it is not approved yet, still being built, refused, expired or revoked."""


class Refused(RegistryFailure):
    """The registry refused: a problem document (RFC 9457). `code` is stable, `errors` name the fields."""

    def __init__(self, status: int, problem: Mapping[str, Any], etag: str | None = None) -> None:
        self.status, self.problem, self.etag = status, dict(problem), etag
        self.code = str(problem.get("code", ""))
        self.detail = str(problem.get("detail", ""))
        self.request_id = problem.get("request_id")
        self.errors: Sequence[Mapping[str, str]] = problem.get("errors", ())
        places = ", ".join(f"{one.get('pointer')}: {one.get('message')}" for one in self.errors)
        super().__init__(f"{status} {self.code}: {self.detail}" + (f" ({places})" if places else ""))


class NotSignedIn(Refused):
    """401, or a sign-in that was refused: the credentials are wrong, or ended."""


class NotAllowed(Refused):
    """403: the account's role does not allow it."""


class NotThere(Refused):
    """404 or 410: there is no such record for you, or not any more."""


class Conflicting(Refused):
    """409: the record's state does not allow it."""


class Stale(Refused):
    """412: somebody changed the record first. `etag` is its present version; `problem["differing_fields"]` names what
    differs."""


class Closed(Refused):
    """423: the data are frozen or locked."""


class Wrong(Refused):
    """400, 422 and the like: what was sent breaks a rule; sending it again will not help."""


_BY_STATUS: Mapping[int, type[Refused]] = {
    401: NotSignedIn,
    403: NotAllowed,
    404: NotThere,
    409: Conflicting,
    410: NotThere,
    412: Stale,
    423: Closed,
}


def refusal(status: int, problem: Mapping[str, Any], etag: str | None = None) -> Refused:
    """The error for a status."""
    return _BY_STATUS.get(status, Wrong)(status, problem, etag)
