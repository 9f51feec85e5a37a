"""Nobody overwrites what they have not seen."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.dosing_cases import a_session
from tests.hostile import LiveStudy, census, live_study
from tests.monitor_cases import an_event
from tests.route_cases import a_visit, an_outcome
from tests.server import LiveServer
from tests.world import World, made

ROUNDS, WRITERS = 100, 2


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
    path = template.format(**record.json())
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


def test_the_etag_of_one_record_does_not_fit_another(world: World) -> None:
    mine, other = an_event(world, "A"), an_event(world, "A")
    body = {"reason": "typed wrongly", "severity": "severe"}
    assert world.staff_a.patch(mine.headers["Location"], body, other.headers["ETag"]).status_code == 412


@pytest.fixture
def live(live_server: LiveServer) -> Iterator[LiveStudy]:
    with live_study(live_server) as study:
        yield study


def test_no_update_is_lost_between_writers(live: LiveStudy) -> None:
    body = {"participant": live.enrolled(), "term": "Count 0", "onset": "2025-02-03", "severity": "mild"}
    path = live.staff.post("/v1/adverse-events", body).headers["Location"]

    def writer(_: int) -> list[int]:
        told = []
        for _round in range(ROUNDS):
            seen = live.staff.get(path)
            count = int(seen.json()["term"].removeprefix("Count "))
            change = {"reason": "counted on", "term": f"Count {count + 1}"}
            told.append(live.staff.patch(path, change, seen.headers["ETag"]).status_code)
        return told

    with ThreadPoolExecutor(WRITERS) as threads:
        told = [status for answers in threads.map(writer, range(WRITERS)) for status in answers]
    assert set(told) <= {200, 412}
    assert len(told) == ROUNDS * WRITERS
    changes = told.count(200)
    assert changes >= ROUNDS
    final = live.staff.get(path).json()
    assert (final["version"], final["term"]) == (changes + 1, f"Count {changes}")
    history = live.staff.get(f"{path}/history").json()["items"]
    assert [item["new"] for item in history if item["field"] == "term"] == [f"Count {n}" for n in range(changes + 1)]
