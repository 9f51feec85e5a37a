"""A participant's course as tests bring it about and read it."""

from datetime import datetime
from typing import Any

import pytest
from httpx2 import Response

from tests.world import World


def at(monkeypatch: pytest.MonkeyPatch, moment: datetime) -> None:
    """The server's clock, as the schedule reads it."""
    monkeypatch.setattr("app.services.assessments.schedules.now", lambda: moment)


def held(world: World, pid: str, code: str, on: str, **more: Any) -> Response:
    body = world.visit(pid, code, on, deviation_reason="in this test", **more)
    answer = world.staff_a.post("/v1/visits", body)
    assert answer.status_code == 201, answer.text
    return answer


def planned(world: World, pid: str) -> dict[str, dict[str, Any]]:
    """First occurrences, by visit code."""
    read = world.monitor.get(f"/v1/participants/{pid}/schedule").json()
    return {item["visit_code"]: item for item in read["items"] if item["occurrence"] == 1}


def given(on: str) -> dict[str, Any]:
    return {"version": "1", "given_on": on, "scopes": ["data_sharing", "long_follow_up", "main"]}


def left(world: World, pid: str, status: str, on: str, **more: Any) -> None:
    """A change of status, mostly to an end."""
    body = {"status": status, "effective_on": on, "reason": "told us by telephone", **more}
    answer = world.staff_a.post(f"/v1/participants/{pid}/status", body)
    assert answer.status_code == 201, answer.text


def withdraw(world: World, pid: str, scope: str, on: str) -> Response:
    body = {"scope": scope, "effective_on": on, "reason": "told us by telephone"}
    answer = world.staff_a.post(f"/v1/participants/{pid}/withdrawals", body)
    assert answer.status_code == 201, answer.text
    return answer
