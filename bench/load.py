"""The load: some keep-alive connections, each asking again as soon as it was answered. Standard library only, so that
the client costs less than the server. Any answer other than 2xx fails the run."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

Request = Callable[[], tuple[str, str, dict[str, str], bytes]]
"""Makes the next request: method, path, headers, body."""


class NotAccepted(Exception):
    """The server answered a measured request with something other than 2xx."""


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
    """Ask for `seconds` over `clients` connections."""
    return asyncio.run(_run(base_url, request, clients, seconds))


async def _run(base_url: str, request: Request, clients: int, seconds: float) -> Slice:
    latencies: list[float] = []
    started = time.perf_counter()
    deadline = started + seconds
    await asyncio.gather(*(_client(base_url, request, deadline, latencies) for _ in range(clients)))
    return Slice(len(latencies), time.perf_counter() - started, latencies)


async def _client(base_url: str, request: Request, deadline: float, latencies: list[float]) -> None:
    address = urlsplit(base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=2**22)
    try:
        while time.perf_counter() < deadline:
            message = _message(address.netloc, *request())
            asked = time.perf_counter()
            writer.write(message)
            await _answer(reader)
            latencies.append(time.perf_counter() - asked)
    finally:
        writer.close()
        await writer.wait_closed()


def _message(host: str, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def _answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    if b"content-length:" in head:
        body = await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
    else:
        body = await _chunks(reader)
    if not 200 <= status < 300:
        raise NotAccepted(f"{status}: {body[:300]!r}")


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    whole = b""
    while size := int(await reader.readline(), 16):
        whole += (await reader.readexactly(size + 2))[:-2]
    await reader.readline()
    return whole
