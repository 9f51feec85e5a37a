"""How `registry serve` speaks HTTP over one connection."""

import asyncio
import socket

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """uvicorn over h11, of its parsers the one that bounds what it collects: 64 KiB, then 400.

    Every answer leaves at once. With several workers uvicorn binds their socket without naming TCP, so asyncio leaves
    Nagle's algorithm on: the body waited 40 ms for the acknowledgement of the head (uvicorn issue 3149, open).
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
