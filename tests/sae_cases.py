"""Serious events and a clock that is set by hand."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from httpx2 import Response

import app.models.base
from tests.monitor_cases import shown
from tests.world import World

NOON = datetime(2026, 3, 27, 12, tzinfo=UTC)
"""A Friday; on the Sunday after it clocks go forward in Berlin."""


class Clockwork:
    """The server's clock, set by hand."""

    def __init__(self) -> None:
        self.at = NOON

    def later(self, **by: float) -> datetime:
        self.at += timedelta(**by)
        return self.at


def set_clock(monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    """`now` wherever a service looks at the clock."""
    work = Clockwork()
    safety = (f"safety.{name}" for name in ("adverse_events", "ae_lists", "ae_reviews", "sae_reports"))
    services = (*safety, "operations.gauges", "quality.monitoring")
    for module in ("audit", "routers.sae", "writing", *(f"services.{name}" for name in services)):
        monkeypatch.setattr(f"app.{module}.now", lambda: work.at)
    monkeypatch.setattr(app.models.base, "now", lambda: work.at)
    return work


def serious(world: World, clock: Clockwork, **changes: Any) -> Response:
    """A serious event at site A, of which the site became aware an hour ago."""
    body = world.event(world.enrolled(), aware_at=shown(clock.at - timedelta(hours=1)), **changes)
    answer = world.staff_a.post("/v1/adverse-events", {"criteria": {"hospitalisation": True}, **body})
    assert answer.status_code == 201, answer.text
    return answer


def path(event: Response) -> str:
    return event.headers["Location"]


def amend(world: World, event: Response, **change: Any) -> Response:
    seen = world.staff_a.get(path(event)).headers["ETag"]
    answer = world.staff_a.patch(path(event), {"reason": "typed wrongly", **change}, seen)
    assert answer.is_success, answer.text
    return answer


def report(world: World, event: Response, kind: str = "initial", **more: Any) -> dict[str, Any]:
    answer = world.staff_a.post(f"{path(event)}/reports", {"kind": kind, **more})
    assert answer.status_code == 201, answer.text
    read: dict[str, Any] = answer.json()
    return read


def ask(world: World, event: Response, *, days: float, version: int = 1) -> Response:
    """Ask for information, to be given within some days of noon of the first day."""
    due_at = shown(NOON + timedelta(days=days))
    body = {"kind": "information_request", "version": version, "comment": "Discharge letter", "due_at": due_at}
    answer = world.monitor.post(f"{path(event)}/reviews", body)
    assert answer.status_code == 201, answer.text
    return answer


def running(world: World, event: Response) -> list[tuple[str, str]]:
    """Codes and states of the event's clocks."""
    return [(item["code"], item["state"]) for item in world.monitor.get(f"{path(event)}/clocks").json()["items"]]


def urgent(world: World, kind: str, **query: Any) -> list[str]:
    """Ids of the events of this study that the summary puts under a heading."""
    read = world.monitor.get("/v1/monitoring/summary", study=world.study, **query).json()
    return [item["adverse_event"] for item in read[kind]]
