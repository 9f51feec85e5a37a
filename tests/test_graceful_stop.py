"""SIGTERM: what was begun is finished, nothing new is begun. On one engine, as it is the server's manner and not the
database's; rolling restarts under load are `python -m bench.rolling`."""

import json
import signal
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import httpx

from tests.hostile import connected, live_study, request_text
from tests.server import served

LONGEST = 30
"""Seconds; a request has 25 to end."""


def until_nobody_listens(base_url: str) -> None:
    with suppress(httpx.TransportError):
        while httpx.get(f"{base_url}/healthz", trust_env=False):
            pass


def test_a_request_in_flight_is_finished_and_a_new_one_refused(tmp_path: Path) -> None:
    with served(tmp_path, None) as server, live_study(server) as live:
        event = {"participant": live.enrolled(), "term": "Headache", "onset": "2025-02-03", "severity": "mild"}
        body = json.dumps(event).encode()
        sent = request_text("POST", "/v1/adverse-events", live.staff.token, body, Idempotency_Key=str(uuid4()))
        with connected(server) as wire:
            wire.sendall(sent[:-20])
            assert live.staff.get("/v1/adverse-events").json()["items"] == []
            server.process.send_signal(signal.SIGTERM)
            until_nobody_listens(server.base_url)
            assert server.process.poll() is None
            wire.sendall(sent[-20:])
            assert wire.recv(65_536).startswith(b"HTTP/1.1 201")
        assert server.process.wait(LONGEST) in {0, -signal.SIGTERM}
