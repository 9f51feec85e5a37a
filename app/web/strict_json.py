"""Bodies are read whole and parsed strictly before anything else happens, so no connection waits for a slow client."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.errors import BodyTooLarge, MalformedJson, UnsupportedMediaType

_WITH_BODY = frozenset({"POST", "PATCH", "PUT"})
_MAX_DIGITS = 40


class StrictRequest(Request):
    """A request whose JSON is UTF-8, without duplicate keys, NaN, Infinity or numbers beyond any use."""

    async def read_whole(self, most: int) -> None:
        """Read the body. Raises BodyTooLarge when it says it is, or turns out to be, more than `most` bytes."""
        announced = self.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced[:16]) > most:
            raise BodyTooLarge(headers={"Connection": "close"})
        chunks, length = [], 0
        async for chunk in self.stream():
            chunks.append(chunk)
            length += len(chunk)
            if length > most:
                raise BodyTooLarge(headers={"Connection": "close"})
        self._body = b"".join(chunks)

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse_json(await self.body())
        return self._json


def parse_json(raw: bytes) -> Any:
    """The value of a JSON text. Raises MalformedJson."""
    try:
        return json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse,
            parse_int=_int,
            parse_float=_float,
        )
    except (ValueError, RecursionError):
        raise MalformedJson from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError
    return value


def _refuse(_: str) -> None:
    raise ValueError


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")) or len(text) > _MAX_DIGITS:
        raise ValueError
    return value


class StrictRoute(APIRoute):
    """The route class of every router: JSON only, unless the endpoint takes a form (the OAuth ones)."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        takes_form = bool(self.openapi_extra and self.openapi_extra.get("x-form"))

        async def strict(request: Request) -> Response:
            strict_request = StrictRequest(request.scope, request.receive)
            if request.method in _WITH_BODY:
                await strict_request.read_whole(request.app.state.settings.max_body_bytes)
                if not takes_form and await strict_request.body():
                    _require_json(request)
            return await handler(strict_request)

        return strict


def _require_json(request: Request) -> None:
    media_type, _, parameters = request.headers.get("content-type", "").partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if media_type.strip().lower() != "application/json" or charset not in {"", "utf-8"}:
        raise UnsupportedMediaType
