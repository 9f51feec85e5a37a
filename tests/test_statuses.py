"""The days of a participant's statuses, which follow one another, and what is remarked on records of later ones."""

from typing import Any
from unittest.mock import patch

import pytest

from app.services.quality import rule_queries, rules_over_time
from tests.courses import left
from tests.dosing_cases import a_session_to_close, path_of
from tests.test_visits import findings, open_queries
from tests.test_withdrawals import NOTHING, WITHOUT_CONSENT, refusal, said
from tests.world import World


def told(world: World, pid: str, status: str, on: str, **more: Any) -> Any:
    body = {"status": status, "effective_on": on, "reason": "as the source says", **more}
    return world.staff_a.post(f"/v1/participants/{pid}/status", body)


def out_of_order(pointer: str = "/effective_on") -> tuple[int, str, list[str]]:
    return 422, "status_out_of_order", [pointer]


@pytest.mark.parametrize("status", ["active", "completed", "withdrawn", "lost_to_follow_up", "died", "terminated"])
def test_nobody_is_treated_or_leaves_before_the_enrolment(world: World, status: str) -> None:
    pid = world.enrolled()
    assert refusal(told(world, pid, status, "2025-01-19")) == out_of_order()
    assert told(world, pid, status, "2025-01-20").status_code == 201
    if status != "died":  # which nothing follows
        assert refusal(told(world, pid, "died", "2025-01-19", correction=True)) == out_of_order()


@pytest.mark.parametrize(
    ("before", "after"), [("active", "completed"), ("completed", "died"), ("lost_to_follow_up", "active")]
)
def test_no_status_begins_before_the_one_that_it_follows(world: World, before: str, after: str) -> None:
    pid = world.enrolled()
    left(world, pid, before, "2025-03-01")
    assert refusal(told(world, pid, after, "2025-02-28")) == out_of_order()
    assert told(world, pid, after, "2025-03-01").status_code == 201


def test_lost_to_follow_up_is_corrected_to_an_earlier_death(world: World) -> None:
    pid = world.enrolled()
    left(world, pid, "lost_to_follow_up", "2025-03-01")
    left(world, pid, "died", "2025-02-10", correction=True)
    person = world.monitor.get(f"/v1/participants/{pid}").json()
    assert (person["status"], person["status_on"]) == ("died", "2025-02-10")


def test_a_mistyped_first_day_of_treatment_can_be_corrected(world: World) -> None:
    pid = world.enrolled()
    left(world, pid, "active", "2025-12-01")
    left(world, pid, "active", "2025-02-01", correction=True)
    left(world, pid, "completed", "2025-09-01")


@pytest.mark.parametrize("status", ["active", "completed", "lost_to_follow_up", "terminated", "enrolled"])
def test_correcting_a_death_entered_by_mistake_keeps_the_withdrawal_before_it(world: World, status: str) -> None:
    pid = world.enrolled()
    left(world, pid, "active", "2025-02-05")
    left(world, pid, "withdrawn", "2025-03-01")
    left(world, pid, "died", "2025-03-10")
    refused = told(world, pid, status, "2025-03-02", correction=True)
    assert (refused.status_code, refused.json()["code"]) == (409, "status_transition_impossible")
    left(world, pid, "withdrawn", "2025-03-01", correction=True)
    late = world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-03-05"))
    assert (late.status_code, late.json()["code"]) == (409, "participant_left")
    left(world, pid, status, "2025-03-02", correction=True)  # the withdrawal was a mistake, too


@pytest.mark.parametrize("back", [False, True], ids=["treated", "back again"])
def test_no_corrected_status_begins_before_the_one_that_it_follows(world: World, back: bool) -> None:
    pid = world.enrolled()
    left(world, pid, "active", "2025-01-25")
    if back:
        left(world, pid, "lost_to_follow_up", "2025-02-01")
        left(world, pid, "active", "2025-02-03")
    left(world, pid, "active", "2025-02-05", correction=True)
    left(world, pid, "withdrawn", "2025-03-25")
    assert refusal(told(world, pid, "withdrawn", "2025-02-04", correction=True)) == out_of_order()
    left(world, pid, "withdrawn", "2025-02-05", correction=True)
    left(world, pid, "active", "2025-02-04", correction=True)  # its own day was mistyped


def test_an_enrolment_is_not_corrected_to_a_day_after_what_followed_it(world: World) -> None:
    pid = world.enrolled()
    left(world, pid, "withdrawn", "2025-02-01")
    left(world, pid, "died", "2025-09-01")
    path = f"/v1/participants/{pid}"

    def enrolled(on: str) -> Any:
        body = {"enrolled_on": on, "reason": "read in the file"}
        return world.staff_a.patch(path, body, world.staff_a.get(path).headers["ETag"])

    assert refusal(enrolled("2025-02-02")) == out_of_order("/enrolled_on")
    assert enrolled("2025-02-01").status_code == 200


AFTER_LEAVING = ["visit_after_leaving: After the day on which the participant withdrew or died"]


@pytest.mark.parametrize("status", ["withdrawn", "died"])
def test_a_visit_has_a_finding_while_the_participant_had_left_before_it(world: World, status: str) -> None:
    pid = world.enrolled()
    visit = world.staff_a.post("/v1/visits", world.visit(pid, "BL", "2025-02-10"))
    left(world, pid, status, "2025-02-09")
    assert (findings(world, pid, "BL"), open_queries(world, pid)) == (AFTER_LEAVING, ["visit_after_leaving"])
    shown = world.staff_a.get(visit.headers["Location"])
    assert shown.headers["ETag"] == visit.headers["ETag"], "nobody edited it"
    left(world, pid, status, "2025-02-10", correction=True)
    assert (findings(world, pid, "BL"), open_queries(world, pid)) == ([], [])


def test_a_visit_after_a_death_keeps_its_finding_until_its_day_is_corrected(world: World) -> None:
    pid = world.enrolled()
    world.staff_a.post("/v1/visits", world.visit(pid, "INT1A", "2025-02-10"))
    left(world, pid, "died", "2025-02-09")
    world.staff_a.post("/v1/visits", world.visit(pid, "DOS1", "2025-02-09"))
    rules_over_time.refresh(world.registry.served)
    assert findings(world, pid, "INT1A") == AFTER_LEAVING, "as what it hangs on came, and after a pass"
    [visit] = world.staff_a.get("/v1/visits", participant=pid, visit_code="INT1A").json()["items"]
    path = f"/v1/visits/{visit['id']}"
    for change, says in (({"deviation_reason": "as told"}, AFTER_LEAVING), ({"occurred_on": "2025-02-09"}, [])):
        body = {"reason": "read in the file", "deviation_reason": "as told", **change}
        assert world.staff_a.patch(path, body, world.staff_a.get(path).headers["ETag"]).status_code == 200
        assert [one for one in findings(world, pid, "INT1A") if one in AFTER_LEAVING] == says


@pytest.mark.parametrize("status", ["completed", "lost_to_follow_up", "terminated"])
def test_a_participant_who_neither_withdrew_nor_died_is_still_followed_up(world: World, status: str) -> None:
    pid = world.enrolled()
    world.staff_a.post("/v1/visits", world.visit(pid, "BL", "2025-02-10"))
    left(world, pid, status, "2025-02-09")
    assert findings(world, pid, "BL") == []


@pytest.mark.parametrize("status", ["withdrawn", "died"])
def test_a_dose_has_a_finding_while_the_participant_had_left_before_it(world: World, status: str) -> None:
    session = a_session_to_close(world)
    path, pid = path_of(session), session.json()["participant"]
    left(world, pid, status, "2025-03-02")
    assert said(world, path) == WITHOUT_CONSENT
    left(world, pid, status, "2025-03-04", correction=True)
    assert said(world, path) == NOTHING


def test_the_daily_pass_finds_a_visit_after_a_death_from_before_there_was_this_rule(world: World) -> None:
    pid = world.enrolled()
    world.staff_a.post("/v1/visits", world.visit(pid, "BL", "2025-02-10"))
    with patch("app.services.assessments.visit_findings.judged_again", lambda *_: rule_queries.NOTHING):
        left(world, pid, "died", "2025-02-09")
    assert findings(world, pid, "BL") == []
    rules_over_time.refresh(world.registry.served)
    assert findings(world, pid, "BL") == AFTER_LEAVING
    assert "visit_after_leaving" in open_queries(world, pid)


def event_of(world: World, pid: str, **more: Any) -> Any:
    answer = world.staff_a.post("/v1/adverse-events", world.event(pid, **more))
    assert answer.status_code == 201, answer.text
    return answer


def remarked(world: World, event: Any) -> tuple[list[str], list[str]]:
    """Findings of an event, and the open data queries of its participant."""
    read = world.monitor.get(event.headers["Location"]).json()
    return [one["code"] for one in read["findings"]], open_queries(world, read["participant"])


def both(code: str | None) -> tuple[list[str], list[str]]:
    return ([code], [code]) if code else ([], [])


FATAL: dict[str, Any] = {
    "criteria": {"death": True},
    "outcome": "fatal",
    "onset": "2025-02-08",
    "end": "2025-02-09",
    "aware_at": "2025-02-09T20:00:00Z",
}


def test_a_fatal_event_has_a_finding_while_the_status_is_not_died(world: World) -> None:
    pid = world.enrolled()
    event = event_of(world, pid, **FATAL)
    assert remarked(world, event) == both("death_contradicts_status")
    left(world, pid, "died", "2025-02-09")
    assert remarked(world, event) == both(None)
    assert world.staff_a.get(event.headers["Location"]).headers["ETag"] == event.headers["ETag"], "nobody edited it"
    left(world, pid, "active", "2025-02-01", correction=True)
    assert remarked(world, event) == both("death_contradicts_status")


def test_a_fatal_event_has_no_finding_once_the_status_is_died(world: World) -> None:
    pid = world.enrolled()
    left(world, pid, "died", "2025-02-09")
    assert remarked(world, event_of(world, pid, **FATAL)) == both(None)


@pytest.mark.parametrize(("end", "doubted"), [("2025-02-08", True), ("2025-02-09", False), ("2025-02", False)])
@pytest.mark.parametrize("first", ["death", "event"])
def test_a_fatal_event_ends_on_the_day_of_death_whichever_is_recorded_first(
    world: World, end: str, doubted: bool, first: str
) -> None:
    pid = world.enrolled()
    if first == "death":
        left(world, pid, "died", "2025-02-09")
    event = event_of(world, pid, **{**FATAL, "end": end})
    if first == "event":
        left(world, pid, "died", "2025-02-09")
    assert remarked(world, event) == both("death_day_contradicts_status" if doubted else None)
    if doubted:
        left(world, pid, "died", end, correction=True)
        assert remarked(world, event) == both(None)


def test_the_daily_pass_finds_a_fatal_event_of_another_day_from_before_there_was_this_rule(world: World) -> None:
    pid = world.enrolled()
    event = event_of(world, pid, **{**FATAL, "end": "2025-02-08"})
    with patch("app.services.safety.adverse_events.judged_again", lambda *_: rule_queries.NOTHING):
        left(world, pid, "died", "2025-02-09")
    read = world.staff_a.get(event.headers["Location"])
    assert "death_contradicts_status" in read.text, "judged as if nobody had died"
    rules_over_time.refresh(world.registry.served)
    assert remarked(world, event) == both("death_day_contradicts_status")
    assert world.staff_a.get(event.headers["Location"]).headers["ETag"] == read.headers["ETag"], "nobody edited it"
    trail = world.monitor.get("/v1/audit-entries", study=world.study, action="adverse-event:flagged").json()["items"]
    assert rules_over_time.refresh(world.registry.served) == 0
    again = world.monitor.get("/v1/audit-entries", study=world.study, action="adverse-event:flagged").json()["items"]
    assert len(trail) == len(again) > 0


def test_several_events_may_be_fatal_but_another_day_of_death_has_a_finding(world: World) -> None:
    pid = world.enrolled()
    left(world, pid, "died", "2025-02-09")
    one, same_day = event_of(world, pid, **FATAL), event_of(world, pid, **FATAL, term="Pneumonia")
    assert (remarked(world, one), remarked(world, same_day)) == (both(None), both(None))
    another = event_of(world, pid, **{**FATAL, "end": "2025-02-11"}, term="Sepsis")
    assert remarked(world, another) == both("death_day_contradicts_status")


@pytest.mark.parametrize(("onset", "doubted"), [("2025-02-10", True), ("2025-02-09", False), ("2025-02", False)])
@pytest.mark.parametrize("first", ["death", "event"])
def test_nothing_begins_after_the_death_whichever_is_recorded_first(
    world: World, onset: str, doubted: bool, first: str
) -> None:
    pid = world.enrolled()
    if first == "death":
        left(world, pid, "died", "2025-02-09")
    event = event_of(world, pid, onset=onset)
    if first == "event":
        left(world, pid, "died", "2025-02-09")
    assert remarked(world, event) == both("onset_after_death" if doubted else None)
    left(world, pid, "died", "2025-02-10", correction=True)
    assert remarked(world, event) == both(None)


def test_an_onset_after_the_death_is_corrected_at_the_event(world: World) -> None:
    pid = world.enrolled()
    left(world, pid, "died", "2025-02-09")
    event = event_of(world, pid, onset="2025-02-10")
    body = {"onset": "2025-02-01", "reason": "read in the file"}
    assert world.staff_a.patch(event.headers["Location"], body, event.headers["ETag"]).status_code == 200
    assert remarked(world, event) == both(None)
