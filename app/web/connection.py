"""How `registry serve` takes connections and speaks HTTP over them."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sized
from functools import partial
from typing import Any

from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE_SECONDS, MOST_PATIENT_SECONDS = 0.001, 0.003
"""How long a worker waits before it accepts the next connection: so much for every two open connections, and at most.
asyncio's timers have a resolution of a millisecond."""

PARTING_SECONDS = 0.5
"""How long an idle connection stays open when the server stops, for a request that is already on its way."""

AT_STOP = "at_stop"
"""The name in the lifespan's state of the function to call when the server stops: it ends the waiting long polls and
event streams."""

SECONDS_WITHOUT = 1.0
"""The pause after the machine had no file descriptor or memory left for a connection; the same as asyncio's own."""

HTTP, LOOP = f"{__name__}:Connection", f"{__name__}:Loop"
"""The two classes by name, as uvicorn's options take them."""

Serve = Callable[[socket.socket], Coroutine[Any, Any, None]]


class Connection(H11Protocol):
    """uvicorn's protocol on h11, the one of its parsers that limits the size of a request's head: 64 KiB, then 400.

    Sets TCP_NODELAY. With several workers uvicorn binds their socket without naming TCP, so asyncio leaves Nagle's
    algorithm on, and the body waited 40 ms for the acknowledgement of the head (uvicorn issue 3149, open).

    Gives IPv4 clients as IPv4 addresses. A socket for both kinds writes `::ffff:192.0.2.1`, which would not match the
    configured address of a proxy.

    When the server stops, each answer carries `Connection: close`, and an idle connection waits PARTING_SECONDS for one
    more request. uvicorn closes idle connections at once, and loses requests on their way (RFC 9112, section 9.6).
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
        """Whether there was no request yet, or its answer has begun, so that `Connection: close` can no longer be
        added."""
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
    """Spreads connections evenly over workers that listen on the same socket. asyncio's own loop accepts all waiting
    connections as soon as it wakes: one of two workers had most of the keep-alive clients, and half of the cores were
    idle."""

    _held: Sized = ()
    """The connections of this worker."""

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Callable[[], Connection], *, sock: socket.socket | None = None, **options: Any
    ) -> asyncio.Server:
        if sock is None:  # a single worker: nothing to share
            return await super().create_server(protocol_factory, **options)
        server = await super().create_server(protocol_factory, sock=sock, start_serving=False, **options)
        sock.listen(options["backlog"])
        self._reach(sock, partial(self._serve, protocol_factory, options.get("ssl")))
        return server

    def _reach(self, shared: socket.socket, serve: Serve) -> None:
        if shared.fileno() >= 0:  # else it was closed: the worker stops
            self.add_reader(shared, self._wait, shared, serve)

    def _wait(self, shared: socket.socket, serve: Serve) -> None:
        """Wait the longer, the more connections this worker has, so that a worker with fewer accepts first."""
        self.remove_reader(shared)
        patience = min(len(self._held) // 2 * PATIENCE_SECONDS, MOST_PATIENT_SECONDS)
        self.call_later(patience, self._take, shared, serve)

    def _take(self, shared: socket.socket, serve: Serve) -> None:
        """Accept connections that no worker with fewer has accepted meanwhile: the more, the more this worker has."""
        try:
            for _ in range(1 + len(self._held) // 2):
                accepted, _address = shared.accept()
                accepted.setblocking(False)
                self.create_task(serve(accepted))
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            pass  # nothing waits, or another worker was faster
        except OSError as error:
            if shared.fileno() >= 0:  # no descriptors left, or no memory
                self.call_exception_handler({"message": "No connection can be accepted", "exception": error})
                self.call_later(SECONDS_WITHOUT, self._reach, shared, serve)
            return
        self._reach(shared, serve)

    async def _serve(self, protocol: Callable[[], Connection], ssl: Any, accepted: socket.socket) -> None:
        _, connection = await self.connect_accepted_socket(protocol, accepted, ssl=ssl)
        self._held = connection.connections
