"""Parts of a file, so that a download that broke off goes on where it stopped (RFC 9110, section 14)."""

import base64
import re
from collections.abc import Callable, Iterator
from itertools import chain

from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from app.errors import Malformed

_ONE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class RangeUnsatisfiable(Malformed):
    """The file is shorter than the part that was asked for."""

    status = 416


def part_of(
    request: Request,
    read: Callable[[int, int], Iterator[bytes]],
    length: int,
    sha256: str,
    media_type: str,
    headers: dict[str, str],
) -> Response:
    """The whole, or the one part that is asked for while `If-Range` still names this file; `read` gives the bytes
    from a start up to an end. Several parts at once, or a header that cannot be read, get the whole, as section 14.2
    allows.
    Raises RangeUnsatisfiable."""
    tag = f'"{sha256}"'
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    common = {**headers, "ETag": tag, "Accept-Ranges": "bytes", "Repr-Digest": f"sha-256=:{digest}:"}
    found = _ONE.fullmatch(request.headers.get("range", ""))
    if found is None or not (found[1] or found[2]) or request.headers.get("if-range", tag) != tag:
        return _streamed(read(0, length), 200, {**common, "Content-Length": str(length)}, media_type)
    start, end = _bounds(found[1], found[2], length)
    if start >= end:
        raise RangeUnsatisfiable
    place = {"Content-Range": f"bytes {start}-{end - 1}/{length}", "Content-Length": str(end - start)}
    return _streamed(read(start, end), 206, {**common, **place}, media_type)


def _streamed(parts: Iterator[bytes], status: int, headers: dict[str, str], media_type: str) -> Response:
    """The first part is read before anything is answered, so that most failures are told; a later one ends the
    connection before the length that was promised."""
    first = next(parts, b"")
    return StreamingResponse(chain([first], parts), status, headers, media_type)


def _bounds(first: str, last: str, length: int) -> tuple[int, int]:
    """Start and end, the end not included. Without a first byte it is the last so many."""
    if not first:
        return max(length - int(last), 0), length
    return int(first), min(int(last) + 1, length) if last else length
