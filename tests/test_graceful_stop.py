"""SIGTERM, and SIGHUP to one worker: what was begun is finished, nothing new is begun. On one engine, as it is the
server's manner and not the database's; rolling restarts under load are `python -m bench.rolling`."""

import asyncio
import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from starlette.types import Message

from tests.hostile import connected, live_study, request_text
from tests.server import running_server, served
from tests.test_outages import until
from tests.world import World

LONGEST = 30
"""Seconds; a request has 25 to end."""


def until_nobody_listens(base_url: str) -> None:
    with suppress(httpx.TransportError):
        while httpx.get(f"{base_url}/healthz", trust_env=False):
            pass


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGHUP])
def test_a_request_in_flight_is_finished_and_a_new_one_refused(tmp_path: Path, told: signal.Signals) -> None:
    with served(tmp_path, None) as server, live_study(server) as live:
        event = {"participant": live.enrolled(), "term": "Headache", "onset": "2025-02-03", "severity": "mild"}
        body = json.dumps(event).encode()
        sent = request_text("POST", "/v1/adverse-events", live.staff.token, body, Idempotency_Key=str(uuid4()))
        with connected(server) as wire:
            wire.sendall(sent[:-20])
            assert live.staff.get("/v1/adverse-events").json()["items"] == []
            server.process.send_signal(told)
            until_nobody_listens(server.base_url)
            assert server.process.poll() is None
            wire.sendall(sent[-20:])
            assert wire.recv(65_536).startswith(b"HTTP/1.1 201")
        assert server.process.wait(LONGEST) in {0, -signal.SIGTERM}


def test_a_request_that_crosses_the_word_to_stop_is_the_last_of_its_connection(tmp_path: Path) -> None:
    """A client over a kept connection cannot know yet."""
    with served(tmp_path, None) as server, closing(HTTPConnection(server.base_url.partition("//")[2])) as client:

        def ask() -> HTTPResponse:
            client.request("GET", "/healthz")
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, b'{"status":"ok"}')
            return answer

        assert not ask().will_close
        server.process.send_signal(signal.SIGTERM)
        until_nobody_listens(server.base_url)
        assert ask().will_close
        assert server.process.wait(LONGEST) in {0, -signal.SIGTERM}


def test_a_client_that_waits_for_changes_is_answered_with_its_position_on_a_stop(tmp_path: Path) -> None:
    """And not kept until the time is over, with nobody to take new requests meanwhile."""
    with served(tmp_path, None) as server, live_study(server) as live, ThreadPoolExecutor(2) as threads:
        live.enrolled()
        address = f"{server.base_url}/v1/changes"
        signed_in = {"Authorization": f"Bearer {live.staff.token}"}
        place = live.staff.get("/v1/changes").json()["next"]
        heard = threading.Event()

        def streamed() -> list[str]:
            headers = {**signed_in, "Accept": "text/event-stream"}
            with httpx.stream("GET", address, headers=headers, trust_env=False, timeout=60) as stream:
                lines = []
                for line in stream.iter_lines():
                    heard.set()
                    lines.append(line)
            return lines

        asked = {"after": place, "wait": 30}
        waiting = threads.submit(httpx.get, address, params=asked, headers=signed_in, trust_env=False, timeout=60)
        streaming = threads.submit(streamed)
        assert heard.wait(20)
        time.sleep(1)
        server.process.send_signal(signal.SIGTERM)
        answer = waiting.result(LONGEST)
        assert (answer.status_code, answer.json()["items"]) == (200, [])
        assert any(line.startswith("data: ") for line in streaming.result(LONGEST))
        assert server.process.wait(LONGEST) in {0, -signal.SIGTERM}
        assert '"level": "error"' not in server.log.read_text()


def test_what_is_still_arriving_when_the_time_is_over_hears_when_to_come_again(world: World) -> None:
    """uvicorn cancels it then."""
    sent: list[Message] = []
    arriving = asyncio.Event()

    async def receive() -> Message:
        arriving.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        sent.append(message)

    async def cut_off() -> None:
        head = {"authorization": f"Bearer {world.staff_a.token}", "content-type": "application/json"}
        headers = [(name.encode(), value.encode()) for name, value in head.items()]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/adverse-events",
            "query_string": b"",
            "headers": headers,
        }
        request = asyncio.create_task(world.registry.app(scope, receive, send))
        await arriving.wait()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request

    asyncio.run(cut_off())
    start, body = sent
    assert (start["status"], json.loads(body["body"])["code"]) == (503, "stopping")
    told = {name.decode(): value.decode() for name, value in start["headers"]}
    assert told["content-type"] == "application/problem+json"
    assert {"retry-after", "x-request-id", "x-content-type-options"} <= told.keys()


def test_workers_end_when_the_first_process_was_killed_and_leave_nothing_behind(tmp_path: Path) -> None:
    figures = {"REGISTRY_METRICS_TOKEN": "a secret for tests only", "TMPDIR": str(tmp_path)}
    with running_server(tmp_path, f"sqlite:///{tmp_path / 'registry.db'}", workers=2, **figures) as server:
        assert list(tmp_path.glob("registry-metrics-*"))
        server.process.kill()
        until(lambda: not list(tmp_path.glob("registry-metrics-*")))
        until_nobody_listens(server.base_url)
