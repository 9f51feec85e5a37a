"""The connection as `registry serve` makes it, over a socket that several workers share."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tests.server import PASSWORD, typed


async def answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
def served_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What `registry serve --workers 2` tells uvicorn."""
    told: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: told.update(options))
    variables = {
        "REGISTRY_ENVIRONMENT": "demo",
        "REGISTRY_DATABASE_URL": f"sqlite:///{tmp_path / 'registry.db'}",
        "REGISTRY_KEY_FILE": str(tmp_path / "keys.json"),
        "REGISTRY_ADMIN_PASSWORD": PASSWORD,
    }
    assert typed(variables, "init").returncode == 0
    assert typed(variables, "serve", "--workers", "2").returncode == 0
    return told


@contextmanager
def a_worker(config: uvicorn.Config, listening: socket.socket) -> Iterator[uvicorn.Server]:
    worker = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(worker.serve([listening])))
    thread.start()
    try:
        while not worker.started:
            time.sleep(0.01)
        yield worker
    finally:
        worker.should_exit = True
        thread.join()


def test_no_answer_waits_until_its_head_was_acknowledged(served_with: dict[str, Any]) -> None:
    """40 ms of every answer where there were several workers."""
    config = uvicorn.Config(answer, **{**served_with, "factory": False, "port": 0, "lifespan": "off"})
    listening = config.bind_socket()
    with a_worker(config, listening) as worker, httpx.Client(trust_env=False) as site_app:
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert site_app.get(address).text == "ok"
        [connection] = worker.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
