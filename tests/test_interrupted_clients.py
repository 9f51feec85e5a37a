"""Clients that break off: the process lives, no connection stays in a transaction, nothing is half stored.

The best-known peer dies or locks up on the first of these: after twenty such uploads its pool is gone.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.services.extracts import chunks
from tests.hostile import LiveStudy, abandon, connected, exchange, live_study, request_text
from tests.route_cases import an_extract
from tests.server import LiveServer
from tests.unharmed import extract_of, require_unharmed, stored, visit_body
from tests.world import World

TIMES = 20
WAITS = (0.0, 0.002, 0.01, 0.3)


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


def test_an_upload_that_breaks_off_harms_nobody(live: LiveStudy) -> None:
    pid = live.enrolled()
    begun = b'{"participant": '
    sent = request_text("POST", "/v1/visits", live.staff.token, Content_Length="2000", Idempotency_Key="k") + begun
    assert len(begun) == 16
    for wait in WAITS:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda number, w=wait: abandon(live.server, sent, w, reset=number % 2 == 1), range(TIMES)))
    for _ in range(TIMES):
        abandon(live.server, sent)
    assert stored(live, pid) == {"visits": 0, "entries": 0, "records": 0, "unanswered": 0}
    require_unharmed(live)


def test_an_upload_that_breaks_off_is_not_logged_as_a_defect(live: LiveStudy) -> None:
    before = live.server.log.read_text().count("internal_error")
    sent = request_text("POST", "/v1/visits", live.staff.token, Content_Length="2000", Idempotency_Key="k") + b"{" * 16
    for _ in range(5):
        abandon(live.server, sent, 0.01)
    require_unharmed(live)
    assert live.server.log.read_text().count("internal_error") == before


@pytest.mark.parametrize("path", ["/v1/participants", "/v1/adverse-events", "/v1/auth/sessions", "/v1/auth/token"])
def test_no_route_minds_an_upload_that_breaks_off(live: LiveStudy, path: str) -> None:
    form = {"Content_Type": "application/x-www-form-urlencoded"} if path.endswith("token") else {}
    sent = request_text("POST", path, live.staff.token, Content_Length="2000", Idempotency_Key="k", **form) + b"{" * 16
    for number in range(TIMES):
        abandon(live.server, sent, 0.002 * (number % 2), reset=number % 3 == 0)
    require_unharmed(live)


def test_a_chunked_upload_that_breaks_off_harms_nobody(live: LiveStudy) -> None:
    head = request_text("POST", "/v1/visits", live.staff.token, Idempotency_Key="k").replace(
        b"Content-Length: 0", b"Transfer-Encoding: chunked"
    )
    for number in range(TIMES):
        abandon(live.server, head + b'10\r\n{"participant": \r\n' + b"FFFFFFF\r\n{" * (number % 2), 0.005)
    require_unharmed(live)


def test_headers_that_break_off_harm_nobody(live: LiveStudy) -> None:
    whole = request_text("POST", "/v1/visits", live.staff.token, b"{}", Idempotency_Key="k")
    ends = [1, 5, 17, 30, 60, 100, 200, len(whole) - 5]
    with ThreadPoolExecutor(8) as threads:
        list(
            threads.map(
                lambda number: abandon(live.server, whole[: ends[number % 8]], 0.01, reset=number > 12), range(24)
            )
        )
    require_unharmed(live)


def test_a_client_that_does_not_wait_for_its_answer_finds_all_or_nothing(live: LiveStudy) -> None:
    pid, waits = live.enrolled(), (0.0, 0.001, 0.003, 0.01)
    keys = [str(uuid4()) for _ in range(24)]

    def leave(number: int) -> None:
        body = json.dumps(visit_body(pid, number + 1)).encode()
        sent = request_text("POST", "/v1/visits", live.staff.token, body, Idempotency_Key=keys[number])
        abandon(live.server, sent, waits[number % 4], reset=number % 2 == 0)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(leave, range(len(keys))))
    require_unharmed(live)
    live.staff.post("/v1/visits", visit_body(pid, len(keys) + 1))  # the participant's others were before it
    kept = stored(live, pid)
    assert kept["visits"] == kept["entries"] == kept["records"]
    assert kept["unanswered"] == 0
    retried = [live.staff.post("/v1/visits", visit_body(pid, number + 1), key) for number, key in enumerate(keys)]
    assert {answer.status_code for answer in retried} == {201}
    assert sum("Idempotent-Replayed" in answer.headers for answer in retried) == kept["visits"] - 1
    assert stored(live, pid) == {"visits": 25, "entries": 25, "records": 25, "unanswered": 0}


def test_a_big_answer_that_nobody_reads_to_its_end_harms_nobody(live: LiveStudy) -> None:
    pid = live.enrolled()
    for number in range(60):
        live.staff.post("/v1/visits", {**visit_body(pid, number + 1), "deviation_reason": "long " * 700})
    sent = request_text("GET", "/v1/visits?limit=500", live.staff.token)
    with ThreadPoolExecutor(8) as threads:
        begun = list(threads.map(lambda n: abandon(live.server, sent, 0.002, read=100, reset=n % 2 == 0), range(TIMES)))
    assert all(part.startswith(b"HTTP/1.1 200") for part in begun)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: abandon(live.server, sent * 5, 0.0, reset=n % 2 == 0), range(TIMES)))
    require_unharmed(live)


def test_a_download_that_breaks_off_harms_nobody(live: LiveStudy) -> None:
    analyst, path = extract_of(live)
    sent = request_text("GET", f"{path}/files/codebook.json", analyst.token)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: abandon(live.server, sent, 0.001 * (n % 3), read=n % 2 * 64, reset=True), range(24)))
    require_unharmed(live)
    whole = analyst.get(f"{path}/files/codebook.json")
    assert whole.json()["columns"]


def parts_sent_to_somebody_who_leaves(world: World, path: str) -> int:
    """Parts of an answer that the server makes for a client that is gone after the first."""
    gone, parts = asyncio.Event(), 0
    asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Any:
        for message in asked:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal parts
        if message["type"] == "http.response.body" and message.get("body"):
            parts += 1
            gone.set()

    signed = [(b"authorization", f"Bearer {world.analyst.token}".encode()), (b"host", b"registry")]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET"}
    scope |= {"path": path, "raw_path": path.encode(), "query_string": b"", "headers": signed}
    asyncio.run(world.registry.app({**scope, "scheme": "http", "client": ("127.0.0.1", 1)}, receive, send))
    return parts


def test_a_download_is_not_read_on_for_a_client_that_has_left(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "SIZE", 100)
    file = f"{an_extract(world, approved=True)}/files/codebook.json"
    assert int(world.analyst.get(file).headers["Content-Length"]) > 50 * chunks.SIZE
    assert 1 <= parts_sent_to_somebody_who_leaves(world, file) <= 3


NOT_HTTP = {
    "noise": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no request line": b"\r\n\r\n\r\n",
    "HTTP/0.9": b"GET /v1/visits\r\n\r\n",
    "HTTP/9.9": b"GET /v1/visits HTTP/9.9\r\nHost: x\r\n\r\n",
    "NUL in a header": b"GET /v1/visits HTTP/1.1\r\nHost: x\r\nX-Y: a\0b\r\n\r\n",
    "two lengths": b"POST /v1/visits HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\n{}",
    "negative length": b"POST /v1/visits HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
    "length is a word": b"POST /v1/visits HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n{}",
    "length and chunks": b"POST /v1/visits HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk": b"POST /v1/visits HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n",
    "70 KB header": b"GET /v1/visits HTTP/1.1\r\nHost: x\r\nX-Y: " + b"a" * 70_000 + b"\r\n\r\n",
    "2 MB of headers": b"GET /v1/visits HTTP/1.1\r\nHost: x\r\n" + b"X-Y: aaaaaaaaaaaaa\r\n" * 100_000 + b"\r\n",
    "long address": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "unknown method": b"BREW /v1/visits HTTP/1.1\r\nHost: x\r\n\r\n",
    "TRACE": b"TRACE /v1/visits HTTP/1.1\r\nHost: x\r\n\r\n",
    "surrogate in the address": b"GET /v1/studies/%ED%A0%80/sites HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw bytes in the address": b"GET /v1/studies/\xff\xfe/sites HTTP/1.1\r\nHost: x\r\n\r\n",
    "raw bytes in the token": b"GET /v1/visits HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
    "raw bytes in the form": b"POST /v1/auth/token HTTP/1.1\r\nHost: x\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 24\r\n\r\ngrant_type=\xff\xfe&client_id=\x00",
}


@pytest.mark.parametrize("kind", NOT_HTTP)
def test_what_is_hardly_http_is_refused_or_dropped(live_server: LiveServer, kind: str) -> None:
    answer = exchange(live_server, NOT_HTTP[kind])
    assert answer == b"" or re.match(rb"HTTP/1\.1 4\d\d ", answer), answer[:300]
    assert live_server.process.poll() is None
    assert httpx.get(f"{live_server.base_url}/readyz", trust_env=False, timeout=60).status_code == 200


def test_a_body_over_the_limit_is_refused_before_it_is_read(live: LiveStudy) -> None:
    sent = request_text("POST", "/v1/visits", live.staff.token, Content_Length=str(10**12), Idempotency_Key="k")
    assert exchange(live.server, sent + b"{")[:12] == b"HTTP/1.1 413"
    head = request_text("POST", "/v1/visits", live.staff.token, Idempotency_Key="k")
    head = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    chunks = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    assert exchange(live.server, head + chunks * 20)[:12] == b"HTTP/1.1 413"
    require_unharmed(live)


def test_clients_that_open_and_say_nothing_keep_nobody_out(live: LiveStudy) -> None:
    silent = [connected(live.server) for _ in range(100)]
    try:
        require_unharmed(live)
    finally:
        for wire in silent:
            wire.close()
