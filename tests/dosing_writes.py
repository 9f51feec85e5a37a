"""Writes of dosing days and safety signals, to be made to fail at every statement; with the rows that each makes."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from httpx2 import Response

from tests.dosing_cases import (
    AMENDMENTS,
    REVIEW,
    SESSIONS,
    SIGNALS,
    a_session,
    a_session_to_close,
    a_signal,
    closing,
    dose,
    path_of,
    prepared,
    start,
    suicidal,
    vitals,
)
from tests.route_cases import Route, an_outcome
from tests.world import World

Send = Callable[[], Response]
Prepare = Callable[[World], Send]
AMENDED: dict[str, int] = {"audit_entry": 1}


def _post(world: World, path: str, body: Any) -> Send:
    key = str(uuid4())
    return lambda: world.staff_a.post(path, body, key)


def _patch(world: World, record: Response, path: str, change: Mapping[str, Any]) -> Send:
    tag = record.headers["ETag"]
    return lambda: world.staff_a.patch(path, {"reason": "typed wrongly", **change}, tag)


def _in_session(below: str, body: Mapping[str, Any], make: Callable[[World], Response] = a_session) -> Prepare:
    return lambda world: _post(world, path_of(make(world), below), body)


def _session_amended(below: str) -> Prepare:
    def prepare(world: World) -> Send:
        record = a_session_to_close(world)
        return _patch(world, record, path_of(record, below), AMENDMENTS[below])

    return prepare


def _triggered(world: World) -> Send:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled())).json()
    body = {"participant": visit["participant"], "visit": visit["id"], **suicidal()}
    return _post(world, "/v1/outcomes", body)


def _trigger_corrected(world: World) -> Send:
    record = an_outcome(world, "A")
    return _patch(world, record, f"/v1/outcomes/{record.json()['id']}", {"items": {"MADRS_10": 5}})


A_SESSION = f"{SESSIONS}/{{session_id}}"
DOSING: Mapping[Route, tuple[Prepare, dict[str, int]]] = {
    ("POST", "/v1/visits "): (
        lambda world: _post(world, "/v1/visits", world.visit(world.enrolled(), outcomes=[suicidal()])),
        {"visit": 1, "outcome": 1, "outcome_score": 1, "safety_signal": 1, "notification": 1, "audit_entry": 3},
    ),
    ("POST", "/v1/visits  "): (
        lambda world: _post(
            world,
            "/v1/visits",
            world.visit(world.enrolled(), "PREP1", therapy={"minutes": 90, "mode": "in_person", "staff": ["T01"]}),
        ),
        {"visit": 1, "therapy_session": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/outcomes "): (
        _triggered,
        {"outcome": 1, "outcome_score": 1, "safety_signal": 1, "notification": 1, "audit_entry": 2},
    ),
    ("POST", SESSIONS): (
        lambda world: _post(world, SESSIONS, start(prepared(world.staff_a, world.enrolled())["id"])),
        {"dosing_session": 1, "vital_reading": 1, "audit_entry": 2},
    ),
    ("POST", f"{A_SESSION}/doses"): (_in_session("/doses", dose()), {"dose": 1, "audit_entry": 1}),
    ("POST", f"{A_SESSION}/vitals"): (
        _in_session("/vitals", vitals("M60", "10:15", SYSBP=170)),
        {
            "vital_reading": 1,
            "safety_signal": 1,
            "notification": 2,
            "audit_entry": 3,
            "data_query": 1,
            "data_query_message": 1,
        },
    ),
    ("POST", f"{A_SESSION}/close"): (_in_session("/close", closing(), a_session_to_close), AMENDED),
    ("POST", f"{SIGNALS}/{{signal_id}}/review"): (
        lambda world: _post(world, f"{SIGNALS}/{a_signal(world).json()['id']}/review", REVIEW),
        AMENDED,
    ),
}
"""Of dosing sessions and safety signals; spaces at the end tell several requests of one route apart."""

CORRECTIONS: Mapping[Route, tuple[Prepare, dict[str, int]]] = {
    ("PATCH", "/v1/outcomes/{outcome_id} "): (
        _trigger_corrected,
        {"safety_signal": 1, "notification": 1, "audit_entry": 2},
    ),
    **{("PATCH", A_SESSION + below): (_session_amended(below), AMENDED) for below in AMENDMENTS},
}
"""Writes without a key."""
