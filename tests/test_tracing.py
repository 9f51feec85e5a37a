"""Traces have the route, the time and the result of a request, and no data of people."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from app.main import create_app
from app.settings import Settings
from app.web.tracing import TOLD, TracingUnavailable
from tests.world import World, label

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector(ThreadingHTTPServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.received: list[bytes] = []
        self.address = f"http://127.0.0.1:{self.server_port}/v1/traces"

    def spans(self) -> list[Span]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.received]
        return [
            span
            for one in requests
            for kept in one.resource_spans
            for scope in kept.scope_spans
            for span in scope.spans
        ]


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.received.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def traced(world: World, collector: Collector) -> Iterator[TestClient]:
    """The world's registry served once more, with traces; they have left when its lifespan ends."""
    with served(world, traces_endpoint=collector.address) as client:
        yield client


@contextmanager
def served(world: World, **settings: str) -> Iterator[TestClient]:
    with TestClient(create_app(world.registry.app.state.settings.model_copy(update=settings))) as client:
        yield client


def test_spans_name_routes_and_nothing_that_was_sent(world: World, traced: TestClient, collector: Collector) -> None:
    mark, pid = label(), world.enrolled()
    sent = {
        "Authorization": f"Bearer {world.staff_a.token}",
        "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
        "tracestate": f"site={mark}",
        "baggage": f"label={mark}",
        "User-Agent": mark,
    }
    assert traced.get(f"/v1/participants/{pid}", headers=sent).status_code == 200
    assert traced.get(f"/v1/visits?participant={pid}&{mark}={mark}", headers=sent).status_code == 422
    assert traced.post("/v1/visits", json={"participant": mark}, headers=sent).status_code == 400
    traced.request(f"X{mark}".upper(), f"/v1/{mark}?{mark}={mark}", headers=sent)
    traced.app.state.traced.force_flush()  # type: ignore[attr-defined]

    spans, raw = collector.spans(), b"".join(collector.received)
    told = {(span.name, span.trace_id.hex()) for span in spans}
    assert {
        (name, TRACE) for name in ("GET /v1/participants/{pid}", "GET /v1/visits", "POST /v1/visits", "HTTP")
    } <= told
    assert {attribute.key for span in spans for attribute in span.attributes} <= TOLD
    assert not [span for span in spans if span.trace_state or span.events or span.links or span.status.message]
    for hidden in (mark, mark.upper(), pid, pid.replace("-", ""), world.study):
        assert hidden.encode() not in raw


def test_a_failure_is_logged_by_its_type(
    world: World, traced: TestClient, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError(mark)

    mark, pid = label(), world.enrolled()
    monkeypatch.setattr("app.routers.participants.participants.read_one", broken)
    sent = {"Authorization": f"Bearer {world.staff_a.token}"}
    assert traced.get(f"/v1/participants/{pid}", headers=sent).status_code == 500
    traced.app.state.traced.force_flush()  # type: ignore[attr-defined]
    [span] = [span for span in collector.spans() if span.name == "GET /v1/participants/{pid}"]
    assert {"http.response.status_code", "error.type"} <= {attribute.key for attribute in span.attributes}
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert mark.encode() not in b"".join(collector.received)


def test_a_log_line_names_its_trace_where_traces_are_made(
    world: World, collector: Collector, capfd: pytest.CaptureFixture[str]
) -> None:
    for more in ({}, {"traces_endpoint": collector.address}):
        with served(world, log_level="info", **more) as client:
            client.get("/healthz", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert [line.get("trace") for line in lines if line["event"] == "request"] == [None, TRACE]


def test_a_collector_that_is_away_costs_no_request(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1")  # seconds until it is given up at the end
    with served(world, traces_endpoint="http://127.0.0.1:9/v1/traces") as client:
        assert client.get("/healthz").status_code == 200


def test_asking_for_traces_without_their_packages_says_what_to_do(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    settings = Settings(environment="demo", key_file=key_file, traces_endpoint="http://collector:4318/v1/traces")
    with pytest.raises(TracingUnavailable, match="extra `tracing`"):
        create_app(settings)
