"""Screening: failures are kept, further screenings follow them, and criteria that turn out unmet after the enrolment
raise a query."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import pytest

from tests.course_cases import open_screening, screen_failed
from tests.courses import left
from tests.dosing_cases import SESSIONS, prepared, start
from tests.test_course import answers, criteria, enrol, judged
from tests.test_sync import act, sync
from tests.test_visits import open_queries
from tests.test_withdrawals import refusal
from tests.world import World


def screened_again(world: World, pid: str, on: str, **given: str) -> Any:
    body = {"screened_on": on, "reason": "asked to be screened again", "answers": given}
    return world.staff_a.post(f"/v1/participants/{pid}/screenings", body)


def all_met() -> dict[str, str]:
    return dict.fromkeys(criteria(), "met")


def test_nobody_is_screened_again_before_the_screening_that_failed(world: World) -> None:
    pid = screen_failed(world)
    assert refusal(screened_again(world, pid, "2025-01-01")) == (422, "screening_out_of_order", ["/screened_on"])
    assert screened_again(world, pid, "2025-01-02").status_code == 201


def test_nobody_is_screened_again_before_the_day_of_the_failure(world: World) -> None:
    pid = open_screening(world)
    left(world, pid, "screen_failed", "2025-01-15")
    assert refusal(screened_again(world, pid, "2025-01-14")) == (422, "screening_out_of_order", ["/screened_on"])
    assert screened_again(world, pid, "2025-01-15").status_code == 201


@pytest.mark.parametrize("answered", [False, True], ids=["criteria open", "all criteria met"])
def test_a_screen_failure_without_a_criterion_is_kept_until_the_next_screening(world: World, answered: bool) -> None:
    pid, codes = open_screening(world), criteria()
    if answered:
        answers(world, pid, **all_met())
    left(world, pid, "screen_failed", "2025-01-15")
    assert judged(world, pid) == ("screen_failed", False, [])
    assert answers(world, pid, **{codes[0]: "met"}).json()["eligible"] is False
    assert judged(world, pid) == ("screen_failed", False, [])
    assert enrol(world, pid).status_code == 409
    assert screened_again(world, pid, "2025-02-01", **all_met()).status_code == 201
    assert judged(world, pid) == ("screened", True, [])
    episodes = world.monitor.get(f"/v1/participants/{pid}/screenings").json()["items"]
    assert [one["eligible"] for one in episodes] == [False, True]


def findings(world: World, pid: str) -> list[str]:
    return [one["code"] for one in world.monitor.get(f"/v1/participants/{pid}").json()["findings"]]


def test_a_criterion_that_turns_out_unmet_after_the_enrolment_raises_a_query_and_holds_dosing(world: World) -> None:
    pid = open_screening(world)
    answers(world, pid, **all_met())
    assert enrol(world, pid, "2025-01-20").status_code == 201
    visit = prepared(world.staff_a, pid)
    late = answers(world, pid, EXCL02="not_met")
    assert (late.status_code, late.json()["eligible"], late.json()["unmet"]) == (201, False, ["EXCL02"])
    assert judged(world, pid) == ("enrolled", False, ["EXCL02"])
    assert (findings(world, pid), open_queries(world, pid)) == (["enrolled_not_eligible"], ["enrolled_not_eligible"])
    refused = world.staff_a.post(SESSIONS, start(visit["id"]))
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (409, "DOSE-ELIGIBLE")
    told = world.monitor.get(f"/v1/participants/{pid}/history").json()["items"]
    assert "seen in the file" in {one["reason"] for one in told if one["action"] == "participant:screened"}
    answers(world, pid, EXCL02="met")
    assert judged(world, pid) == ("enrolled", True, [])
    assert (findings(world, pid), open_queries(world, pid)) == ([], [])
    assert world.staff_a.post(SESSIONS, start(visit["id"])).status_code == 201


def undone(world: World, pid: str) -> tuple[Any, Any, Any]:
    """How a participant was judged, and is after a wrong answer was given and put right; and the screening."""
    before = judged(world, pid)
    answers(world, pid, EXCL02="not_met")
    assert judged(world, pid)[1:] == (False, ["EXCL02"])
    return before, judged_by(answers(world, pid, EXCL02="met")), judged(world, pid)


def judged_by(screening: Any) -> tuple[bool, list[str]]:
    read = screening.json()
    return read["eligible"], read["unmet"]


@pytest.mark.parametrize("enrolled_on", ["2025-01-20", None], ids=["enrolled", "screened"])
def test_a_wrong_answer_beside_an_overall_met_is_put_right(world: World, enrolled_on: str | None) -> None:
    pid = world.enrolled(enrolled_on=enrolled_on)
    before, screening, after = undone(world, pid)
    assert (screening, after) == ((True, []), before)
    assert world.staff_a.post(SESSIONS, start(prepared(world.staff_a, pid)["id"])).is_success is bool(enrolled_on)


def test_a_corrected_answer_leaves_a_screen_failure_that_the_site_reported(world: World) -> None:
    pid = open_screening(world)
    answers(world, pid, **all_met())
    left(world, pid, "screen_failed", "2025-01-15")
    before, screening, after = undone(world, pid)
    assert (screening, after) == ((False, []), before)


def test_an_overall_met_is_replaced_once_the_answers_say_the_same(world: World) -> None:
    pid = world.enrolled(enrolled_on=None)
    answers(world, pid, **all_met())
    always = next(code for code in criteria() if code.startswith("INCL"))
    assert answers(world, pid, **{always: "not_applicable"}).json()["eligible"] is None


def test_a_participant_who_left_keeps_the_status_when_a_criterion_turns_out_unmet(world: World) -> None:
    pid = world.enrolled()
    left(world, pid, "completed", "2025-06-01")
    answers(world, pid, EXCL02="not_met")
    assert judged(world, pid) == ("completed", False, ["EXCL02"])
    assert findings(world, pid) == ["enrolled_not_eligible"]


def test_the_answers_of_a_participant_who_left_while_screened_stay(world: World) -> None:
    pid = open_screening(world)
    left(world, pid, "withdrawn", "2025-01-15")
    late = answers(world, pid, EXCL02="not_met")
    assert (late.status_code, late.json()["code"]) == (409, "screening_decided")


def test_each_screening_has_a_screening_visit_of_its_own(world: World) -> None:
    """Days -42 to -1 from the baseline (the shipped generic protocol). The first belongs to the failed screening."""
    pid, staff, dated = screen_failed(world), world.staff_a, {1: "2025-01-03", 2: "2025-06-02"}

    def screen(occurrence: int) -> Any:
        return staff.post("/v1/visits", world.visit(pid, "SCR", dated[occurrence], occurrence=occurrence))

    first = screen(1)
    assert first.status_code == 201
    assert refusal(screen(2)) == (422, "visit_unknown", ["/occurrence"])
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    again = screen(2)
    assert again.status_code == 201, again.text
    assert refusal(staff.post("/v1/visits", world.visit(pid, "SCR", "2025-06-03", occurrence=3)))[0] == 422
    assert refusal(staff.post("/v1/visits", world.visit(pid, "PREP1", "2025-06-03", occurrence=3)))[0] == 422
    assert enrol(world, pid, "2025-06-20").status_code == 201
    assert staff.post("/v1/visits", world.visit(pid, "BL", "2025-06-25")).status_code == 201

    windows = [staff.get(one.headers["Location"]).json()["window"] for one in (first, again)]
    assert windows == [None, {"planned": "2025-06-04", "start": "2025-05-14", "end": "2025-06-24"}]
    listed = world.monitor.get("/v1/visits", participant=pid, visit_code="SCR", include="window").json()["items"]
    assert {one["occurrence"]: one["out_of_window"] for one in listed} == {1: None, 2: False}
    schedule = world.monitor.get(f"/v1/participants/{pid}/schedule").json()["items"]
    told = [(one["occurrence"], one["state"], one["window"], one["waits_for"]) for one in schedule[:2]]
    assert told == [(1, "done", None, None), (2, "done", windows[1], None)]
    counted = world.monitor.get("/v1/monitoring/sites", study=world.study).json()["sites"][0]["visits"]
    assert (counted["with_window"], counted["in_window"]) == (1, 1)
    assert ([one["findings"] for one in listed], open_queries(world, pid)) == ([[], []], [])


def test_a_screening_visit_out_of_its_window_is_no_more_once_the_next_screening_has_its_own(world: World) -> None:
    pid, staff = screen_failed(world), world.staff_a
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    for code, day, more in (
        ("SCR", "2025-01-03", {}),
        ("BL", "2025-06-25", {}),
        ("SCR", "2025-06-02", {"occurrence": 2}),
    ):
        if more:
            assert open_queries(world, pid) == ["visit_outside_window"]
        assert staff.post("/v1/visits", world.visit(pid, code, day, **more)).status_code == 201
    assert open_queries(world, pid) == []
    [second, _] = staff.get("/v1/visits", participant=pid, visit_code="SCR").json()["items"]
    path = f"/v1/visits/{second['id']}"
    missed = {"status": "missed", "occurred_on": None, "deviation_reason": "never came", "reason": "the wrong person"}
    assert staff.patch(path, missed, staff.get(path).headers["ETag"]).status_code == 200
    assert open_queries(world, pid) == ["visit_outside_window"]


def answered(world: World, pid: str, screening: int, **given: str) -> Any:
    body = {"answers": given, "reason": "seen in the file", "screening": screening}
    return world.staff_a.post(f"/v1/participants/{pid}/eligibility", body)


def episodes(world: World, pid: str) -> list[Any]:
    return [one["eligible"] for one in world.monitor.get(f"/v1/participants/{pid}/screenings").json()["items"]]


def test_answers_change_no_other_screening_than_their_own(world: World) -> None:
    """An app that was offline knows which screening it has answered, and not which one is the present one by now."""
    pid = screen_failed(world)
    early = answered(world, pid, 2, **all_met())
    assert (refusal(early)[:2], early.json()["present"]) == ((409, "another_screening"), 1)
    assert episodes(world, pid) == [False]
    assert screened_again(world, pid, "2025-04-01").status_code == 201
    assert answered(world, pid, 2, **all_met()).json()["eligible"] is True
    late = answered(world, pid, 1, EXCL02="not_met")
    assert (refusal(late)[:2], late.json()["present"]) == ((409, "another_screening"), 2)
    assert (episodes(world, pid), judged(world, pid)) == ([False, True], ("screened", True, []))


@pytest.mark.parametrize("order", [*permutations(range(3))], ids=str)
def test_two_screenings_come_by_sync_in_any_order(world: World, order: Sequence[int]) -> None:
    pid = open_screening(world)
    path, why = f"/v1/participants/{pid}", "seen in the file"
    acts = (
        act(f"{path}/eligibility", {"answers": {"EXCL02": "not_met"}, "reason": why, "screening": 1}),
        act(f"{path}/screenings", {"screened_on": "2025-04-01", "reason": "asked again", "answers": {}}),
        act(f"{path}/eligibility", {"answers": all_met(), "reason": why, "screening": 2}),
    )
    told = sync(world.staff_a, *(acts[place] for place in order))
    assert {one["result"] for one in told.values()} == {"created"}
    assert (episodes(world, pid), judged(world, pid)) == ([False, True], ("screened", True, []))
