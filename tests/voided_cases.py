"""Records that a site voids as entered in error: a valid request for each route."""

from collections.abc import Callable, Mapping
from uuid import uuid4

from httpx2 import Response

from tests.dosing_cases import a_session
from tests.monitor_cases import an_event
from tests.world import Caller, World, made, madrs, staff

Case = Callable[[World, Caller, str], Response]
WHY = {"reason": "Entered for another participant"}


def void(caller: Caller, path: str, seen: str, key: str | None = None) -> Response:
    """What the caller, who saw the record with this ETag, is answered."""
    return caller.post(f"{path}/voiding", WHY, key, **{"If-Match": seen})


def voided(caller: Caller, path: str) -> Response:
    """The record at this path, voided as it is now."""
    answer = void(caller, path, caller.get(path).headers["ETag"])
    assert answer.status_code == 201, answer.text
    return answer


def _a_visit(world: World, site: str) -> Response:
    return made(world, site, "/v1/visits", world.visit(world.enrolled(site), outcomes=[madrs(2)]))


def _an_outcome(world: World, site: str) -> Response:
    outcome = _a_visit(world, site).json()["outcomes"][0]["id"]
    return staff(world, site).get(f"/v1/outcomes/{outcome}")


def _voids(kind: str, make: Callable[[World, str], Response]) -> Case:
    def case(world: World, caller: Caller, site: str) -> Response:
        record = make(world, site)
        return void(caller, f"/v1/{kind}/{record.json()['id']}", record.headers["ETag"])

    return case


RECORDS: Mapping[tuple[str, str], tuple[str, Callable[[World, str], Response]]] = {
    ("POST", "/v1/adverse-events/{event_id}/voiding"): ("adverse-events", an_event),
    ("POST", "/v1/outcomes/{outcome_id}/voiding"): ("outcomes", _an_outcome),
    ("POST", "/v1/visits/{visit_id}/voiding"): ("visits", _a_visit),
    ("POST", "/v1/dosing-sessions/{session_id}/voiding"): ("dosing-sessions", a_session),
}
VOIDING_CASES: Mapping[tuple[str, str], Case] = {route: _voids(*record) for route, record in RECORDS.items()}


def _ready(kind: str, make: Callable[[World, str], Response]) -> Callable[[World], Callable[[], Response]]:
    """The same of site A, ready to be sent as often as it takes."""

    def prepare(world: World) -> Callable[[], Response]:
        record, key = make(world, "A"), str(uuid4())
        return lambda: void(world.staff_a, f"/v1/{kind}/{record.json()['id']}", record.headers["ETag"], key)

    return prepare


VOIDING = {
    route: (_ready(*record), {"audit_entry": 2 if record[0] == "visits" else 1}) for route, record in RECORDS.items()
}
"""As tests/test_acknowledged_means_stored.py takes them; a visit takes its outcome with it."""

TO_BE_VOIDED = tuple(f"void {kind}" for kind, _ in RECORDS.values())


def to_be_voided(world: World) -> dict[str, tuple[str, Response, str, dict[str, str]]]:
    """The same as tests/hostile_requests.py takes them."""
    ready = zip(TO_BE_VOIDED, RECORDS.items(), strict=True)
    return {name: (method, make(world, "A"), path, {}) for name, ((method, path), (_, make)) in ready}
