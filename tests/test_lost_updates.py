"""Nobody overwrites what they have not seen."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response

from bench.lost_updates import count_up
from tests.course_cases import a_treatment
from tests.dosing_cases import a_session
from tests.hostile import LiveStudy, census, live_study
from tests.monitor_cases import an_event
from tests.route_cases import a_visit, an_outcome
from tests.server import LiveServer
from tests.world import World, made

ROUNDS = 100


def _changes() -> Mapping[str, tuple[Any, str, dict[str, Any], dict[str, Any], list[str]]]:
    """Of each kind: a record, its path, a first change, a second, and the field where they meet."""
    return {
        "participant": (
            lambda world: made(world, "A", "/v1/participants", world.enrolment()),
            "/v1/participants/{pid}",
            {"age_at_consent": 52},
            {"age_at_consent": 53, "sex": "F"},
            ["age_at_consent"],
        ),
        "visit": (
            lambda world: a_visit(world, "A"),
            "/v1/visits/{id}",
            {"occurred_on": "2025-01-26"},
            {"occurred_on": "2025-01-27"},
            ["occurred_on"],
        ),
        "outcome": (
            lambda world: an_outcome(world, "A"),
            "/v1/outcomes/{id}",
            {"items": {"MADRS_01": 4}},
            {"items": {"MADRS_01": 5, "MADRS_02": 2}},
            ["items.MADRS_01"],
        ),
        "adverse event": (
            lambda world: an_event(world, "A"),
            "/v1/adverse-events/{id}",
            {"severity": "severe"},
            {"severity": "moderate", "term": "Headache"},
            ["severity"],
        ),
        "earlier treatment": (
            a_treatment,
            "{here}",
            {"weeks": 6},
            {"weeks": 5, "adequate": False},
            ["adequate", "weeks"],
        ),
        "dosing session": (
            lambda world: a_session(world),
            "/v1/dosing-sessions/{id}",
            {"staff": ["T01", "T03"]},
            {"staff": ["T01", "T04"], "discharge": []},
            ["staff"],
        ),
    }


@pytest.mark.parametrize("kind", _changes())
def test_a_change_needs_the_version_that_was_seen(world: World, kind: str) -> None:
    make, template, first, second, meeting = _changes()[kind]
    record = make(world)
    path = template.format(**record.json(), here=record.headers.get("Location"))
    before = census(world.registry.database.engine)
    blind = world.staff_a.patch(path, {"reason": "typed wrongly", **first})
    assert (blind.status_code, blind.json()["code"]) == (428, "if_match_missing")
    assert census(world.registry.database.engine) == before

    seen = record.headers["ETag"]
    done = world.staff_a.patch(path, {"reason": "typed wrongly", **first}, seen)
    assert (done.status_code, done.json()["version"]) == (200, 2)
    before = census(world.registry.database.engine)
    stale = world.staff_a.patch(path, {"reason": "typed wrongly", **second}, seen)
    assert (stale.status_code, stale.json()["code"]) == (412, "version_stale")
    assert stale.headers["ETag"] == done.headers["ETag"] != seen
    assert stale.json()["differing_fields"] == meeting
    assert census(world.registry.database.engine) == before

    decided = world.staff_a.patch(path, {"reason": "typed wrongly", **second}, stale.headers["ETag"])
    assert (decided.status_code, decided.json()["version"]) == (200, 3)
    assert world.staff_a.get(path).headers["ETag"] == decided.headers["ETag"]


@pytest.mark.parametrize("kind", _changes())
def test_a_repeated_correction_is_answered_with_its_own_version(world: World, kind: str) -> None:
    make, template, first, second, _ = _changes()[kind]
    record, key = make(world), str(uuid4())
    path = template.format(**record.json(), here=record.headers.get("Location"))

    def sent(**changes: Any) -> Response:
        headers = world.staff_a.headers(**{"If-Match": record.headers["ETag"], "Idempotency-Key": key})
        return world.registry.client.patch(path, json={"reason": "typed wrongly", **changes}, headers=headers)

    done = sent(**first)
    assert (done.status_code, "Location" in done.headers) == (200, False), done.text
    elsewhere = world.staff_a.patch(path, {"reason": "by somebody else", **second}, done.headers["ETag"])
    assert elsewhere.status_code == 200
    before = census(world.registry.database.engine)
    again = sent(**first)
    assert (again.status_code, again.content, again.headers["ETag"]) == (200, done.content, done.headers["ETag"])
    assert again.headers["Idempotent-Replayed"] == "true"
    other = sent(**second)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert census(world.registry.database.engine) == before


def test_the_etag_of_one_record_does_not_fit_another(world: World) -> None:
    mine, other = an_event(world, "A"), an_event(world, "A")
    body = {"reason": "typed wrongly", "severity": "severe"}
    assert world.staff_a.patch(mine.headers["Location"], body, other.headers["ETag"]).status_code == 412


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


def test_no_update_is_lost_between_writers(live: LiveStudy) -> None:
    """The long run is `python -m bench.lost_updates --rounds 1000`."""
    report = count_up(live, ROUNDS)
    assert report.faults == []
    assert report.statuses.total() == 2 * ROUNDS
    assert report.statuses[200] >= ROUNDS


def test_a_correction_can_be_tried_out_under_a_key(world: World) -> None:
    made = world.staff_a.post("/v1/visits", world.visit(world.enrolled()))
    path, tag = made.headers["Location"], {"If-Match": made.headers["ETag"]}
    body = json.dumps({"deviation_reason": "came by train", "reason": "tried out"}).encode()
    sent = {**tag, "Content-Type": "application/json"}
    tried = world.staff_a.raw("PATCH", f"{path}?dry_run=true", body, **sent, **{"Idempotency-Key": "try-1"})
    assert (tried.status_code, tried.json()["dry_run"]) == (200, True)
    assert world.staff_a.get(path).headers["ETag"] == made.headers["ETag"]
    keyless = world.registry.client.patch(f"{path}?dry_run=true", content=body, headers=world.staff_a.headers(**sent))
    assert (keyless.status_code, keyless.json()["code"]) == (400, "idempotency_key_missing")
