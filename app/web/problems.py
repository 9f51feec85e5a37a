"""One shape for every refusal: RFC 9457 problem documents. Nothing that was sent is ever repeated."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError, ResponseValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import iter_route_contexts
from pydantic import ValidationError
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException

from app import errors
from app.database import DISK_FULL, sqlstate
from app.errors import DatabaseUnavailable, Fault, RegistryError, StorageFull, ValidationFailed
from app.models.contradiction import AT
from app.outages import reason
from app.request_id import current_request_id
from app.web.logs import place_of
from app.web.prefix import published

log = structlog.get_logger()
_OWN_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}|[0-9]{1,6}|[A-Z][A-Z0-9_]{0,31}", re.ASCII)
_LIMITS = ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern", "expected", "max_digits")
_BY_STATUS: dict[int, type[RegistryError]] = {
    400: errors.MalformedRequest,
    404: errors.NotFound,
    413: errors.BodyTooLarge,
    415: errors.UnsupportedMediaType,
}


_READ_ONLY, _OTHER_TYPE = "25006", "0A000"
"""SQLSTATEs (PostgreSQL, appendix A). The second one is of a statement that was prepared before a migration gave one of
its columns another type; the connection's next transaction prepares it anew."""

_MOST_FAULTS = 100

_CONFLICT, _BLOCKED = frozenset({409, 412}), frozenset({403, 423, 500, 503, 507})

_LATER = {"Retry-After": "30"}


class ConstraintBroken(errors.Conflict):
    """The database refused the record because it contradicts another one."""


def install(app: FastAPI) -> None:
    """Register the handlers of every way in which a request can fail."""
    app.add_exception_handler(RegistryError, _registry_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ResponseValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(SQLAlchemyError, _database_error)


def document(error: RegistryError, instance: str) -> dict[str, Any]:
    """The problem document of a refusal. `instance` is the path only: query strings may carry what must not echo."""
    faults, more = _first(error.faults)
    return {
        "type": published(f"/v1/problems/{error.code()}"),
        "title": error.title,
        "status": error.status,
        "code": error.code(),
        "detail": error.detail(),
        "instance": published(instance),
        "request_id": current_request_id(),
        "errors": [{"pointer": fault.pointer, "code": fault.code, "message": fault.message} for fault in faults],
        **more,
        **error.facts,
    }


def result_of(status: int) -> Literal["conflict", "blocked", "invalid"]:
    """A refusal of one record among many, in short: a line of an upload or an act of sync."""
    return "conflict" if status in _CONFLICT else "blocked" if status in _BLOCKED else "invalid"


def problem(error: RegistryError, instance: str) -> JSONResponse:
    """The response with this problem, and with `Retry-After` if the request may be repeated."""
    headers = {"Retry-After": "1", **error.headers} if error.status in {429, 503} else error.headers
    return JSONResponse(document(error, instance), error.status, headers=headers, media_type="application/problem+json")


def _answer(request: Request, error: RegistryError) -> JSONResponse:
    return problem(error, template_of(request))


def template_of(request: Request) -> str:
    """The route's template, not its path: a path may hold what somebody typed."""
    route = request.scope.get("route")
    return str(getattr(route, "path", "")) or "/"


async def _registry_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RegistryError)
    answer = _answer(request, error)
    answer.background = BackgroundTask(request.app.state.refusals, request, error)  # after the answer, and outside it
    return answer


async def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return _answer(request, _validation_failed(error.errors()))


@contextmanager
def body_validated() -> Iterator[None]:
    """In this block errors of Pydantic are refused like those of a request's body. Raises ValidationFailed."""
    try:
        yield
    except ValidationError as error:
        pydantic_errors = error.errors(include_url=False, include_input=False)
        raise _validation_failed(pydantic_errors, "body") from None


def _validation_failed(pydantic_errors: Sequence[Any], *place: str) -> ValidationFailed:
    """The refusal of Pydantic's errors; `place` is where the checked data are in the request."""
    items, more = _first(pydantic_errors)
    return ValidationFailed(*(fault_of({**item, "loc": (*place, *item["loc"])}) for item in items), **more)


def _first(pydantic_errors: Sequence[Any]) -> tuple[Sequence[Any], dict[str, Any]]:
    """The faults up to a limit, and the number of the rest, so that a refusal is not larger than what it refuses."""
    more = len(pydantic_errors) - _MOST_FAULTS
    return pydantic_errors[:_MOST_FAULTS], {"more_errors": more} if more > 0 else {}


def fault_of(item: Any) -> Fault:
    """One Pydantic error without its input: where, which rule, and the rule's own limits."""
    place, *path = item["loc"] if item["loc"] else ("body",)
    context = item.get("ctx") or {}
    path += context.get(AT, ())
    limits = ", ".join(f"{name} {context[name]}" for name in _LIMITS if name in context)
    message = _message(str(item["type"]), str(item["msg"]), limits)
    prefix = "" if place == "body" else f"/{place}"
    return Fault(prefix + "".join(f"/{shown(part)}" for part in path), str(item["type"]), message)


def shown(part: object) -> str:
    """A field name of ours, or an index; anything else is what somebody sent."""
    text = str(part)
    return text if _OWN_NAME.fullmatch(text) else "?"


def _message(kind: str, message: str, limits: str) -> str:
    fixed = {
        "missing": "This field is required",
        "extra_forbidden": "There is no such field",
        "json_invalid": "The body is not JSON",
        "uuid_parsing": "Not a UUID",
    }
    if kind in fixed:
        return fixed[kind]
    if limits:
        return f"{kind.replace('_', ' ')}: {limits}"
    return message if "'" not in message and '"' not in message else kind.replace("_", " ")


async def _http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, RegistryError):
        return _answer(request, error.__cause__)
    if error.status_code == 405:
        return _answer(request, errors.MethodNotAllowed(headers={"Allow": ", ".join(_methods_of(request))}))
    family = _BY_STATUS.get(error.status_code, errors.MalformedRequest)
    return _answer(request, family(headers=dict(error.headers or {})))


def _methods_of(request: Request) -> list[str]:
    """Every method of this address (RFC 9110, section 15.5.6). The framework names those of one of its routes only."""
    offered: set[str] = set()
    for context in iter_route_contexts(request.app.routes):
        regex = getattr(context.original_route, "path_regex", None)
        if regex is not None and regex.match(request.scope["path"]):
            offered |= set(context.methods or ())
    return sorted(offered | {"HEAD"} if "GET" in offered else offered)


async def _database_error(request: Request, error: Exception) -> JSONResponse:
    """Only the exception's class, its SQLSTATE and a word of why are logged: PostgreSQL's texts carry values."""
    assert isinstance(error, SQLAlchemyError)
    facts = {"kind": type(error).__name__, "sqlstate": sqlstate(error), "reason": reason(error)}
    log.error("database_error", **facts, request_id=current_request_id())
    return _answer(request, refusal_of(error))


def refusal_of(error: SQLAlchemyError) -> RegistryError:
    """The refusal that clients get if the database fails."""
    if isinstance(error, IntegrityError):
        return ConstraintBroken()
    if sqlstate(error) == DISK_FULL:
        return StorageFull(headers=_LATER)
    away = isinstance(error, OperationalError | PoolTimeout) or sqlstate(error) in {_READ_ONLY, _OTHER_TYPE}
    if away or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return DatabaseUnavailable()
    return errors.InternalError()


async def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    return failure(error, template_of(request))


def failure(error: Exception, instance: str = "/") -> JSONResponse:
    """The answer to a defect of ours. The log names the exception's class and place, never its text."""
    log.error("internal_error", kind=type(error).__name__, place=place_of(error), request_id=current_request_id())
    return problem(errors.InternalError(), instance)
