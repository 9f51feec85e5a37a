"""The shipped configuration of nginx, tried with a real one before a served registry: at the root of a host with
PostgreSQL, below a path with SQLite. Restarts of two instances behind it: `python -m bench.rolling`."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from app.errors import BodyTooLarge, NoAnswer, RegistryError, TooManyRequests
from tests.hostile import LiveStudy
from tests.nginx import HOST, PROGRAM, Proxy, behind_nginx
from tests.server import free_port, served
from tests.unharmed import extract_of, visit_body

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="nginx is not installed")
PATHS = {"sqlite": "/registry", "postgresql": ""}
HSTS = "Strict-Transport-Security"


@pytest.fixture(scope="module", params=PATHS)
def proxied(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Proxy, LiveStudy]]:
    """nginx, and a study that is reached through it."""
    folder, path = tmp_path_factory.mktemp("proxied"), PATHS[request.param]
    postgres = request.getfixturevalue("postgres_url") if request.param == "postgresql" else None
    with (
        served(folder, postgres, REGISTRY_ROOT_PATH=path, REGISTRY_HSTS_SECONDS="60") as server,
        behind_nginx(folder, [server.base_url], path) as proxy,
        proxy.client() as http,
    ):
        yield proxy, LiveStudy(server, http)


@pytest.fixture
def proxy(proxied: tuple[Proxy, LiveStudy]) -> Proxy:
    return proxied[0]


@pytest.fixture
def live(proxied: tuple[Proxy, LiveStudy]) -> LiveStudy:
    return proxied[1]


@pytest.fixture
def in_vain(tmp_path: Path) -> Iterator[httpx.Client]:
    """A client of an nginx behind which nobody listens."""
    with behind_nginx(tmp_path, [f"http://127.0.0.1:{free_port()}"]) as proxy, proxy.client() as http:
        yield http


def require_document(answer: httpx.Response, refusal: type[RegistryError], path: str = "") -> None:
    """nginx says what the registry would."""
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.headers["Cache-Control"] == "no-store"
    told = answer.json()
    assert len(told.pop("request_id")) == 32
    assert answer.status_code == refusal.status
    assert told == {
        "type": f"{path}/v1/problems/{refusal.code()}",
        "title": refusal.title,
        "status": refusal.status,
        "code": refusal.code(),
        "detail": refusal.detail(),
        "instance": f"{path}/",
        "errors": [],
    }
    assert refusal.status not in {429, 503} or int(answer.headers["Retry-After"]) >= 1


def test_a_request_without_tls_is_redirected_to_the_name_of_the_host(proxy: Proxy) -> None:
    asked = httpx.get(f"http://127.0.0.1:{proxy.plain_port}/v1/me?a=b", headers={"Host": "evil.example"})
    assert (asked.status_code, asked.headers["Location"]) == (308, f"https://{HOST}/v1/me?a=b")


def test_each_header_is_said_once_and_a_request_keeps_its_name(live: LiveStudy) -> None:
    name = str(uuid4())
    answer = live.http.get("/healthz", headers={"X-Request-Id": name})
    for header in (HSTS, "X-Request-Id", "Cache-Control", "X-Content-Type-Options"):
        assert len(answer.headers.get_list(header)) == 1, header
    assert answer.headers["X-Request-Id"] == name
    assert len(live.http.get("/healthz", headers={"X-Request-Id": "Jane"}).headers["X-Request-Id"]) == 32
    assert answer.headers["Server"] == "nginx"


def test_addresses_in_answers_lead_through_the_proxy(proxy: Proxy, live: LiveStudy) -> None:
    made = live.staff.post("/v1/participants", live.enrolment())
    assert made.headers["Location"].startswith(f"{proxy.path}/v1/participants/")
    assert live.staff.get(made.headers["Location"]).json()["pid"] == made.json()["pid"]
    refused = live.staff.get(f"/v1/visits/{uuid4()}").json()
    assert live.http.get(refused["type"]).json()["code"] == refused["code"]
    described = live.http.get("/v1/openapi.json").json()
    assert described.get("servers", [{"url": ""}])[0]["url"] == proxy.path
    assert all(live.http.get(page).is_success for page in ("/docs", "/docs/start.js", "/docs/swagger-ui.css"))


def test_a_guesser_cannot_pose_as_another_address(live: LiveStudy) -> None:
    claimed = {"X-Forwarded-For": "203.0.113.7", "X-Real-IP": "203.0.113.7", "Forwarded": "for=203.0.113.7"}
    wrong = {"username": live.server.admin_username, "password": "a wrong password"}
    assert live.http.post("/v1/auth/sessions", json=wrong, headers=claimed).status_code == 401
    [entry] = live.admin.get("/v1/audit-entries", action="session:refused").json()["items"]
    assert ("127.0.0.0/24" in str(entry), "203.0.113" in str(entry)) == (True, False)


def test_a_body_that_is_too_large_is_refused_and_a_large_upload_is_not(proxy: Proxy, live: LiveStudy) -> None:
    large = live.staff.raw("POST", "/v1/participants", b" " * 2**21)
    require_document(large, BodyTooLarge, proxy.path)
    pid = live.enrolled()
    lines = [{"key": str(uuid4()), "record": visit_body(pid, number)} for number in range(1, 401)]
    sent = "\n".join(json.dumps(line) + " " * 5_000 for line in lines).encode()
    assert len(sent) > 2**20
    told = live.staff.raw("POST", "/v1/visits/bulk", sent, **{"Content-Type": "application/x-ndjson"})
    assert (told.status_code, told.text.count('"created"')) == (200, 400)


def test_downloads_come_whole_and_in_parts(live: LiveStudy) -> None:
    analyst, path = extract_of(live)
    whole = live.http.get(f"{path}/files/bundle.zip", headers=analyst.headers())
    assert whole.status_code == 200
    part = live.http.get(f"{path}/files/bundle.zip", headers=analyst.headers(Range="bytes=100-199"))
    assert (part.status_code, part.content) == (206, whole.content[100:200])
    assert part.headers["Repr-Digest"] == whole.headers["Repr-Digest"]
    assert part.headers["ETag"] == whole.headers["ETag"]
    assert not part.headers["ETag"].startswith("W/")


def test_changes_are_sent_at_once(live: LiveStudy) -> None:
    """No buffer of nginx holds an event back, nor what somebody waits for."""
    place = live.staff.get("/v1/changes").json()["next"]
    heard: dict[str, float] = {}
    opened = threading.Event()

    def streamed() -> None:
        asked = {"after": place}
        headers = live.staff.headers(Accept="text/event-stream")
        with live.http.stream("GET", "/v1/changes", params=asked, headers=headers) as stream:
            for line in stream.iter_lines():
                opened.set()
                if line.startswith("data:"):
                    heard["stream"] = time.monotonic()
                    return

    def waited() -> None:
        assert live.staff.get("/v1/changes", after=place, wait=20).json()["items"]
        heard["poll"] = time.monotonic()

    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(streamed), threads.submit(waited)]
        assert opened.wait(10)
        time.sleep(0.3)
        live.enrolled()
        stored = time.monotonic()
        for one in asked:
            one.result(30)
    assert max(heard.values()) - stored < 5


def test_an_unavailable_registry_is_answered_in_the_registrys_form(in_vain: httpx.Client) -> None:
    require_document(in_vain.get("/v1/me"), NoAnswer)
    require_document(in_vain.post("/v1/auth/token", data={}), NoAnswer)


def test_a_registry_that_does_not_answer_is_not_asked_twice(tmp_path: Path) -> None:
    """It may be at work still."""
    asked = 0
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:

        def accept() -> None:
            nonlocal asked
            kept = []
            while True:
                try:
                    kept.append(silent.accept())
                except OSError:
                    return
                asked += 1

        threading.Thread(target=accept, daemon=True).start()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        slower = {"proxy_read_timeout": "2s", "proxy_next_upstream_timeout": "1s"}
        with behind_nginx(tmp_path, [address], **slower) as proxy, proxy.client() as http:
            require_document(http.post("/v1/visits", json={}), NoAnswer)
    assert asked == 1


def test_fifty_tablets_behind_one_address_sign_in_and_one_who_floods_does_not(in_vain: httpx.Client) -> None:
    def come(number: int) -> httpx.Response:
        return in_vain.post("/v1/auth/token", data={}, headers={"X-Forwarded-For": f"203.0.113.{number}"})

    with ThreadPoolExecutor(50) as threads:
        site = list(threads.map(come, range(3 * 50)))
        flood = list(threads.map(come, range(100)))
    assert {answer.status_code for answer in site} == {503}
    refused = [answer for answer in flood if answer.status_code == 429]
    assert len(refused) > 50
    require_document(refused[0], TooManyRequests)
    assert in_vain.get("/v1/me").status_code == 503  # who signs in too often may still work


def test_what_fifty_tablets_kept_is_sent_at_once(in_vain: httpx.Client) -> None:
    with ThreadPoolExecutor(50) as threads:
        told: Counter[Any] = Counter(threads.map(lambda _: in_vain.get("/v1/me").status_code, range(50 * 10)))
    assert told == {503: 500}


def test_nginx_logs_no_address_of_a_request(tmp_path: Path) -> None:
    with behind_nginx(tmp_path, [f"http://127.0.0.1:{free_port()}"]) as proxy, proxy.client() as http:
        assert http.get("/v1/participants/K3N7-Q2XB").status_code == 503
        assert http.post("/v1/participants/K3N7-Q2XB", content=b" " * 2**21).status_code == 413
    assert not [log for log in tmp_path.glob("*.log") if "K3N7" in log.read_text()]
