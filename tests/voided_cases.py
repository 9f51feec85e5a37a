"""Records that a site voids as entered in error: a valid request for each route."""

from collections.abc import Callable, Mapping

from httpx2 import Response

from tests.course_cases import CONSENT, a_treatment, screen_failed, under_amendment
from tests.dosing_cases import a_session, path_of
from tests.monitor_cases import an_event
from tests.world import Caller, Case, World, made, madrs, staff

WHY = {"reason": "Entered for another participant"}


def void(caller: Caller, path: str, seen: str, key: str | None = None) -> Response:
    """What the caller, who saw the record with this ETag, is answered."""
    return caller.post(f"{path}/voiding", WHY, key, **{"If-Match": seen})


def voided(caller: Caller, path: str) -> Response:
    """The record at this path, voided as it is now."""
    answer = void(caller, path, caller.get(path).headers["ETag"])
    assert answer.status_code == 201, answer.text
    return answer


Seen = tuple[str, str]
"""The path of a record, and the ETag under which it is voided."""
Make = Callable[[World, str], Seen]


def _a_visit(world: World, site: str) -> Response:
    return made(world, site, "/v1/visits", world.visit(world.enrolled(site), outcomes=[madrs(2)]))


def _an_outcome(world: World, site: str) -> Response:
    outcome = _a_visit(world, site).json()["outcomes"][0]["id"]
    return staff(world, site).get(f"/v1/outcomes/{outcome}")


def _by_id(kind: str, make: Callable[[World, str], Response]) -> Make:
    def record(world: World, site: str) -> Seen:
        answer = make(world, site)
        return f"/v1/{kind}/{answer.json()['id']}", answer.headers["ETag"]

    return record


def a_further_consent(world: World, site: str) -> Seen:
    """Seen is the participant, whom the consent belongs to."""
    person = f"/v1/participants/{under_amendment(world, site)}"
    made(world, site, f"{person}/consents", CONSENT)
    return f"{person}/consents/2/1", staff(world, site).get(person).headers["ETag"]


def _a_reading(world: World, site: str) -> Seen:
    """Seen is the session that it belongs to."""
    record = a_session(world, site)
    return path_of(record, "/vitals/{reading_id}"), record.headers["ETag"]


def _an_earlier_treatment(world: World, site: str) -> Seen:
    record = a_treatment(world, site)
    return record.headers["Location"], record.headers["ETag"]


def _enrolled_twice(world: World, site: str) -> Seen:
    person = f"/v1/participants/{world.enrolled(site)}"
    return person, staff(world, site).get(person).headers["ETag"]


def _a_further_screening(world: World, site: str) -> Seen:
    """Seen is the participant, whose screening it is."""
    person = f"/v1/participants/{screen_failed(world, site)}"
    again = {"screened_on": "2025-06-01", "reason": "asked to be screened again", "answers": {}}
    made(world, site, f"{person}/screenings", again)
    return f"{person}/screenings/2", staff(world, site).get(person).headers["ETag"]


RECORDS: Mapping[tuple[str, str], Make] = {
    ("POST", "/v1/adverse-events/{event_id}/voiding"): _by_id("adverse-events", an_event),
    ("POST", "/v1/outcomes/{outcome_id}/voiding"): _by_id("outcomes", _an_outcome),
    ("POST", "/v1/visits/{visit_id}/voiding"): _by_id("visits", _a_visit),
    ("POST", "/v1/dosing-sessions/{session_id}/voiding"): _by_id("dosing-sessions", a_session),
    ("POST", "/v1/participants/{pid}/voiding"): _enrolled_twice,
    ("POST", "/v1/participants/{pid}/screenings/{number}/voiding"): _a_further_screening,
    ("POST", "/v1/participants/{pid}/consents/{version}/{number}/voiding"): a_further_consent,
    ("POST", "/v1/dosing-sessions/{session_id}/vitals/{reading_id}/voiding"): _a_reading,
    ("POST", "/v1/participants/{pid}/treatments/{treatment_id}/voiding"): _an_earlier_treatment,
}


def _voids(make: Make) -> Case:
    return lambda world, caller, site: void(caller, *make(world, site))


VOIDING_CASES: Mapping[tuple[str, str], Case] = {route: _voids(make) for route, make in RECORDS.items()}
