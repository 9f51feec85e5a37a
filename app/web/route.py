"""Routers and routes: strict JSON in, and the answer written in the handler's thread."""

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from copy import copy
from dataclasses import replace
from functools import wraps
from inspect import isclass, iscoroutinefunction
from typing import Any, Self

from fastapi import APIRouter, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.routing import Match
from starlette.types import Scope

from app.database import opened
from app.errors import Fault, UnsupportedContentEncoding, UnsupportedMediaType, ValidationFailed
from app.pagination import Listed
from app.web.problems import fault_of, shown
from app.web.strict_json import StrictRequest

_WITH_BODY = frozenset({"POST", "PATCH", "PUT"})


class StrictRoute(APIRoute):
    """JSON only, unless the endpoint takes a form (the OAuth ones), or reads its body itself, line by line (bulk).

    The session is opened and committed, and the answer written out, in the handler's own thread. FastAPI would take
    three: with all threads waiting for a connection, and all connections for a thread, nobody moves.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, _answering(endpoint, options.get("status_code") or 200), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super(StrictRoute, self._as_served()).get_route_handler()
        takes_form, streams = ((self.openapi_extra or {}).get(name) for name in ("x-form", "x-stream"))
        # forms refuse any query in their own way; what is not described (docs, metrics) looks at none
        asked = frozenset(_names(self.dependant)) if self.include_in_schema and not takes_form else None

        async def strict(request: Request) -> Response:
            strict_request = StrictRequest(request.scope, request.receive)
            _require_names(request, asked)
            if not takes_form:
                _require_plain(request)
            if request.method in _WITH_BODY and not streams:
                settings = request.app.state.settings
                await strict_request.read_whole(settings.max_body_bytes, settings.body_seconds)
                if not takes_form and await strict_request.body():
                    _require_json(request)
            return await handler(strict_request)

        return strict

    def _as_served(self) -> Self:
        """The route as it is described, except that Pydantic reads the whole query at once. FastAPI looks at each field
        that could have been sent, at every request: a tenth of a page of adverse events. A copy, since the description
        is made of the same object. What a router is included with would not reach it, so it is included with nothing.
        """
        served = copy(self)
        shaped = [field for field in self.dependant.query_params if _shape(field) is not None]
        rest = [field for field in self.dependant.query_params if _shape(field) is None]
        reads = [Dependant(call=_reader(field), name=field.name, request_param_name="request") for field in shaped]
        dependencies = [*self.dependant.dependencies, *reads]
        served.dependant = replace(self.dependant, query_params=rest, dependencies=dependencies)
        return served


class Router(APIRouter):
    """Its routes are strict, and tried only for a path that has what all of them begin with. FastAPI tries each route
    of each router, which for one of the last was a fifth of the request."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=StrictRoute, **options)
        self._beginning = self.prefix.partition("{")[0]

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return super().matches(scope) if self._beginning in scope["path"] else (Match.NONE, {})


def _answering(endpoint: Callable[..., Any], status: int) -> Callable[..., Any]:
    """`endpoint` with its session opened and committed around it, and a finished response instead of a model; headers
    that it set on its response are kept.

    An endpoint on the event loop holds no connection and stays as it is.
    """
    if iscoroutinefunction(endpoint):
        return endpoint

    @wraps(endpoint)
    def answering(**named: Any) -> Any:
        with opened(named) as arguments:
            made = endpoint(**arguments)
            if not isinstance(made, BaseModel | Listed):
                return made
            text = made if isinstance(made, Listed) else made.model_dump_json()
            response = Response(text, status, media_type="application/json")
        if "response" in named:
            response.headers.update(named["response"].headers)
        return response

    return answering


def _shape(field: Any) -> type[BaseModel] | None:
    """Of a query that is asked for as a whole."""
    shape = field.field_info.annotation
    return shape if isclass(shape) and issubclass(shape, BaseModel) else None


def _reader(field: Any) -> Callable[[Request], Coroutine[Any, Any, Any]]:
    """The query as fields: each name has one value (`_require_names`)."""

    async def read(request: Request) -> Any:
        query, faults = field.validate(dict(request.query_params), loc=("query",))
        if faults:
            raise RequestValidationError(faults)
        return query

    return read


def _names(dependant: Dependant) -> Iterator[str]:
    """The query parameters of a route and all its dependencies."""
    for field in dependant.query_params:
        if shape := _shape(field):
            yield from (one.alias or name for name, one in shape.model_fields.items())
        else:
            yield field.alias
    for part in dependant.dependencies:
        yield from _names(part)


def _require_names(request: Request, asked: frozenset[str] | None) -> None:
    """Check that the route has every query parameter that was sent: with a mistyped filter it would give everything,
    with a mistyped `dry_run` it would write. A parameter may have only one value, as of two one would be ignored
    silently."""
    sent = Counter(name for name, _ in request.query_params.multi_items()) if request.scope["query_string"] else {}
    unknown = sorted(sent.keys() - asked - _TOLD_BY_NAME) if asked is not None else []
    faults = [fault_of({"loc": ("query", name), "type": "extra_forbidden", "msg": ""}) for name in unknown]
    repeated = [f"/query/{shown(name)}" for name in sorted(sent.keys() - unknown) if sent[name] > 1]
    repeated += ["/header/Idempotency-Key"] if len(request.headers.getlist("idempotency-key")) > 1 else []
    faults += (Fault(pointer, "repeated", "Give it once") for pointer in repeated)
    if faults:
        raise ValidationFailed(*faults)


_TOLD_BY_NAME = {"access_token"}
"""Refused where the token is looked for, as one that is in the wrong place."""


def _require_plain(request: Request) -> None:
    """Nothing is decompressed: a small body could become one beyond every limit. The answer says what is taken instead
    (RFC 9110, section 12.5.3)."""
    if request.headers.get("content-encoding", "").strip().lower() not in {"", "identity"}:
        raise UnsupportedContentEncoding(headers={"Accept-Encoding": "identity"})


def _require_json(request: Request) -> None:
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if media_type.strip().lower() != "application/json" or charset not in {"", "utf-8"}:
        raise UnsupportedMediaType
