"""Who was screened twice: what counts from a screening counts from the one that led to the enrolment."""

from typing import Any
from uuid import uuid4

import pytest

from app.models.extract import ExtractProfile
from app.privacy import profile
from app.privacy.lattice import K
from tests.builds import built_again
from tests.course_cases import screen_failed
from tests.route_cases import extract_of
from tests.test_course import enrol
from tests.test_deidentified import people, table
from tests.test_extract_windows import released, timings, visited
from tests.test_rule_queries import refresh_site
from tests.test_screenings import all_met, screened_again
from tests.test_visits import open_queries
from tests.test_withdrawals import refusal
from tests.world import World, protocol_definition

PLANNED = {"planned": "2025-06-16", "start": "2025-06-13", "end": "2025-06-19"}
"""Of the baseline, two weeks after the second screening, give or take three days."""


def counted_from_screening(world: World, **changes: Any) -> str:
    """A protocol version that plans the baseline from the screening, and a phone call of each screening after it."""
    definition = protocol_definition()
    screening, baseline = definition["visits"][:2]
    assert (screening["code"], baseline["code"]) == ("SCR", "BL")
    for name in ("anchor", "offset_days", "window_before", "window_after"):
        screening.pop(name)
    fortnight = {"anchor": "SCR", "offset_days": 14, "window_before": 3, "window_after": 3}
    call = {"code": "CALL", "name": "Call", "kind": "screening", "before": "BL", **fortnight, "offset_days": 7}
    visits = [screening, {**call, "window_before": 0}, {**baseline, **fortnight}, *definition["visits"][2:]]
    body = {**definition, "version": uuid4().hex, "visits": visits, **changes}
    answer = world.admin.post(f"/v1/studies/{world.study}/protocols", body)
    assert answer.status_code == 201, answer.text
    version: str = body["version"]
    return version


def screened_twice(world: World, *first: tuple[str, str], **changes: Any) -> str:
    """Somebody with screening visits of both screenings; `first`: more visits while the first one lasted."""
    pid = screen_failed(world, protocol_version=counted_from_screening(world, **changes))
    for code, day in (("SCR", "2025-01-03"), *first):
        visited(world, pid, code, day, deviation_reason="in this test")
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    visited(world, pid, "SCR", "2025-06-02", occurrence=2)
    return pid


def planned(world: World, pid: str, code: str) -> list[tuple[Any, ...]]:
    items = world.monitor.get(f"/v1/participants/{pid}/schedule").json()["items"]
    names = ("occurrence", "state", "window", "waits_for")
    return [tuple(one[name] for name in names) for one in items if one["visit_code"] == code]


def findings(world: World, pid: str, code: str) -> list[str]:
    items = world.monitor.get("/v1/visits", participant=pid, visit_code=code).json()["items"]
    return [finding["code"] for one in items for finding in one["findings"]]


def test_a_visit_is_planned_from_the_second_screening(world: World) -> None:
    pid = screened_twice(world)
    assert planned(world, pid, "BL") == [(1, "overdue", PLANNED, None)]
    due = world.monitor.get(f"/v1/studies/{world.study}/due", **{"from": "2025-06-01", "to": "2025-06-30"}).json()[
        "items"
    ]
    assert [one["window"] for one in due if (one["participant"], one["visit_code"]) == (pid, "BL")] == [PLANNED]


def test_the_day_planned_from_the_second_screening_needs_no_reason_and_that_of_the_first_does(world: World) -> None:
    pid = screened_twice(world)
    assert enrol(world, pid, "2025-06-10").status_code == 201
    late = world.staff_a.post("/v1/visits", world.visit(pid, "BL", "2025-06-20"))
    assert (refusal(late)[:2], late.json()["window"]) == ((409, "visit_outside_window"), PLANNED)
    answer = world.staff_a.post("/v1/visits", world.visit(pid, "BL", "2025-06-16"))
    assert (answer.status_code, answer.json()["window"], answer.json()["deviation_days"]) == (201, PLANNED, 0)
    path = answer.headers["Location"]
    moved = {"occurred_on": "2025-06-19", "reason": "read from the wrong line"}
    assert world.staff_a.patch(path, moved, world.staff_a.get(path).headers["ETag"]).json()["deviation_days"] == 0
    [listed] = world.monitor.get("/v1/visits", participant=pid, visit_code="BL", include="window").json()["items"]
    assert (listed["window"], listed["out_of_window"]) == (PLANNED, False)
    counted = world.monitor.get("/v1/monitoring/sites", study=world.study).json()["sites"][0]["visits"]
    assert (counted["with_window"], counted["in_window"]) == (1, 1)
    assert (findings(world, pid, "BL"), open_queries(world, pid)) == ([], [])


def test_a_visit_of_the_first_screening_keeps_the_window_of_its_time(world: World) -> None:
    pid = screened_twice(world, ("BL", "2025-01-18"))
    window = {"planned": "2025-01-17", "start": "2025-01-14", "end": "2025-01-20"}
    assert planned(world, pid, "BL") == [(1, "done", window, None), (2, "overdue", PLANNED, None)]
    assert (findings(world, pid, "BL"), open_queries(world, pid)) == ([], [])


def test_a_visit_of_a_screening_counts_from_its_own_one(world: World) -> None:
    pid = screened_twice(world, ("CALL", "2025-01-10"))
    visited(world, pid, "CALL", "2025-06-09", occurrence=2)
    window = {"planned": "2025-06-09", "start": "2025-06-09", "end": "2025-06-12"}
    assert planned(world, pid, "CALL") == [(1, "done", None, None), (2, "done", window, None)]
    assert findings(world, pid, "CALL") == []


def test_a_second_screening_that_comes_late_settles_what_was_asked_of_the_visits_after_it(world: World) -> None:
    pid = screen_failed(world, protocol_version=counted_from_screening(world))
    visited(world, pid, "SCR", "2025-01-03")
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    visited(world, pid, "BL", "2025-06-16", deviation_reason="the screening is still on the tablet")
    assert open_queries(world, pid) == ["visit_outside_window"]
    visited(world, pid, "SCR", "2025-06-02", occurrence=2)
    assert (findings(world, pid, "BL"), open_queries(world, pid)) == ([], [])


def test_one_who_missed_the_first_screening_visit_has_a_schedule_from_the_second(world: World) -> None:
    pid = screen_failed(world, protocol_version=counted_from_screening(world))
    visited(world, pid, "SCR", None, status="missed", deviation_reason="never came")
    assert planned(world, pid, "BL") == [(1, "not_applicable", None, "SCR")]
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    assert planned(world, pid, "BL") == [(1, "waiting", None, "SCR")]
    visited(world, pid, "SCR", "2025-06-02", occurrence=2)
    visited(world, pid, "CALL", "2025-06-09", occurrence=2)
    assert planned(world, pid, "BL") == [(1, "overdue", PLANNED, None)]
    visited(world, pid, "BL", "2025-06-17")
    assert (findings(world, pid, "BL"), open_queries(world, pid)) == ([], [])


def test_rows_have_the_same_visits_as_the_registry(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows by an earlier version of the profile, that were cited, stay as they were."""
    people(world, K - 2)
    pid, other = screened_twice(world, ("CALL", "2025-01-10")), screened_twice(world, ("BL", "2025-01-18"))
    for one in (pid, other):
        visited(world, one, "CALL", "2025-06-13", occurrence=2, deviation_reason="late")
        assert enrol(world, one, "2025-06-10").status_code == 201
    visited(world, pid, "BL", "2025-06-16")
    told = {("SCR", "1"): "", ("SCR", "2"): "", ("CALL", "2"): "late", ("BL", "1"): "in_window"}
    with monkeypatch.context() as patch:
        earlier = profile.VERSIONS[ExtractProfile.deidentified, "3"]
        patch.setitem(profile.PROFILES, ExtractProfile.deidentified, earlier)  # type: ignore[arg-type]
        path = released(world)
    current = released(world)
    rows = world.analyst.get(f"{current}/files/visits.csv").text
    assert timings(rows) == {**told, ("CALL", "1"): ""}
    assert rows.count(",BL,1,in_window,") == 2
    before = world.analyst.get(f"{path}/files/visits.csv").text
    assert (before.count(",BL,1,in_window,"), before.count(",BL,1,late,")) == (1, 1)
    assert screening_visit_corrected(world, pid)["deviation_days"] is None, "what was released is of its own moment"
    assert [built_again(world, one) for one in (path, current)] == ["the same rows"] * 2


def screening_visit_corrected(world: World, pid: str) -> Any:
    """The second one, moved by ten days."""
    [second, _] = world.staff_a.get("/v1/visits", participant=pid, visit_code="SCR").json()["items"]
    path, etag = f"/v1/visits/{second['id']}", world.staff_a.get(f"/v1/visits/{second['id']}").headers["ETag"]
    moved = world.staff_a.patch(path, {"occurred_on": "2025-06-12", "reason": "a wrong line"}, etag)
    assert moved.status_code == 200, moved.text
    return moved.json()


def test_the_schedule_waits_for_the_first_visit_of_the_second_screening(world: World) -> None:
    """Until then the days of the failed one plan nothing, and nothing is asked about a visit that nobody missed."""
    pid = screen_failed(world, protocol_version=counted_from_screening(world))
    visited(world, pid, "SCR", "2025-01-03")
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    assert planned(world, pid, "BL") == [(1, "waiting", None, "SCR")]
    assert [one[:2] for one in planned(world, pid, "SCR")] == [(1, "done"), (2, "upcoming")]
    due = world.monitor.get(f"/v1/studies/{world.study}/due").json()["items"]
    assert [one["visit_code"] for one in due if one["participant"] == pid] == []
    refresh_site(world)
    assert "visit_overdue" not in open_queries(world, pid)
    visited(world, pid, "SCR", "2025-06-02", occurrence=2)
    assert planned(world, pid, "BL") == [(1, "overdue", PLANNED, None)]
    refresh_site(world)
    assert "visit_overdue" in open_queries(world, pid)


def test_the_only_visit_of_its_kind_is_of_the_screening_of_its_day(world: World) -> None:
    """The first screening failed before there was one, so that the second began with the first occurrence."""
    pid = screen_failed(world, protocol_version=counted_from_screening(world))
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    visited(world, pid, "SCR", "2025-06-02")
    assert planned(world, pid, "BL") == [(1, "overdue", PLANNED, None)]
    due = world.monitor.get(f"/v1/studies/{world.study}/due").json()["items"]
    assert "BL" in [one["visit_code"] for one in due if one["participant"] == pid]
    refresh_site(world)
    assert "visit_overdue" in open_queries(world, pid)


def test_a_screening_visit_that_is_missed_leaves_the_days_to_the_one_before(world: World) -> None:
    pid = screen_failed(world, protocol_version=counted_from_screening(world))
    visited(world, pid, "SCR", "2025-05-20")
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    visited(world, pid, "SCR", None, occurrence=2, status="missed", deviation_reason="measured a week before")
    window = {"planned": "2025-06-03", "start": "2025-05-31", "end": "2025-06-06"}
    assert planned(world, pid, "BL") == [(1, "overdue", window, None)]


def test_study_days_count_from_the_second_screening(world: World) -> None:
    pid = screened_twice(world, study_day_anchors=["SCR"])
    visited(world, pid, "BL", "2025-06-16")
    rows = table(world.analyst.get(f"{extract_of(world, approved=True)}/files/visits.csv").text)
    days = {(row["visit_code"], row["occurrence"]): row["study_day"] for row in rows}
    assert days == {("SCR", "1"): "-150", ("SCR", "2"): "1", ("BL", "1"): "15"}
