"""Bodies are read whole and parsed strictly before anything else happens, so no connection waits for a slow client."""

import asyncio
import json
from typing import Any

from fastapi import Request

from app.errors import BodyTooLarge, BodyTooSlow, MalformedJson

_MAX_DIGITS = 40


class StrictRequest(Request):
    """A request whose JSON is UTF-8, without duplicate keys, NaN, Infinity or numbers beyond any use."""

    async def read_whole(self, most: int, seconds: float) -> None:
        """Read the body. Raises BodyTooLarge if it is declared or found to have more than `most` bytes, and BodyTooSlow
        if it does not arrive in time."""
        try:
            async with asyncio.timeout(seconds):
                await self._read(most)
        except TimeoutError:
            raise BodyTooSlow(headers={"Connection": "close"}) from None

    async def _read(self, most: int) -> None:
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
        return _STRICT.decode(raw.decode("utf-8"))
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


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse, parse_int=_int, parse_float=_float)
