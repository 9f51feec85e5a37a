"""The connection as `registry serve` makes it, over a socket that several workers share."""

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn

from app.web.connection import Loop
from tests.server import PASSWORD, typed


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def served_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `registry serve` tells uvicorn, of one worker or of several."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: told.update(options))
    variables = {
        "REGISTRY_ENVIRONMENT": "demo",
        "REGISTRY_DATABASE_URL": f"sqlite:///{tmp_path / 'registry.db'}",
        "REGISTRY_KEY_FILE": str(tmp_path / "keys.json"),
        "REGISTRY_ADMIN_PASSWORD": PASSWORD,
    }
    assert typed(variables, "init").returncode == 0
    assert typed(variables, "serve").returncode == 0
    return told


@contextmanager
def a_worker(config: uvicorn.Config, listening: socket.socket) -> Iterator[uvicorn.Server]:
    worker = uvicorn.Server(config)
    thread = threading.Thread(target=worker.run, args=([listening],))
    thread.start()
    try:
        while not worker.started:
            time.sleep(0.01)
        yield worker
    finally:
        worker.should_exit = True
        thread.join()


@pytest.fixture
def options(served_with: dict[str, Any]) -> dict[str, Any]:
    return {**served_with, "factory": False, "port": 0, "lifespan": "off"}


def address_of(listening: socket.socket) -> str:
    return f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_no_answer_waits_until_its_head_was_acknowledged(options: dict[str, Any]) -> None:
    """40 ms of every answer where there were several workers."""
    config = uvicorn.Config(answer, **options)
    with (
        config.bind_socket() as listening,
        a_worker(config, listening) as worker,
        httpx.Client(trust_env=False) as site_app,
    ):
        assert site_app.get(address_of(listening)).text == "ok"
        [connection] = worker.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def whom(scope: Any, receive: Any, send: Any) -> None:
    """Answers who it takes the client for."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": scope["client"][0].encode()})


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no such sockets")
def test_a_socket_for_both_kinds_of_address_knows_ipv4_clients_and_the_proxy_by_their_own(
    options: dict[str, Any],
) -> None:
    config = uvicorn.Config(whom, **{**options, "host": "::"})
    with config.bind_socket() as listening, a_worker(config, listening), httpx.Client(trust_env=False) as client:
        assert client.get(address_of(listening)).text == "127.0.0.1"
        told = client.get(address_of(listening), headers={"X-Forwarded-For": "203.0.113.9"})
        assert told.text == "203.0.113.9"
        assert client.get(f"http://[::1]:{listening.getsockname()[1]}").text == "::1"


def test_workers_share_the_clients_that_keep_their_connections(options: dict[str, Any]) -> None:
    """Whoever was awake had nearly all of them."""
    first, second = (uvicorn.Config(answer, **options) for _ in range(2))
    with ExitStack() as opened:
        listening = opened.enter_context(first.bind_socket())
        workers = [opened.enter_context(a_worker(one, listening.dup())) for one in (first, second)]
        for _ in range(16):
            site_app = opened.enter_context(httpx.Client(trust_env=False))
            assert site_app.get(address_of(listening)).text == "ok"
        held = [len(one.server_state.connections) for one in workers]
        assert sum(held) == 16
        assert min(held) >= 4, held


def test_a_worker_that_stops_leaves_new_connections_to_the_other(options: dict[str, Any]) -> None:
    first, second = (uvicorn.Config(answer, **options) for _ in range(2))
    with first.bind_socket() as listening, a_worker(second, listening.dup()):
        with a_worker(first, listening.dup()):
            pass
        for _ in range(4):
            assert httpx.get(address_of(listening), trust_env=False).text == "ok"


class Queue:
    """A socket with so many connections waiting, and then nothing or a fault."""

    def __init__(self, waiting: int, fault: int) -> None:
        self.waiting, self.fault = waiting, fault

    def fileno(self) -> int:
        return 0

    def accept(self) -> tuple[Any, Any]:
        if not self.waiting:
            raise OSError(self.fault, os.strerror(self.fault))
        self.waiting -= 1
        return SimpleNamespace(setblocking=lambda _: None), None


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    """One that notes what it would do later and when it would look again."""
    one = Loop()
    monkeypatch.setattr(one, "create_task", lambda served: served.close())
    one.later, one.told, one.looking = [], [], []  # type: ignore[attr-defined]
    monkeypatch.setattr(one, "call_later", lambda seconds, *_: one.later.append(seconds))
    monkeypatch.setattr(one, "add_reader", lambda *_: one.looking.append(True))
    one.set_exception_handler(lambda _, context: one.told.append(context["message"]))
    yield one
    one.close()


async def serve(_accepted: Any) -> None:
    """Nobody is there."""


@pytest.mark.parametrize(("held", "taken"), [(0, 1), (3, 2), (40, 21)])
def test_of_what_nobody_emptier_took_a_worker_takes_more_the_more_it_has(loop: Any, held: int, taken: int) -> None:
    """Else many open connections would slow every new one."""
    loop._held, waiting = range(held), Queue(50, errno.EAGAIN)
    loop._take(waiting, serve)
    assert (50 - waiting.waiting, loop.looking, loop.later) == (taken, [True], [])


def test_what_another_worker_took_is_no_fault(loop: Any) -> None:
    loop._take(Queue(0, errno.EAGAIN), serve)
    assert (loop.looking, loop.later, loop.told) == ([True], [], [])


def test_a_lack_of_descriptors_is_logged_and_waited_for(loop: Any) -> None:
    loop._take(Queue(0, errno.EMFILE), serve)
    assert (loop.looking, loop.later, loop.told) == ([], [1.0], ["No connection can be accepted"])
