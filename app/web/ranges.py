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
    first: Callable[[int, int], bytes],
    read: Callable[[int, int], Iterator[bytes]],
    length: int,
    sha256: str,
    media_type: str,
    headers: dict[str, str],
) -> Response:
    """The whole, or the one part that is asked for while `If-Range` still names this file; `read` gives the bytes
    from a start up to an end, `first` some of them, while the handler still has its connection: so most failures are
    told, and only a later one ends the connection before the length that was promised. Several parts at once, or a
    header that cannot be read, get the whole, as section 14.2 allows. Raises RangeUnsatisfiable."""
    tag = f'"{sha256}"'
    digest = base64.b64encode(bytes.fromhex(sha256)).decode()
    common = {**headers, "ETag": tag, "Accept-Ranges": "bytes", "Repr-Digest": f"sha-256=:{digest}:"}
    found = _ONE.fullmatch(request.headers.get("range", ""))
    if found is None or not _is_a_part(found[1], found[2]) or request.headers.get("if-range", tag) != tag:
        start, end, status, place = 0, length, 200, {}
    else:
        start, end = _bounds(found[1], found[2], length)
        if start >= end:
            raise RangeUnsatisfiable(headers={"Content-Range": f"bytes */{length}"})
        status, place = 206, {"Content-Range": f"bytes {start}-{end - 1}/{length}"}
    begun = first(start, end)
    parts = chain([begun], read(start + len(begun), end))
    return StreamingResponse(parts, status, {**common, **place, "Content-Length": str(end - start)}, media_type)


def _is_a_part(first: str, last: str) -> bool:
    """A part that ends before it begins is no part (section 14.1.1)."""
    return int(first) <= int(last) if first and last else bool(first or last)


def _bounds(first: str, last: str, length: int) -> tuple[int, int]:
    """Start and end, the end not included. Without a first byte it is the last so many."""
    if not first:
        return max(length - int(last), 0), length
    return int(first), min(int(last) + 1, length) if last else length
