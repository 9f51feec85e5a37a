"""A body of many records, read piece by piece: NDJSON, or a JSON array that is small enough to be read whole."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from fastapi import Request

from app.errors import BodyTooLarge, BodyTooSlow, MalformedJson, UnsupportedMediaType
from app.web.strict_json import StrictRequest, parse_json

NDJSON = "application/x-ndjson"


class Line(NamedTuple):
    """One record as it was sent: its bytes, or its value if it came in an array. `raw` is None if it is longer than
    allowed."""

    number: int
    raw: bytes | None
    value: Any = None


async def batches(request: Request, size: int, longest: int, seconds: float) -> AsyncIterator[list[Line]]:
    """The lines of a request, so many at a time, or as many as have `longest` bytes; empty ones are counted, left out.
    What a client had not sent to its end when the connection broke is no line. `seconds` is for each batch, so that a
    long upload may take long. Raises UnsupportedMediaType, BodyTooLarge, BodyTooSlow, MalformedJson."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in {NDJSON, "application/json"}:
        raise UnsupportedMediaType
    source = _of_ndjson(request, longest) if media_type == NDJSON else _of_array(request, longest, seconds)
    late = False
    while not late:
        batch, late = await _next(source, size, longest, seconds)
        if batch:
            yield batch
        elif not late:
            return
    raise BodyTooSlow(headers={"Connection": "close"})


async def _next(source: AsyncIterator[Line], size: int, longest: int, seconds: float) -> tuple[list[Line], bool]:
    """The next lines, and whether waiting for a further one timed out."""
    batch: list[Line] = []
    read = 0
    try:
        async with asyncio.timeout(seconds):
            while len(batch) < size and read < longest and (line := await anext(source, None)):
                batch.append(line)
                read += len(line.raw or b"")
    except TimeoutError:
        return batch, True
    return batch, False


async def _of_ndjson(request: Request, longest: int) -> AsyncIterator[Line]:
    waiting, number, overlong = bytearray(), 0, False
    async for chunk in request.stream():
        first, *following = chunk.split(b"\n")
        waiting += first  # in place: a line may come in many small pieces
        for begun in following:
            number += 1
            if overlong or waiting.strip():
                yield Line(number, None if overlong or len(waiting) > longest else bytes(waiting))
            waiting, overlong = bytearray(begun), False
        if len(waiting) > longest:
            overlong = True
            waiting.clear()
    if overlong or waiting.strip():
        yield Line(number + 1, None if overlong else bytes(waiting))


async def _of_array(request: Request, longest: int, seconds: float) -> AsyncIterator[Line]:
    whole = StrictRequest(request.scope, request.receive)
    await whole.read_whole(longest, seconds)
    values = parse_json(await whole.body())
    if not isinstance(values, list):
        raise MalformedJson
    for number, value in enumerate(values, 1):
        yield Line(number, b"", value)


def value_of(line: Line) -> Any:
    """The record. Raises BodyTooLarge, MalformedJson."""
    if line.raw is None:
        raise BodyTooLarge
    return parse_json(line.raw) if line.raw else line.value
