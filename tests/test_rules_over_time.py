"""What the pass asks about that no single write can see: what is missing, and what lies on another day."""

from datetime import date
from typing import Any

import pytest

from tests.courses import left
from tests.dosing_cases import DAY, SESSIONS, a_session_to_close, closing, cssrs, held, path_of, prepared, start, vitals
from tests.test_amendments import amend, moved
from tests.test_rule_queries import amended, queries, refresh_site
from tests.world import World, madrs, protocol_definition


def missing(world: World, pid: str, visit_code: str) -> list[str]:
    items = world.monitor.get(f"/v1/participants/{pid}/schedule").json()["items"]
    [codes] = [item["missing_instruments"] for item in items if item["visit_code"] == visit_code]
    return list(codes)


def asked(world: World, pid: str, rule: str) -> list[tuple[str, str]]:
    """State and text of what a rule asks about somebody."""
    refresh_site(world)
    return [(query["state"], query["text"]) for query in queries(world, participant=pid, rule=rule)]


@pytest.mark.parametrize("items", [{}, {"CSSRS_SLV_01": 0}])
def test_a_form_that_was_not_done_is_missing_until_it_is(world: World, items: dict[str, Any]) -> None:
    pid = world.enrolled()
    begun: dict[str, Any] = {"instrument": "CSSRS_SLV", "items": items}
    visit = held(world.staff_a, pid, "PREP1", "2025-02-11", outcomes=[begun])
    assert missing(world, pid, "PREP1") == ["CSSRS_SLV"]
    [(state, text)] = asked(world, pid, "instrument_missing")
    assert (state, "CSSRS_SLV" in text) == ("open", True)
    amended(world, f"/v1/outcomes/{visit['outcomes'][0]['id']}", items=cssrs()["items"])
    assert missing(world, pid, "PREP1") == []
    assert asked(world, pid, "instrument_missing") == [("closed", text)]


def test_missing_instruments_of_a_past_visit_follow_the_version_it_was_recorded_under(world: World) -> None:
    pid = world.enrolled()
    held(world.staff_a, pid, "PREP1", "2025-02-11")
    other = {**protocol_definition(), "version": "other"}
    for visit in other["visits"]:
        if visit["code"] in ("PREP1", "PREP2"):
            visit["instruments"] = ["MADRS"]
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", other).status_code == 201
    move = {"version": "other", "reason": "amendment in force"}
    assert world.staff_a.post(f"/v1/participants/{pid}/protocol-version", move).status_code == 200
    held(world.staff_a, pid, "PREP2", "2025-02-18")
    assert [missing(world, pid, code) for code in ("PREP1", "PREP2")] == [["CSSRS_SLV"], ["MADRS"]]
    texts = sorted(text for _, text in asked(world, pid, "instrument_missing"))
    assert [" CSSRS_SLV," in texts[0], " MADRS," in texts[1]] == [True, True]
    assert len(texts) == 2


def test_a_missing_consent_to_an_amendment_has_a_query_until_it_is_given(world: World) -> None:
    pid = world.enrolled()
    assert amend(world, "2025-02-01", reconsent=["enrolled"], consent="2").status_code == 201
    [(state, text)] = asked(world, pid, "reconsent_missing")
    assert (state, "version 2" in text) == ("open", True)
    assert moved(world, pid).status_code == 200
    form = {"version": "2", "given_on": "2025-03-01", "scopes": ["main"], "reason": "asked again"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", form).status_code == 201
    assert asked(world, pid, "reconsent_missing") == [("closed", text)]


def test_nobody_is_asked_about_whom_no_amendment_asks(world: World) -> None:
    pid = world.enrolled()
    assert amend(world, "2025-02-01", reconsent=["completed"], consent="2").status_code == 201
    assert asked(world, pid, "reconsent_missing") == []


@pytest.mark.parametrize("way", ["held", "missed", "not completed"])
def test_a_completion_without_the_endpoint_has_a_query_until_it_is_recorded(world: World, way: str) -> None:
    pid = world.enrolled()
    left(world, pid, "completed", "2025-03-20")
    [(state, text)] = asked(world, pid, "completed_without_endpoint")
    assert (state, " PRIM," in text) == ("open", True)
    if way == "not completed":
        left(world, pid, "withdrawn", "2025-03-20", correction=True)
    elif way == "held":
        held(world.staff_a, pid, "PRIM", "2025-03-20")
    else:
        missed = {"participant": pid, "visit_code": "PRIM", "status": "missed", "deviation_reason": "Ill that day"}
        assert world.staff_a.post("/v1/visits", missed).status_code == 201
    assert asked(world, pid, "completed_without_endpoint") == [("closed", text)]


def test_a_dosing_visit_without_a_session_is_asked_about_until_it_has_one(world: World) -> None:
    pid = world.enrolled()
    visit = prepared(world.staff_a, pid)
    refresh_site(world, date.fromisoformat(DAY))
    assert queries(world, participant=pid, rule="dosing_session_missing") == [], "the day is not over"
    [(state, text)] = asked(world, pid, "dosing_session_missing")
    [query] = queries(world, participant=pid, rule="dosing_session_missing")
    assert (state, query["subject_type"], query["subject"]) == ("open", "visit", visit["id"])
    assert world.staff_a.post(SESSIONS, start(visit["id"])).status_code == 201
    assert asked(world, pid, "dosing_session_missing") == [("closed", text)]


def test_each_time_point_of_a_closed_session_without_its_vital_signs_is_asked_about(world: World) -> None:
    session = a_session_to_close(world)
    pid = session.json()["participant"]
    assert asked(world, pid, "vitals_missing") == [], "the session is open"
    assert world.staff_a.post(path_of(session, "/close"), closing()).status_code == 201
    waiting = dict.fromkeys(one["timepoint"] for one in world.staff_a.get(path_of(session)).json()["open_vitals"])
    texts = sorted(text for state, text in asked(world, pid, "vitals_missing") if state == "open")
    assert len(texts) == len(waiting) == 4
    assert texts[0] == "The session is closed without the vital signs of M180: SYSBP, DIABP, PULSE, TEMP"
    late = {**vitals("M180", "12:15"), "reason": "found on the paper form"}
    assert world.staff_a.post(path_of(session, "/vitals"), late).status_code == 201
    still = queries(world, participant=pid, rule="vitals_missing", state="open")
    assert len(still) == 4, "the pass closes what the pass raised"
    assert sorted(text for state, text in asked(world, pid, "vitals_missing") if state == "open") == texts[1:]


@pytest.mark.parametrize(
    ("code", "days", "collected_on", "states"),
    [
        ("BL", ("2025-02-10", "2025-02-11"), "2025-02-11", []),
        ("BL", ("2025-02-10", None), "2025-11-01", ["open"]),
        ("PRIM", ("2025-05-26", None), "2025-06-09", []),  # the last day of its window
        ("PRIM", ("2025-05-26", None), "2025-06-10", ["open"]),
    ],
)
def test_a_measurement_of_another_day_than_its_visit_is_asked_about(
    world: World, code: str, days: tuple[str, str | None], collected_on: str, states: list[str]
) -> None:
    pid = world.enrolled()
    held(world.staff_a, pid, "DOS2", "2025-03-31")
    outcome = {**madrs(2), "collected_on": collected_on}
    visit = held(world.staff_a, pid, code, days[0], ended_on=days[1], outcomes=[outcome])
    assert [state for state, _ in asked(world, pid, "collected_on_another_day")] == states
    amended(world, f"/v1/outcomes/{visit['outcomes'][0]['id']}", collected_on=days[0])
    assert {state for state, _ in asked(world, pid, "collected_on_another_day")} <= {"closed"}


def test_an_event_of_before_the_first_dose_that_is_held_to_be_of_the_drug_is_asked_about(world: World) -> None:
    """A reaction is one to a dose (ICH E2A, II.A.2); what began on an unknown day may have followed one."""
    pid, rule = world.enrolled(), "related_before_dose"
    for onset, related in (
        ("2025-02-03", "definite"),
        ("2025-02", "possible"),
        (None, "probable"),
        ("2025", "definite"),
    ):
        body = world.event(pid, onset=onset, relatedness_drug=related)
        assert world.staff_a.post("/v1/adverse-events", body).status_code == 201
    body = world.event(pid, onset="2025-02-03", relatedness_drug="unlikely", relatedness_therapy="definite")
    assert world.staff_a.post("/v1/adverse-events", body).status_code == 201
    refresh_site(world)
    assert len(asked := queries(world, rule=rule)) == 3
    assert {one["field"] for one in asked} == {"/relatedness_drug"}
    dosing = world.staff_a.post("/v1/visits", world.visit(pid, "DOS1", "2025-02-20"))
    refresh_site(world)
    assert sorted(one["state"] for one in queries(world, rule=rule)) == ["closed", "closed", "open"]
    path = f"/v1/adverse-events/{next(one['subject'] for one in queries(world, rule=rule) if one['state'] == 'open')}"
    amended(world, path, relatedness_drug="not_related")
    refresh_site(world)
    assert {one["state"] for one in queries(world, rule=rule)} == {"closed"}
    amended(world, path, relatedness_drug="possible")
    amended(world, dosing.headers["Location"], occurred_on="2025-02-03")
    refresh_site(world)
    assert {one["state"] for one in queries(world, rule=rule)} == {"closed"}
