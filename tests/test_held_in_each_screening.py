"""What the protocol plans once before treatment is held once in each screening: whoever is screened again repeats it
under the next occurrence, and what took place in the screening that failed stays as it was."""

from typing import Any

import pytest

from app.privacy.lattice import K
from tests.course_cases import screen_failed
from tests.dosing_cases import SESSIONS, dose, held, path_of, start
from tests.route_cases import extract_of
from tests.test_bulk import line, results, sent
from tests.test_course import enrol
from tests.test_deidentified import files, people, table
from tests.test_dosing_corrections import asked, corrected, remarks
from tests.test_extract_windows import timings
from tests.test_outcome_summary import response, totals
from tests.test_rule_queries import refresh_site
from tests.test_scores_of_screenings import summary
from tests.test_screened_twice import findings
from tests.test_screenings import all_met, screened_again
from tests.test_sync import act, sync
from tests.test_withdrawals import refusal
from tests.world import World

BEGAN = "2025-06-01"
FIRST = (("SCR", "2025-01-03"), ("BL", "2025-01-24"), ("PREP1", "2025-01-25"), ("PREP2", "2025-01-26"))
"""What took place in the screening that failed."""
SECOND = (("SCR", "2025-06-02"), ("BL", "2025-06-23"), ("PREP1", "2025-06-24"), ("PREP2", "2025-06-25"))
"""The same in the second one, of which PREP3 is the first."""

SCOPES = ["data_sharing", "long_follow_up", "main"]


def screened_again_after(world: World, *first: tuple[str, str], **more: Any) -> str:
    """Somebody whose first screening failed after these visits, and whose second one has begun."""
    pid = screen_failed(world, consent={"version": "1", "given_on": "2025-01-02", "scopes": SCOPES})
    for code, on in first:
        held(world.staff_a, pid, code, on, **more if code == "BL" else {})
    assert screened_again(world, pid, BEGAN, **all_met()).status_code == 201
    return pid


def held_again(world: World, pid: str, **more: Any) -> None:
    for code, on in SECOND:
        held(world.staff_a, pid, code, on, occurrence=2, **more if code == "BL" else {})
    held(world.staff_a, pid, "PREP3", "2025-06-26")
    assert enrol(world, pid, "2025-06-27").status_code == 201


def schedule(world: World, pid: str, *codes: str) -> list[tuple[Any, ...]]:
    items = world.monitor.get(f"/v1/participants/{pid}/schedule").json()["items"]
    return [(one["visit_code"], one["occurrence"], one["state"]) for one in items if one["visit_code"] in codes]


def test_who_is_screened_again_comes_to_the_first_dose_without_voiding_anything(world: World) -> None:
    pid = screened_again_after(world, *FIRST)
    held_again(world, pid)
    assert [findings(world, pid, code) for code, _ in SECOND] == [[]] * 4
    visit = held(world.staff_a, pid, "DOS1", "2025-06-30")
    session = world.staff_a.post(SESSIONS, start(visit["id"], "2025-06-30"))
    assert session.status_code == 201, session.text
    given = world.staff_a.post(f"{path_of(session)}/doses", dose(given_at="2025-06-30T09:15:00Z"))
    assert (given.status_code, remarks(world, path_of(session)), asked(world, path_of(session))) == (201, [], [])
    refresh_site(world)
    queries = world.monitor.get("/v1/data-queries", participant=pid, state="open", limit=500).json()["items"]
    missing = {one["visit_code"] for one in queries if one["rule"] == "visit_overdue"}
    assert "INT1A" in missing
    assert missing.isdisjoint(dict(FIRST))


def test_the_schedule_has_what_the_second_screening_still_needs(world: World) -> None:
    pid = screened_again_after(world, *FIRST)
    asked_for = ("SCR", "BL", "PREP1", "PREP3")
    done = [("SCR", 1, "done"), ("BL", 1, "done"), ("PREP1", 1, "done")]
    still = [("SCR", 2, "waiting"), ("BL", 2, "upcoming"), ("PREP1", 2, "upcoming"), ("PREP3", 1, "upcoming")]
    assert sorted(schedule(world, pid, *asked_for)) == sorted(done + still)
    held_again(world, pid)
    assert {state for _, _, state in schedule(world, pid, *asked_for)} == {"done"}
    assert len(schedule(world, pid, *asked_for)) == 7


def test_what_the_first_screening_had_none_of_is_the_first_in_the_second_one(world: World) -> None:
    pid = screened_again_after(world, ("SCR", "2025-01-03"))
    assert schedule(world, pid, "SCR", "BL") == [("SCR", 1, "done"), ("SCR", 2, "waiting"), ("BL", 1, "upcoming")]
    held(world.staff_a, pid, "BL", "2025-06-23")
    assert schedule(world, pid, "SCR", "BL") == [("SCR", 1, "done"), ("SCR", 2, "overdue"), ("BL", 1, "done")]


def test_a_visit_that_was_missed_or_ended_the_first_screening_is_planned_again(world: World) -> None:
    pid = screen_failed(world)
    missed = {"status": "missed", "deviation_reason": "never came"}
    assert world.staff_a.post("/v1/visits", world.visit(pid, "BL", None, **missed)).status_code == 201
    held(world.staff_a, pid, "ET", "2025-01-30")
    assert screened_again(world, pid, BEGAN, **all_met()).status_code == 201
    assert schedule(world, pid, "BL", "DOS1") == [("BL", 1, "missed"), ("BL", 2, "upcoming"), ("DOS1", 1, "upcoming")]


def test_it_is_still_once_in_each_screening(world: World) -> None:
    once, twice = world.enrolled(), screened_again_after(world, *FIRST)
    held(world.staff_a, once, "BL", "2025-01-24")
    told = [
        world.staff_a.post("/v1/visits", world.visit(pid, code, "2025-06-20", occurrence=number))
        for pid, code, number in ((once, "BL", 2), (twice, "BL", 3), (twice, "DOS1", 2))
    ]
    assert [(one.status_code, one.json()["errors"][0]["code"]) for one in told] == [(422, "too_many")] * 3
    said = [world.staff_a.post("/v1/visits", world.visit(pid)).json()["errors"][0]["message"] for pid in (once, twice)]
    assert ["next occurrence" in one for one in said] == [False, True]


def test_the_baseline_of_scores_is_that_of_the_second_screening(world: World) -> None:
    pid = screened_again_after(world, *FIRST, outcomes=[totals(20)])
    held_again(world, pid, outcomes=[totals(30)])
    held(world.staff_a, pid, "UNS", "2025-07-01", outcomes=[totals(15)])
    told = {(code, value): (change, responds) for code, value, change, responds, *_ in response(world, pid)}
    assert told["UNS", 15] == (-15, True)
    of_study = summary(world)
    assert (of_study["BL"]["administered"], of_study["BL"]["value"]["mean"]) == (1, 30)
    assert (of_study["UNS"]["change"]["mean"], of_study["UNS"]["responders"]) == (-15, 1)


def test_windows_count_from_the_baseline_of_the_second_screening(world: World) -> None:
    pid = screened_again_after(world, *FIRST)
    held_again(world, pid)
    follow_up = held(world.staff_a, pid, "FU7M", "2026-01-22")
    assert (follow_up["window"]["planned"], follow_up["deviation_days"]) == ("2026-01-22", 0)
    shown = world.monitor.get("/v1/visits", participant=pid, visit_code="SCR", include="window").json()["items"]
    told = {one["occurrence"]: one["window"] and one["window"]["planned"] for one in shown}
    assert told == {1: None, 2: "2025-06-02"}


def test_a_screening_visit_after_its_baseline_has_a_finding_in_the_second_screening_too(world: World) -> None:
    pid = screened_again_after(world, *FIRST)
    held_again(world, pid)
    for code, on, told in (("SCR", "2025-06-24", ["visit_outside_window"]), ("BL", "2025-07-13", [])):
        [second, _] = world.staff_a.get("/v1/visits", participant=pid, visit_code=code).json()["items"]
        moved = {"occurred_on": on, "deviation_reason": "came late"}
        assert corrected(world, f"/v1/visits/{second['id']}", **moved).status_code == 200
        assert findings(world, pid, "SCR") == told


def test_extracts_have_both_and_count_from_the_second(world: World) -> None:
    people(world, K - 1)
    pid = screened_again_after(world, *FIRST)
    held_again(world, pid)
    held(world.staff_a, pid, "FU7M", "2026-01-22")
    told = timings(files(world)["visits.csv"])
    assert {number: told["SCR", number] for number in "12"} == {"1": "", "2": "in_window"}
    assert (told["FU7M", "1"], ("BL", "1") in told, ("BL", "2") in told) == ("in_window", True, True)
    rows = table(world.analyst.get(f"{extract_of(world, approved=True)}/files/visits.csv").text)
    days = {(row["visit_code"], row["occurrence"]): row["study_day"] for row in rows if row["visit_code"] == "BL"}
    assert days == {("BL", "1"): "-150", ("BL", "2"): "1"}


def test_the_timing_in_an_extract_takes_no_visit_of_the_first_screening_for_one_of_the_second(world: World) -> None:
    """The baseline of the second screening is still to come, and that of the first says nothing about its days."""
    people(world, K - 1)
    pid = screened_again_after(world, *FIRST)
    assert held(world.staff_a, pid, "SCR", "2025-06-02", occurrence=2)["window"] is None
    assert enrol(world, pid, "2025-06-27").status_code == 201
    assert timings(files(world)["visits.csv"])["SCR", "2"] == ""


@pytest.mark.parametrize("atomic", [False, True])
def test_both_come_in_one_upload(world: World, atomic: bool) -> None:
    pid = screened_again_after(world)
    bodies = [world.visit(pid, code, on, occurrence=2) for code, on in reversed(SECOND)]
    bodies += [world.visit(pid, code, on) for code, on in FIRST]
    answer = sent(world.staff_a, "visits", [line(one) for one in bodies], atomic=atomic)
    assert {one["result"] for one in results(answer)} == {"created"}, answer.text
    assert [findings(world, pid, code) for code, _ in SECOND] == [[]] * 4


def test_a_tablet_sends_the_second_screening_and_its_visits_in_any_order(world: World) -> None:
    pid = screen_failed(world)
    held(world.staff_a, pid, "BL", "2025-01-24")
    began = {"screened_on": BEGAN, "reason": "asked again", "answers": all_met()}
    acts = (
        act("/v1/visits", world.visit(pid, "BL", "2025-06-23", occurrence=2)),
        act(f"/v1/participants/{pid}/screenings", began),
    )
    sync(world.staff_a, *acts)
    assert {one["result"] for one in sync(world.staff_a, *acts).values()} <= {"created", "replayed"}
    assert schedule(world, pid, "BL") == [("BL", 1, "done"), ("BL", 2, "done")]


def test_a_query_asks_about_a_visit_that_the_second_screening_lacks(world: World) -> None:
    pid = screened_again_after(world, *FIRST)
    missing = {"participant": pid, "subject_type": "missing_visit", "visit_code": "BL", "text": "When?"}
    told = [world.monitor.post("/v1/data-queries", {**missing, "occurrence": number}) for number in (1, 2, 3)]
    assert [one.status_code for one in told] == [409, 201, 422]
    assert refusal(told[0])[1] == "visit_not_missing"
