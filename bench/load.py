"""The load: keep-alive connections that send the next request as soon as they are answered, or at a fixed rate.

It uses the standard library only, below asyncio's streams, so that the client costs less than the server. Any answer
other than 2xx fails the run.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

Request = Callable[[], tuple[str, str, dict[str, str], bytes]]
"""Makes the next request: method, path, headers, body."""


class NotAccepted(Exception):
    """The server answered a measured request with something other than 2xx, or not at all."""


@dataclass(frozen=True)
class Slice:
    """What one slice of load gave."""

    answered: int
    seconds: float
    latencies: list[float]

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds

    def latency_ms(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000


def run_slice(base_url: str, request: Request, clients: int, seconds: float) -> Slice:
    """Ask for `seconds` over `clients` connections, each one as soon as it was answered."""
    return asyncio.run(_closed(base_url, request, clients, seconds))


def run_at_rate(base_url: str, request: Request, clients: int, seconds: float, per_second: float) -> Slice:
    """Ask `per_second` times a second. A latency counts from the moment when the request was due, not from when a
    connection was free for it: who waits in line waits, too (no coordinated omission)."""
    return asyncio.run(_open(base_url, request, clients, seconds, per_second))


async def _closed(base_url: str, request: Request, clients: int, seconds: float) -> Slice:
    connections = [await _connected(base_url) for _ in range(clients)]
    latencies: list[float] = []
    started = time.perf_counter()

    async def client(connection: "_Connection") -> None:
        asked = started
        while asked < started + seconds:  # once at least, also where the time is over before anybody asked
            asked = time.perf_counter()
            await connection.ask(request)
            latencies.append(time.perf_counter() - asked)

    await _all(connections, client)
    return Slice(len(latencies), time.perf_counter() - started, latencies)


async def _open(base_url: str, request: Request, clients: int, seconds: float, per_second: float) -> Slice:
    connections = [await _connected(base_url) for _ in range(clients)]
    latencies: list[float] = []
    moments = iter([number / per_second for number in range(int(seconds * per_second))])
    started = time.perf_counter()

    async def client(connection: "_Connection") -> None:
        for moment in moments:
            due = started + moment
            await asyncio.sleep(due - time.perf_counter())
            await connection.ask(request)
            latencies.append(time.perf_counter() - due)

    await _all(connections, client)
    return Slice(len(latencies), time.perf_counter() - started, latencies)


async def _all(connections: "list[_Connection]", client: "Callable[[_Connection], Awaitable[None]]") -> None:
    try:
        await asyncio.gather(*(client(one) for one in connections))
    finally:
        for one in connections:
            one.transport.close()


async def _connected(base_url: str) -> "_Connection":
    address = urlsplit(base_url)
    loop = asyncio.get_running_loop()
    host, port = address.hostname or "", address.port or 80
    _, connection = await loop.create_connection(lambda: _Connection(address.netloc), host, port)
    return connection


class _Connection(asyncio.Protocol):
    """One request at a time over one connection."""

    transport: asyncio.Transport

    def __init__(self, host: str) -> None:
        self._host = host
        self._waiting: asyncio.Future[None] | None = None
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    async def ask(self, request: Request) -> None:
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(_message(self._host, *request()))
        await self._waiting

    def data_received(self, data: bytes) -> None:
        self._received += data
        answer = _whole(self._received)
        if answer is None or self._waiting is None or self._waiting.done():
            return
        self._received.clear()
        status = int(answer[9:12])
        if 200 <= status < 300:
            self._waiting.set_result(None)
        else:
            self._waiting.set_exception(NotAccepted(f"{status}: {answer[-300:]!r}"))

    def connection_lost(self, error: Exception | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(NotAccepted(f"the connection was closed: {error}"))


def _whole(received: bytearray) -> bytes | None:
    """The answer, once all of it is there."""
    end = received.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(received[:end]).lower()
    _, sized, rest = head.partition(b"\r\ncontent-length:")
    if sized:
        return bytes(received) if len(received) >= end + 4 + int(rest.partition(b"\r\n")[0]) else None
    return bytes(received) if received.endswith(b"0\r\n\r\n") else None


def _message(host: str, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
        if "Content-Type" not in headers:
            lines.append("Content-Type: application/json")
    return "\r\n".join([*lines, "", ""]).encode() + body
