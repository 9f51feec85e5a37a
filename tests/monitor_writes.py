"""What is written at a monitor's desk, to be made to fail at every statement; with the rows that each write makes."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from httpx2 import Response

from tests.closing_cases import a_lock, a_verification, lock_of, verification_of
from tests.monitor_cases import a_question, a_review, a_serious_event, an_event, question_about
from tests.route_cases import Route
from tests.world import Caller, World

Send = Callable[[], Response]
Prepare = Callable[[World], Send]


def _post(caller: Caller, path: str, body: Any) -> Send:
    key = str(uuid4())
    return lambda: caller.post(path, body, key)


def _below_event(caller: str, below: str, body: Mapping[str, Any]) -> Prepare:
    return lambda world: _post(
        getattr(world, caller), f"{a_serious_event(world, 'A').headers['Location']}/{below}", body
    )


MONITORING: Mapping[Route, tuple[Prepare, dict[str, int]]] = {
    ("POST", "/v1/adverse-events/{event_id}/reports"): (
        _below_event("staff_a", "reports", {"kind": "initial"}),
        {"sae_report": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/adverse-events/{event_id}/reviews"): (
        _below_event("monitor", "reviews", {"kind": "acknowledged", "version": 1}),
        {"ae_review": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/adverse-events/{event_id}/reviews/{number}/withdrawal"): (
        lambda world: _post(world.monitor, f"{a_review(world, 'A')}/withdrawal", {"reason": "the wrong event"}),
        {"ae_review_withdrawal": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/data-queries"): (
        lambda world: _post(world.monitor, "/v1/data-queries", question_about(an_event(world, "A").json())),
        {"data_query": 1, "data_query_message": 1, "notification": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/data-queries/bulk"): (
        lambda world: _post(
            world.monitor,
            "/v1/data-queries/bulk",
            [question_about(an_event(world, site).json()) for site in ("A", "B", "A")],
        ),
        {"data_query": 3, "data_query_message": 3, "notification": 3, "audit_entry": 3},
    ),
    ("POST", "/v1/data-queries/{query_id}/answers"): (
        lambda world: _post(world.staff_a, f"{a_question(world, 'A')}/answers", {"text": "Checked"}),
        {"data_query_message": 1, "notification": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/data-queries/{query_id}/closure"): (
        lambda world: _post(
            world.monitor, f"{a_question(world, 'A')}/closure", {"decision": "cancel", "reason": "asked wrongly"}
        ),
        {"data_query_message": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/locks"): (
        lambda world: _post(world.monitor, "/v1/locks", lock_of(world, "A")),
        {"data_lock": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/locks/{lock_id}/lifting"): (
        lambda world: _post(
            world.monitor, f"{a_lock(world, 'A').headers['Location']}/lifting", {"reason": "a late page came in"}
        ),
        {"audit_entry": 1},
    ),
    ("POST", "/v1/verifications"): (
        lambda world: _post(world.monitor, "/v1/verifications", verification_of(world, "A")),
        {"verification": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/verifications/{verification_id}/withdrawal"): (
        lambda world: _post(
            world.monitor,
            f"{a_verification(world, 'A').headers['Location']}/withdrawal",
            {"reason": "the wrong record"},
        ),
        {"verification_withdrawal": 1, "audit_entry": 1},
    ),
}
