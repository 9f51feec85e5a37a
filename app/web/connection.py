"""How `registry serve` takes connections and speaks HTTP over them."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sized
from functools import partial
from typing import Any

from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE_SECONDS, MOST_PATIENT_SECONDS = 0.001, 0.003
"""How much later a worker reaches for the next connection for every two that it has, and at most. asyncio tells
milliseconds apart, no less."""

PARTING_SECONDS = 0.5
"""For what a client sent over a kept connection before it could know that the server stops."""

AT_STOP = "at_stop"
"""What the application wants to be told at the stop, as its lifespan names it: whoever waits for news need not."""

SECONDS_WITHOUT = 1.0
"""After the machine had nothing left for another connection; asyncio's own."""

HTTP, LOOP = f"{__name__}:Connection", f"{__name__}:Loop"
"""As uvicorn is told of both, by whoever serves the registry."""

Serve = Callable[[socket.socket], Coroutine[Any, Any, None]]


class Connection(H11Protocol):
    """uvicorn over h11, of its parsers the one that bounds what it collects: 64 KiB, then 400.

    Every answer leaves at once. With several workers uvicorn binds their socket without naming TCP, so asyncio leaves
    Nagle's algorithm on: the body waited 40 ms for the acknowledgement of the head (uvicorn issue 3149, open).

    An IPv4 client is known by its own address. A socket that takes both kinds writes it `::ffff:192.0.2.1`, which no
    proxy is named by.

    At the stop each answer says that it is the last of its connection, and an idle connection waits a moment for one
    more request. uvicorn says nothing and closes it at once, on requests that are on their way (RFC 9112, section 9.6).
    """

    _parts = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().connection_made(transport)
        if self.client is not None and "." in self.client[0]:
            self.client = (self.client[0].removeprefix("::ffff:"), self.client[1])

    def shutdown(self) -> None:
        if AT_STOP in self.app_state:
            self.app_state[AT_STOP]()
        if self._is_answered():
            self._parts = True
            self.loop.call_later(PARTING_SECONDS, self._part)
        else:
            self._answer_last()

    def _is_answered(self) -> bool:
        """Nothing was asked, or its answer has begun without saying that it is the last."""
        return self.cycle is None or self.cycle.response_started

    def _answer_last(self) -> None:
        self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]
        super().shutdown()

    def _part(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._parts and not self._is_answered():
            self._answer_last()


class Loop(asyncio.SelectorEventLoop):
    """Workers that share a socket share its connections, too. asyncio's own loop takes all that wait as soon as it
    wakes: of two workers one had most of the clients that keep their connections, and half of the cores was idle."""

    _held: Sized = ()
    """The connections of this worker."""

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], Connection], *, sock: socket.socket | None = None, **options: Any
    ) -> asyncio.Server:
        if sock is None:  # the one worker has them all
            return await super().create_server(protocol_factory, **options)
        server = await super().create_server(protocol_factory, sock=sock, start_serving=False, **options)
        sock.listen(options["backlog"])
        self._reach(sock, partial(self._serve, protocol_factory, options.get("ssl")))
        return server

    def _reach(self, shared: socket.socket, serve: Serve) -> None:
        if shared.fileno() >= 0:  # else it was closed: the worker stops
            self.add_reader(shared, self._wait, shared, serve)

    def _wait(self, shared: socket.socket, serve: Serve) -> None:
        """The fuller a worker is, the longer, so that an emptier one is first."""
        self.remove_reader(shared)
        patience = min(len(self._held) // 2 * PATIENCE_SECONDS, MOST_PATIENT_SECONDS)
        self.call_later(patience, self._take, shared, serve)

    def _take(self, shared: socket.socket, serve: Serve) -> None:
        """What waits longer than that, nobody emptier took: the more a worker has, the more of it."""
        try:
            for _ in range(1 + len(self._held) // 2):
                accepted, _address = shared.accept()
                accepted.setblocking(False)
                self.create_task(serve(accepted))
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            pass  # there is no more, or another worker was first
        except OSError as error:
            if shared.fileno() >= 0:  # no descriptors left, or no memory
                self.call_exception_handler({"message": "No connection can be accepted", "exception": error})
                self.call_later(SECONDS_WITHOUT, self._reach, shared, serve)
            return
        self._reach(shared, serve)

    async def _serve(self, protocol: Callable[[], Connection], ssl: Any, accepted: socket.socket) -> None:
        _, connection = await self.connect_accepted_socket(protocol, accepted, ssl=ssl)
        self._held = connection.connections
