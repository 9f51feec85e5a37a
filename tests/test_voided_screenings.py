"""A further screening that was begun for the wrong participant: voided, still to be read, and they are as before it."""

from typing import Any

import pytest
from httpx2 import Response

from tests.course_cases import screen_failed
from tests.courses import left
from tests.test_audit_entries import rows
from tests.test_changes import feed
from tests.test_data_cuts import extract, tables, verdict
from tests.test_dosing_corrections import corrected
from tests.test_extract_windows import visited
from tests.test_rule_queries import refresh_site
from tests.test_screened_twice import counted_from_screening, planned
from tests.test_screenings import all_met, answered, screened_again
from tests.test_signatures import signed_record, state
from tests.test_sync import act, sync
from tests.test_visits import open_queries
from tests.test_voided_participants import of, refused
from tests.voided_cases import WHY, void, voided
from tests.world import World

AGAIN = "2025-06-01"
MOVES_ON = {"version", "updated_at"}


def take_out(world: World, pid: str, number: int = 2, seen: str | None = None) -> Response:
    seen = seen or world.staff_a.get(of(pid)).headers["ETag"]
    return void(world.staff_a, f"{of(pid)}/screenings/{number}", seen)


def told(world: World, pid: str) -> dict[str, Any]:
    """What is told of the participant, without what every write changes, and of the screenings that count."""
    read = world.monitor.get(of(pid)).json()
    screenings = world.monitor.get(f"{of(pid)}/screenings").json()["items"]
    schedule = world.monitor.get(f"{of(pid)}/schedule").json()
    kept = {name: read[name] for name in read.keys() - MOVES_ON}
    return {**kept, "schedule": schedule, "screenings": [one for one in screenings if not one["voided_at"]]}


def begun(world: World, pid: str, **answers: str) -> None:
    assert screened_again(world, pid, AGAIN, **answers).status_code == 201


@pytest.mark.parametrize("answers", [all_met(), {"EXCL02": "met"}, {"EXCL02": "not_met"}])
def test_the_participant_is_as_before_it_whatever_was_answered(world: World, answers: dict[str, str]) -> None:
    pid = screen_failed(world, protocol_version=counted_from_screening(world))
    visited(world, pid, "SCR", "2025-01-03")
    before = told(world, pid)
    begun(world, pid, **answers)
    assert told(world, pid) != before
    assert answered(world, pid, 2, EXCL03="met").status_code == 201
    answer = take_out(world, pid)
    assert (answer.status_code, answer.json()["voiding_reason"]) == (201, WHY["reason"])
    assert told(world, pid) == before
    [_, second] = world.monitor.get(f"{of(pid)}/screenings").json()["items"]
    assert second == answer.json()


def test_the_day_of_the_failure_comes_back_and_what_was_corrected_meanwhile_stays(world: World) -> None:
    pid = world.enrolled(enrolled_on=None, eligibility={"answers": {}})
    left(world, pid, "screen_failed", "2025-01-15")
    begun(world, pid)
    assert corrected(world, of(pid), age_at_consent=52, screened_on="2025-06-03").status_code == 200
    assert take_out(world, pid).status_code == 201
    read = world.monitor.get(of(pid)).json()
    shown = [read[name] for name in ("status", "status_on", "screened_on", "age_at_consent", "eligible")]
    assert shown == ["screen_failed", "2025-01-15", "2025-01-02", 52, False]


def test_the_right_person_is_screened_again_under_the_next_number(world: World) -> None:
    pid = screen_failed(world, protocol_version=counted_from_screening(world))
    visited(world, pid, "SCR", "2025-01-03")
    begun(world, pid)
    assert take_out(world, pid).status_code == 201
    again = screened_again(world, pid, "2025-07-01", **all_met())
    assert (again.status_code, again.json()["number"]) == (201, 3)
    visited(world, pid, "SCR", "2025-07-02", occurrence=2)
    third = world.staff_a.post("/v1/visits", world.visit(pid, "SCR", "2025-07-03", occurrence=3))
    assert refused(third) == (422, "visit_unknown"), "two screenings count, and each has one"
    assert [one[1] for one in planned(world, pid, "SCR")] == ["done", "done"]
    assert planned(world, pid, "BL")[0][2]["planned"] == "2025-07-16"
    late = answered(world, pid, 2, EXCL03="met")
    assert (refused(late), late.json()["present"]) == ((409, "another_screening"), 3)


def test_what_was_asked_about_its_visits_is_settled(world: World) -> None:
    pid = screen_failed(world, protocol_version=counted_from_screening(world))
    visited(world, pid, "SCR", "2025-01-03")
    begun(world, pid)
    visited(world, pid, "SCR", AGAIN, occurrence=2)
    refresh_site(world)
    asked = open_queries(world, pid)
    assert "visit_overdue" in asked
    answer = take_out(world, pid)
    [visit] = answer.json()["visits"]
    assert refused(answer) == (409, "screening_has_visits")
    voided(world.staff_a, visit)
    assert take_out(world, pid).status_code == 201
    refresh_site(world)
    assert "visit_overdue" not in open_queries(world, pid)


def test_a_screening_visit_is_of_the_screening_that_its_occurrence_says(world: World) -> None:
    """Whatever its day: otherwise it would stay, and take the place of the one of the screening before."""
    pid = screen_failed(world, protocol_version=counted_from_screening(world))
    visited(world, pid, "SCR", "2025-01-03")
    begun(world, pid)
    visited(world, pid, "SCR", "2025-05-31", occurrence=2)
    answer = take_out(world, pid)
    assert (refused(answer), len(answer.json()["visits"])) == ((409, "screening_has_visits"), 1)


def test_visits_of_the_screening_before_stay(world: World) -> None:
    """Also one of the same day, that was recorded before."""
    pid = screen_failed(world)
    visited(world, pid, "SCR", AGAIN)
    begun(world, pid)
    assert take_out(world, pid).status_code == 201


def test_the_first_screening_an_earlier_one_and_one_that_led_on_stay(world: World) -> None:
    pid = screen_failed(world)
    assert refused(take_out(world, pid, 1)) == (409, "screening_of_enrolment")
    begun(world, pid, EXCL02="not_met")
    assert screened_again(world, pid, "2025-07-01", **all_met()).status_code == 201
    earlier = take_out(world, pid, 2)
    assert (refused(earlier), earlier.json()["present"]) == ((409, "another_screening"), 3)
    left(world, pid, "withdrawn", "2025-07-05")
    assert refused(take_out(world, pid, 3)) == (409, "screening_followed")
    left(world, pid, "screened", "2025-07-01", correction=True)
    assert take_out(world, pid, 3).status_code == 201
    assert take_out(world, pid, 2).status_code == 201
    assert world.monitor.get(of(pid)).json()["status_on"] == "2025-01-02"


def test_only_one_that_is_there_and_was_seen_is_voided_and_once(world: World) -> None:
    pid = screen_failed(world)
    seen = world.staff_a.get(of(pid)).headers["ETag"]
    begun(world, pid)
    for answer in (take_out(world, pid, 3), take_out(world, pid, 10**30)):
        assert refused(answer) == (404, "not_found")
    assert void(world.staff_b, f"{of(pid)}/screenings/2", seen).status_code == 404
    assert refused(take_out(world, pid, seen=seen)) == (412, "version_stale")
    lock = {"kind": "freeze", "study": world.study, "site": "A", "participant": pid, "reason": "before the cut"}
    path = world.monitor.post("/v1/locks", lock).headers["Location"]
    assert refused(take_out(world, pid)) == (423, "data_locked")
    assert world.monitor.post(f"{path}/lifting", {"reason": "of another participant"}).status_code == 201
    assert take_out(world, pid).status_code == 201
    assert refused(take_out(world, pid)) == (409, "record_voided")


def test_it_is_carried_by_sync_and_the_trail_tells_of_it(world: World) -> None:
    pid = screen_failed(world)
    begun(world, pid)
    _, place = feed(world.staff_a)
    seen = world.staff_a.get(of(pid)).headers["ETag"]
    one = {**act(f"{of(pid)}/screenings/2/voiding", WHY), "if_match": seen}
    assert sync(world.staff_a, one)[one["id"]]["result"] == "created"
    changes, _ = feed(world.staff_a, place)
    actions = ["screening:voided", "participant:screening-voided"]
    assert [change["action"] for change in changes] == actions
    assert {row["reason"] for row in rows(world.monitor, participant=pid) if row["action"] in actions} == {
        WHY["reason"]
    }


def test_a_signature_of_before_is_valid_again_and_extracts_stay_as_they_were(world: World) -> None:
    pid = screen_failed(world)
    before = signed_record(world, pid)
    begun(world, pid, **all_met())
    meanwhile, path = signed_record(world, pid), extract(world)
    assert take_out(world, pid).status_code == 201
    assert (state(world, before), state(world, meanwhile)) == ("valid", "broken")
    [row] = tables(world, extract(world))["participants.csv"]
    assert (row["status"], verdict(world, path)) == ("screen_failed", "the same rows")
