"""The route class of every router: strict JSON in, and the answer made where the handler ran."""

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel

from app.database import opened
from app.errors import Fault, UnsupportedMediaType, ValidationFailed
from app.pagination import Listed
from app.web.problems import shown
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
        handler = super().get_route_handler()
        takes_form, streams = ((self.openapi_extra or {}).get(name) for name in ("x-form", "x-stream"))

        async def strict(request: Request) -> Response:
            strict_request = StrictRequest(request.scope, request.receive)
            _require_single(request)
            if request.method in _WITH_BODY and not streams:
                settings = request.app.state.settings
                await strict_request.read_whole(settings.max_body_bytes, settings.body_seconds)
                if not takes_form and await strict_request.body():
                    _require_json(request)
            return await handler(strict_request)

        return strict


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


def _require_single(request: Request) -> None:
    """Every query parameter of ours has one value, and so has a key; of two, one would be dropped without a word."""
    names = [name for name, _ in request.query_params.multi_items()]
    repeated = [f"/query/{shown(name)}" for name in sorted({name for name in names if names.count(name) > 1})]
    repeated += ["/header/Idempotency-Key"] if len(request.headers.getlist("idempotency-key")) > 1 else []
    if repeated:
        raise ValidationFailed(*(Fault(pointer, "repeated", "Give it once") for pointer in repeated))


def _require_json(request: Request) -> None:
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if media_type.strip().lower() != "application/json" or charset not in {"", "utf-8"}:
        raise UnsupportedMediaType
