"""What an operator's monitoring sees: readiness by part, figures of requests and state, and nothing of anybody."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import patch
from uuid import UUID, uuid4

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text
from sqlmodel import select

from app import schema
from app.models.base import now
from app.models.notification import Delivery
from app.models.sync import SyncOperation
from app.services.operations import backups, readiness
from tests.closing_cases import lock_of
from tests.hostile import exchange
from tests.office import Office
from tests.outbox_cases import a_subscription
from tests.server import ROOT, LiveServer, running_server
from tests.test_faults import exhausted, read_only
from tests.test_sync import act, sync
from tests.world import World, label

SECRET = "a secret for tests only"
SENT = {"Authorization": f"Bearer {SECRET}"}
NAME = re.compile(r"registry_[a-z_]+")


@pytest.fixture
def client(world: World) -> Iterator[TestClient]:
    """The world's registry with metrics open."""
    state = world.registry.app.state
    before = state.settings
    state.settings = before.model_copy(update={"metrics_token": SecretStr(SECRET)})
    yield world.registry.client
    state.settings = before


def figures(told: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in told.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_metrics_are_closed_without_their_secret(world: World, client: TestClient) -> None:
    for sent in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {world.admin.token}"}):
        assert client.get("/metrics", headers=sent).json()["code"] == "not_found"
    assert client.get("/metrics", headers=SENT).status_code == 200
    world.registry.app.state.settings = client.app.state.settings.model_copy(update={"metrics_token": None})  # type: ignore[attr-defined]
    assert client.get("/metrics", headers=SENT).status_code == 404


def test_requests_are_counted_by_route_and_never_by_what_was_sent(world: World, client: TestClient) -> None:
    mark, pid = label(), world.enrolled()
    counted = 'registry_requests_total{method="GET",route="/v1/participants/{pid}",status="200"}'
    before = figures(client.get("/metrics", headers=SENT).text).get(counted, 0)
    world.staff_a.get(f"/v1/participants/{pid}")
    client.request(f"X{mark}".upper(), f"/{mark}")
    client.get(f"/v1/{mark}?{mark}={mark}", headers={"X-Request-Id": mark, "User-Agent": mark})
    text = client.get("/metrics", headers=SENT).text
    assert figures(text)[counted] == before + 1
    assert 'method="other",route="unmatched"' in text
    for hidden in (mark, mark.upper(), pid, pid.replace("-", ""), world.study):
        assert hidden not in text


def test_an_overdue_serious_event_raises_its_figure_until_it_is_reported(world: World, client: TestClient) -> None:
    def overdue() -> float:
        return figures(client.get("/metrics", headers=SENT).text)["registry_serious_events_overdue"]

    before = overdue()
    body = world.event(world.enrolled(), criteria={"hospitalisation": True}, aware_at="2025-02-04T09:00:00Z")
    event = world.staff_a.post("/v1/adverse-events", body)
    assert overdue() == before + 1
    report = {"kind": "initial", "narrative": "As told", "late_reason": "entered after the fact"}
    told = world.staff_a.post(f"{event.headers['Location']}/reports", report)
    assert told.status_code == 201, told.text
    assert overdue() == before


def test_an_act_that_a_lock_holds_is_counted_apart_from_what_waits_for_other_acts(
    world: World, client: TestClient
) -> None:
    def acts() -> dict[str, float]:
        read = figures(client.get("/metrics", headers=SENT).text)
        return {state: read[f'registry_sync_operations{{state="{state}"}}'] for state in ("waiting", "held", "refused")}

    before, pid = acts(), world.enrolled()
    assert world.monitor.post("/v1/locks", lock_of(world, "A", kind="lock", participant=pid)).status_code == 201
    other, nobody = world.event(pid), world.event(f"@{uuid4()}")
    sync(world.staff_a, *(act("/v1/adverse-events", body) for body in (other, nobody, {})))
    assert acts() == {state: count + 1 for state, count in before.items()}


def test_the_oldest_act_that_is_not_stored_has_its_age_among_the_figures(world: World, client: TestClient) -> None:
    def oldest() -> float:
        return figures(client.get("/metrics", headers=SENT).text)["registry_sync_oldest_seconds"]

    wrong = act("/v1/visits", {})
    sync(world.staff_a, wrong)
    with world.registry.database.write() as session:
        came = session.exec(select(SyncOperation).where(SyncOperation.id == UUID(wrong["id"]))).one()
        came.created_at = now() - timedelta(days=300)
    assert oldest() == pytest.approx(300 * 86_400, abs=60)
    with world.registry.database.write() as session:
        session.exec(select(SyncOperation).where(SyncOperation.id == UUID(wrong["id"]))).one().created_at = now()
    assert oldest() < 299 * 86_400


def test_a_message_shows_how_long_it_waits_for_a_worker_and_how_old_it_is(world: World, client: TestClient) -> None:
    def waited() -> list[float]:
        found = figures(client.get("/metrics", headers=SENT).text)
        return [found[f"registry_delivery_{name}_seconds"] for name in ("late", "oldest")]

    Office(world)
    made = a_subscription(world)
    assert waited() == [0, 0]
    sent = world.admin.post(f"{made['path']}/test", {}).json()
    with world.registry.database.write() as session:
        message = session.get_one(Delivery, UUID(sent["id"]))
        message.created_at, message.next_attempt_at = now() - timedelta(hours=3), now() - timedelta(hours=1)
    assert waited() == [pytest.approx(3600, abs=60), pytest.approx(3 * 3600, abs=60)]
    with world.registry.database.write() as session:
        session.get_one(Delivery, UUID(sent["id"])).next_attempt_at = now() + timedelta(hours=1)
    assert waited() == [0, pytest.approx(3 * 3600, abs=60)]
    world.admin.patch(made["path"], {"disabled": True, "reason": "receiver is serviced"}, made["tag"])
    assert waited() == [0, 0]


def test_the_last_backup_is_dated_also_while_the_database_is_away(
    world: World, client: TestClient, tmp_path: Path
) -> None:
    def dated() -> float | None:
        return figures(client.get("/metrics", headers=SENT).text).get("registry_backup_timestamp_seconds")

    state = world.registry.app.state
    state.settings = state.settings.model_copy(update={"backup_folder": None})
    assert dated() is None
    state.settings = state.settings.model_copy(update={"backup_folder": tmp_path})
    assert dated() == 0
    if world.on_sqlite:
        for at in (now() - timedelta(days=1), now()):
            backups.make(world.registry.database, tmp_path / "database" / f"{at:%Y%m%d}", at)
        with exhausted(world):
            assert dated() == pytest.approx(at.timestamp(), abs=1)


def test_the_connections_in_use_stand_beside_those_allowed(world: World, client: TestClient) -> None:
    with exhausted(world):
        found = figures(client.get("/metrics", headers=SENT).text)
    pool_size = world.registry.app.state.settings.pool_size
    assert (found["registry_connections_in_use"], found["registry_connections_allowed"]) == (pool_size, pool_size)


def test_the_process_reports_its_own_metrics_while_the_database_is_unavailable(
    world: World, client: TestClient
) -> None:
    def told() -> dict[str, float]:
        answer = client.get("/metrics", headers=SENT)
        assert answer.status_code == 200
        return figures(answer.text)

    refused = 'registry_requests_total{method="GET",route="/readyz",status="503"}'
    before = told()
    with exhausted(world):
        assert client.get("/readyz").status_code == 503
        during = told()
    assert (before["registry_database_up"], during["registry_database_up"], told()["registry_database_up"]) == (1, 0, 1)
    assert during[refused] == before.get(refused, 0) + 1
    of_database = before.keys() - during.keys()
    assert {'registry_deliveries{state="dead"}', "registry_serious_events_overdue"} <= of_database


@pytest.mark.parametrize("file", ["alerts.yaml", "grafana-dashboard.json"])
def test_the_dashboard_and_the_alerts_ask_for_what_there_is(client: TestClient, file: str) -> None:
    client.get("/v1/me")  # there are figures of requests once there was one
    told = set(NAME.findall(client.get("/metrics", headers=SENT).text))
    asked = set(NAME.findall((ROOT / "deploy" / file).read_text()))
    assert len(asked) >= 6
    assert asked <= told


def test_an_alert_reports_an_extract_that_no_server_builds() -> None:
    waits = 'expr: registry_extracts{state="building"} > 0\n        for: 2h\n'
    assert waits in (ROOT / "deploy" / "alerts.yaml").read_text()


def test_readiness_names_what_is_lacking(world: World) -> None:
    client, file = world.registry.client, world.registry.app.state.settings.key_file
    well = dict.fromkeys(("database", "revision", "keys", "disk", "writable"), "ok")
    assert client.get("/readyz").json() == {"status": "ready", "checks": well}
    with patch.object(readiness, "ROOM", 1 << 80):
        told = client.get("/readyz")
        on_sqlite = world.on_sqlite
        assert (told.status_code, told.json().get("lacking")) == ((503, ["disk"]) if on_sqlite else (200, None))
    with stood_at(world, "0001"):
        assert client.get("/readyz").json()["lacking"] == ["revision"]
    with stood_at(world, "9999"):
        assert client.get("/readyz").status_code == 200, "a migration may run while the version before it serves"
    file.chmod(0o644)
    told = client.get("/readyz")
    file.chmod(0o600)
    assert (told.json()["code"], told.json()["lacking"]) == ("not_ready", ["keys"])
    assert client.get("/readyz").status_code == 200


@contextmanager
def stood_at(world: World, revision: str) -> Iterator[None]:
    """As after the migrations of another version only."""
    _note(world, revision)
    try:
        yield
    finally:
        _note(world, schema.head())


def _note(world: World, revision: str | None) -> None:
    with world.registry.database.migrating() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})


def test_a_registry_that_can_only_read_is_not_ready(world: World) -> None:
    """SQLite on a disk that was mounted anew after an error, PostgreSQL as a standby that nobody promoted."""
    read_only_disk = patch.object(readiness.os, "access", return_value=False)
    with read_only_disk if world.on_sqlite else read_only(world):
        told = world.registry.client.get("/readyz")
    assert (told.status_code, told.json().get("lacking")) == (503, ["writable"])
    assert world.registry.client.get("/readyz").status_code == 200


def test_a_monitor_that_asks_by_head_learns_the_same(world: World) -> None:
    """Uptime monitors and `wget --spider` do, and would otherwise call a registry dead that works (RFC 9110, 9.3.2)."""
    client = world.registry.client
    assert (client.head("/healthz").status_code, client.head("/readyz").status_code) == (200, 200)
    with patch.object(readiness, "writable", return_value=False):
        assert client.head("/readyz").status_code == 503
    refused = client.post("/healthz")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")


def test_the_workers_figures_are_added_up(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'registry.db'}"
    more = {"REGISTRY_METRICS_TOKEN": SECRET, "TMPDIR": str(tmp_path)}
    with running_server(tmp_path, database, workers=2, **more) as server:
        assert list(tmp_path.glob("registry-metrics-*"))
        for _ in range(20):
            httpx.get(f"{server.base_url}/healthz")
        text = httpx.get(f"{server.base_url}/metrics", headers=SENT).text
    assert figures(text)['registry_requests_total{method="GET",route="/healthz",status="200"}'] == 20
    assert not list(tmp_path.glob("registry-metrics-*")), "what a server put there goes with it"


def test_one_worker_needs_no_folder_for_its_figures(tmp_path: Path) -> None:
    more = {"REGISTRY_METRICS_TOKEN": SECRET, "TMPDIR": str(tmp_path)}
    with running_server(tmp_path, f"sqlite:///{tmp_path / 'registry.db'}", **more) as server:
        text = httpx.get(f"{server.base_url}/metrics", headers=SENT).text
        assert not list(tmp_path.glob("registry-metrics-*"))
    assert figures(text)["registry_requests_in_flight"] == 1


def test_the_log_about_bytes_that_are_no_request_is_json_too(live_server: LiveServer) -> None:
    before = live_server.log.read_text()
    exchange(live_server, b"nonsense\r\n\r\n")
    told = [json.loads(line) for line in live_server.log.read_text().removeprefix(before).splitlines()]
    (refused,) = [line for line in told if line["event"] == "Invalid HTTP request received."]
    assert (refused["level"], datetime.fromisoformat(refused["timestamp"]).tzname()) == ("warning", "UTC")


def test_a_machine_that_traces_every_program_gets_no_request(world: World) -> None:
    """The framework's own spans hold the path, which holds a pid, and the query string."""
    with patch("opentelemetry.trace.get_tracer_provider") as provider:
        assert world.staff_a.get(f"/v1/participants/{world.enrolled()}").status_code == 200
        provider.return_value.get_tracer.assert_not_called()
