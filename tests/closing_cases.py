"""Locks and verifications: a valid request for each of their routes."""

from collections.abc import Mapping
from typing import Any

from httpx2 import Response

from tests.monitor_cases import an_event
from tests.world import Case, World, posted_below, read_of


def lock_of(world: World, site: str, **changes: Any) -> dict[str, Any]:
    """A valid freeze of a new participant."""
    about = {"kind": "freeze", "study": world.study, "participant": world.enrolled(site)}
    return {**about, "reason": "cleaning for the interim look", **changes}


def a_lock(world: World, site: str) -> Response:
    """A freeze that the monitor of the study set."""
    answer = world.monitor.post("/v1/locks", lock_of(world, site))
    assert answer.status_code == 201, answer.text
    return answer


def verification_of(world: World, site: str, **changes: Any) -> dict[str, Any]:
    """A valid verification of a new adverse event."""
    event = an_event(world, site).json()
    return {"subject_type": "adverse_event", "subject": event["id"], "version": 1, "result": "verified", **changes}


def a_verification(world: World, site: str) -> Response:
    """An adverse event that the monitor of the study verified."""
    answer = world.monitor.post("/v1/verifications", verification_of(world, site))
    assert answer.status_code == 201, answer.text
    return answer


CLOSING_CASES: Mapping[tuple[str, str], Case] = {
    ("POST", "/v1/locks"): lambda world, caller, site: caller.post("/v1/locks", lock_of(world, site)),
    ("GET", "/v1/locks/{lock_id}"): read_of(a_lock),
    ("POST", "/v1/locks/{lock_id}/lifting"): posted_below(a_lock, "lifting", {"reason": "a late page came in"}),
    ("POST", "/v1/verifications"): lambda world, caller, site: caller.post(
        "/v1/verifications", verification_of(world, site)
    ),
    ("GET", "/v1/verifications/{verification_id}"): read_of(a_verification),
    ("POST", "/v1/verifications/{verification_id}/withdrawal"): posted_below(
        a_verification, "withdrawal", {"reason": "the wrong record"}
    ),
}
