"""The headers of every answer, the bounds on those of a request, and what browsers are allowed."""

import socket
from collections.abc import Iterator, Mapping

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import ValidationError

from app.main import create_app
from app.settings import Settings
from tests.hostile import live_study
from tests.hostile_requests import NAMES, Targets
from tests.ready import Requests
from tests.route_cases import PUBLIC, Route
from tests.server import LiveServer
from tests.test_permissions import MATRIX, caller_of
from tests.world import Caller, Registry, World

SAFE: Mapping[str, str] = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}
LEAKS = ("traceback", "sqlalchemy", "pydantic", "starlette", "psycopg", "sqlite3", 'file "')
PAGE = "https://desk.example.org"


def require_contract(answer: Response, status: int) -> None:
    """What holds for every answer: safe headers, one request id, one shape of refusals, no word of what we run on."""
    assert answer.status_code == status, answer.text
    held = {name: answer.headers[name] for name in SAFE}
    assert held == {**SAFE, "cache-control": held["cache-control"]}
    assert "no-store" in held["cache-control"]
    assert len(answer.headers.get_list("x-request-id")) == 1
    assert "server" not in answer.headers
    if status >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert not [leak for leak in LEAKS if leak in answer.text.lower()]


@pytest.fixture(scope="module")
def requests(registry: Registry) -> Requests:
    return Requests(World(registry))


@pytest.mark.by_turns
@pytest.mark.parametrize("route", MATRIX, ids=" ".join)
def test_success_401_and_403_keep_the_contract_on_every_route(requests: Requests, route: Route) -> None:
    world = requests.world
    require_contract(requests.refused(route, Caller(world.registry.client, "not-a-token")), 401)
    require_contract(requests.refused(route, world.nobody), 403)
    good = requests.admitted(route, caller_of(world, min(MATRIX[route])))
    require_contract(good, good.status_code)
    assert good.is_success


@pytest.fixture(scope="module")
def targets(registry: Registry) -> Targets:
    return Targets(World(registry))


@pytest.mark.by_turns
@pytest.mark.parametrize("name", NAMES)
def test_refusals_of_bodies_keep_the_contract_on_every_route_that_takes_one(targets: Targets, name: str) -> None:
    target = targets[name]
    require_contract(target.send(b"{"), 400)
    require_contract(target.send(b"{}", **{"Content-Type": "text/plain"}), 415)
    require_contract(target.send(b" " * (1024 * 1024 + 1)), 413)
    require_contract(target.send_json({"no_such_field": 1}), 422)
    if target.method == "PATCH":
        require_contract(target.send_json(target.body, **{"If-Match": '"stale"'}), 412)
        require_contract(target.caller.patch(target.path, dict(target.body)), 428)


def addresses(registry: Registry) -> dict[str, set[str]]:
    """Every address with all its methods; parameters are filled with something."""
    found: dict[str, set[str]] = {}
    for context in iter_route_contexts(registry.app.routes):
        if getattr(context.original_route, "dependant", None) is not None and context.path is not None:
            found.setdefault(context.path, set()).update(context.methods or ())
    return found


@pytest.mark.by_turns
@pytest.mark.parametrize("method", ["PUT", "DELETE", "TRACE", "OPTIONS", "BREW"])
def test_the_refusal_of_a_method_names_all_that_are_allowed(registry: Registry, method: str) -> None:
    all_addresses = addresses(registry)
    assert max(len(methods) for methods in all_addresses.values()) > 1
    for path, methods in all_addresses.items():
        if method in methods:
            continue
        answer = registry.client.request(method, path.replace("{", "").replace("}", ""))
        require_contract(answer, 405)
        assert methods <= set(answer.headers["allow"].split(", ")), path
    assert registry.client.request(method, "/v1/visits").headers["allow"] == "GET, HEAD, POST"
    assert registry.client.request(method, "/v1/visits/1").headers["allow"] == "GET, HEAD, PATCH"


def test_head_is_answered_like_get_without_the_body(live_server: LiveServer) -> None:
    """RFC 9110, sections 9.1 and 9.3.2: programs ask so how long a file is that they will read in parts. On one
    connection, as a body that nobody expects, or one that never ends, would be found by the next answer."""
    with live_study(live_server) as live:
        pid = live.enrolled()
        signed = {"Authorization": f"Bearer {live.staff.token}"}
        people = "/v1/participants"
        paths = (f"{people}/{pid}", people, f"{people}/none", "/v1/changes", "/v1/openapi.json")
        kept = httpx.Limits(max_connections=1)
        with httpx.Client(base_url=live_server.base_url, headers=signed, limits=kept, timeout=60) as client:
            for path in paths:
                head, got = client.head(path), client.get(path)
                assert head.status_code == got.status_code
                of_both = {"content-type", "content-length", "etag", "link"}
                assert {name: head.headers.get(name) for name in of_both} == {
                    name: got.headers.get(name) for name in of_both
                }, path
            stream = client.head("/v1/changes", headers={"Accept": "text/event-stream"})
            assert stream.headers["content-type"].startswith("text/event-stream")
            assert client.head(people, headers={"Authorization": "Bearer x"}).status_code == 401
            assert client.head("/v1/auth/sessions").headers["allow"] == "POST"


def test_public_routes_and_unknown_addresses_keep_the_contract(registry: Registry) -> None:
    for method, path in sorted(PUBLIC):
        if method == "GET" and "{" not in path and not path.startswith("/docs"):  # pages: tests/test_docs_page.py
            require_contract(registry.client.get(path), 404 if path == "/metrics" else 200)  # closed without a token
    require_contract(registry.client.get("/v1/nothing-here"), 404)
    require_contract(registry.client.get("/"), 404)


@pytest.mark.parametrize("sent", ["AB-123", "L4711", "x" * 32, "4b1d7f6e-0c1a-4f2b-8e3d", "a person"])
def test_a_request_id_is_no_place_for_a_label(registry: Registry, sent: str) -> None:
    assert registry.client.get("/healthz", headers={"X-Request-Id": sent}).headers["x-request-id"] != sent


def test_a_request_id_of_ones_own_is_kept(registry: Registry) -> None:
    for sent in ("4b1d7f6e-0c1a-4f2b-8e3d-5a6b7c8d9e0f", "4b1d7f6e0c1a4f2b8e3d5a6b7c8d9e0f"):
        assert registry.client.get("/healthz", headers={"X-Request-Id": sent}).headers["x-request-id"] == sent


def test_headers_and_addresses_are_bounded(registry: Registry, world: World) -> None:
    limits = registry.app.state.settings
    client = registry.client
    for headers in ({"X-Long": "x" * limits.max_header_bytes}, {f"X-{number}": "x" * 90 for number in range(200)}):
        require_contract(client.get("/healthz", headers=headers), 431)
    require_contract(client.get("/healthz?" + "q" * limits.max_target_bytes), 414)
    require_contract(client.get("/" + "p" * limits.max_target_bytes), 414)
    assert client.get("/healthz", headers={"X-Long": "x" * (limits.max_header_bytes - 1000)}).status_code == 200
    assert client.get("/healthz", headers={"Authorization": "Bearer " + "x" * 4096}).status_code == 200


def test_a_server_refuses_endless_headers_and_answers_the_next(live_server: LiveServer) -> None:
    host, port = live_server.base_url.removeprefix("http://").split(":")
    for size, expected in ((20_000, b"431"), (200_000, b"400")):
        with socket.create_connection((host, int(port)), timeout=10) as wire:
            try:
                wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * size + b"\r\n\r\n")
                answer = wire.recv(4096)
            except ConnectionError:  # the server may hang up while it is still sent to
                answer = b"HTTP/1.1 400"
        assert answer.split(b" ")[1] == expected
    with socket.create_connection((host, int(port)), timeout=10) as wire:
        wire.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = wire.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"\r\nserver:" not in answer.lower()


@pytest.fixture(scope="module")
def behind_https(registry: Registry) -> Iterator[TestClient]:
    """The same registry, told that HTTPS is for good and that one page may call it."""
    settings: Settings = registry.app.state.settings
    changed = settings.model_copy(update={"hsts_seconds": 31_536_000, "cors_origins": PAGE})
    with TestClient(create_app(changed)) as client:
        yield client


def test_https_is_demanded_where_the_operator_says_so(registry: Registry, behind_https: TestClient) -> None:
    assert "strict-transport-security" not in registry.client.get("/healthz").headers
    for path in ("/healthz", "/v1/me", "/nothing"):
        assert behind_https.get(path).headers["strict-transport-security"] == "max-age=31536000"


def asked_by(client: TestClient, origin: str, method: str = "OPTIONS", sends: str = "idempotency-key") -> Response:
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    return client.request(method, "/v1/me", headers={**asks, "Access-Control-Request-Headers": sends})


def test_no_page_may_call_unless_its_origin_was_named(registry: Registry, behind_https: TestClient) -> None:
    for client, origin in ((registry.client, PAGE), (behind_https, "https://evil.example"), (behind_https, "null")):
        for method in ("OPTIONS", "GET"):
            assert "access-control-allow-origin" not in asked_by(client, origin, method).headers


def test_a_named_page_may_call_and_read_refusals_but_never_with_cookies(behind_https: TestClient) -> None:
    preflight = asked_by(behind_https, PAGE)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, PAGE)
    assert "Idempotency-Key" in preflight.headers["access-control-allow-headers"]
    refused = asked_by(behind_https, PAGE, "GET")
    require_contract(refused, 401)
    assert refused.headers["access-control-allow-origin"] == PAGE
    assert "ETag" in refused.headers["access-control-expose-headers"]
    for answer in (preflight, refused):
        assert "access-control-allow-credentials" not in answer.headers


def test_a_named_page_may_use_every_method_of_the_api(behind_https: TestClient) -> None:
    for method in ("GET", "HEAD", "PATCH", "POST"):
        asks = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization"}
        assert behind_https.options("/v1/me", headers={"Origin": PAGE, **asks}).status_code == 200, method


def test_a_named_page_may_send_every_header_that_the_api_reads(behind_https: TestClient) -> None:
    routes = behind_https.get("/v1/openapi.json").json()["paths"].values()
    asked = [asked for route in routes for one in route.values() for asked in one.get("parameters", [])]
    named = {one["name"] for one in asked if one["in"] == "header"}
    assert {"If-Match", "Last-Event-ID"} <= named
    for header in named | {"Authorization", "Content-Type", "Range", "If-Range"}:
        assert asked_by(behind_https, PAGE, sends=header.lower()).status_code == 200, header


@pytest.mark.parametrize(
    "origins", ["*", "null", "http://desk.example.org", f"{PAGE}/", f"{PAGE} https://b.example", "desk"]
)
def test_origins_that_are_not_exact_are_refused_at_the_start(origins: str) -> None:
    with pytest.raises(ValidationError, match="REGISTRY_CORS_ORIGINS"):
        Settings(cors_origins=origins)
