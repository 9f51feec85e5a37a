"""Preparation and integration sessions are part of their visit; a therapist does not rate their own participant."""

from typing import Any

import pytest

from tests.dosing_cases import SESSIONS, a_session, after_dose, cssrs, held, prepared, start
from tests.test_bulk import line, results, sent
from tests.test_rules_over_time import asked
from tests.world import World, madrs, protocol_definition

THERAPY: dict[str, Any] = {"minutes": 90, "mode": "in_person", "staff": ["T02", "T01"]}


def rated(pid: str, visit: str, rater: str | None = "T01") -> dict[str, Any]:
    return {"participant": pid, "visit": visit, **madrs(2), "rater": rater}


def test_a_therapy_session_is_recorded_with_its_visit(world: World) -> None:
    visit = held(world.staff_a, world.enrolled(), "PREP1", "2025-02-11", therapy=THERAPY, outcomes=[cssrs()])
    assert visit["therapy"] == {"minutes": 90, "mode": "in_person", "staff": ["T01", "T02"], "cssrs_done": True}
    assert world.monitor.get(f"/v1/visits/{visit['id']}").json()["therapy"] == visit["therapy"]
    other = held(world.staff_a, world.enrolled(), "PREP1", "2025-02-11", therapy=THERAPY)
    assert not other["therapy"]["cssrs_done"]
    assert held(world.staff_a, world.enrolled(), "PREP1", "2025-02-11")["therapy"] is None


@pytest.mark.parametrize(
    "form",
    [
        {"instrument": "CSSRS_SLV"},
        {"instrument": "CSSRS_SLV", "items": {"CSSRS_SLV_10": 0}},
        {"instrument": "CSSRS_LIFE", "items": {f"CSSRS_LIFE_{number:02d}": 0 for number in range(1, 11)}},
    ],
)
def test_neither_a_form_hardly_answered_nor_the_lifetime_one_is_the_c_ssrs_of_a_preparation(
    world: World, form: dict[str, Any]
) -> None:
    pid = world.enrolled()
    visit = held(world.staff_a, pid, "PREP1", "2025-02-11", therapy=THERAPY, outcomes=[{"items": {}, **form}])
    assert visit["therapy"]["cssrs_done"] is False
    assert world.monitor.get(f"/v1/visits/{visit['id']}").json()["therapy"] == visit["therapy"]


def test_it_is_corrected_added_and_taken_away_with_a_reason(world: World) -> None:
    visit = held(world.staff_a, world.enrolled(), "PREP1", "2025-02-11")
    path = f"/v1/visits/{visit['id']}"
    for therapy in (THERAPY, {**THERAPY, "minutes": 45}, None):
        seen = world.staff_a.get(path).headers["ETag"]
        done = world.staff_a.patch(path, {"reason": "typed wrongly", "therapy": therapy}, seen)
        assert done.status_code == 200, done.text
        shown = done.json()["therapy"]
        assert (shown and shown["minutes"]) == (therapy and therapy["minutes"])
        same = world.staff_a.patch(path, {"reason": "typed wrongly", "therapy": therapy}, done.headers["ETag"])
        known = {"T01", "T02"} if therapy else None
        assert same.status_code == 200
        assert (shown and set(shown["staff"])) == known
    trail = world.monitor.get("/v1/audit-entries", study=world.study, action="visit:amended").json()["items"]
    minutes = [(row["old"], row["new"]) for row in trail if row["field"] == "therapy.minutes"]
    assert sorted(minutes, key=str) == [(45, None), (90, 45), (None, 90)]


def test_only_preparation_and_integration_visits_that_took_place_have_one(world: World) -> None:
    body = {"participant": world.enrolled(), "visit_code": "BL", "occurred_on": "2025-02-11", "status": "completed"}
    refused = world.staff_a.post("/v1/visits", {**body, "therapy": THERAPY})
    assert (refused.status_code, refused.json()["code"]) == (422, "not_a_therapy_visit")
    missed = {**body, "visit_code": "PREP1", "occurred_on": None, "status": "missed", "deviation_reason": "Ill"}
    refused = world.staff_a.post("/v1/visits", {**missed, "deviation_reason": "Ill that day", "therapy": THERAPY})
    assert [error["code"] for error in refused.json()["errors"]] == ["therapy_contradicts_status"]
    visit = held(world.staff_a, world.enrolled(), "PREP1", "2025-02-11", therapy=THERAPY)
    path = f"/v1/visits/{visit['id']}"
    change = {"reason": "typed wrongly", "status": "missed", "occurred_on": None, "deviation_reason": "Ill that day"}
    seen = world.staff_a.get(path).headers["ETag"]
    assert world.staff_a.patch(path, change, seen).json()["code"] == "visit_not_held"
    assert world.staff_a.patch(path, {**change, "therapy": None}, seen).status_code == 200


@pytest.mark.parametrize("name", ["JD", "jd", "Jane Doe", "T", "t01", "T01 ", "12"])
def test_staff_go_by_a_code_that_is_no_name(world: World, name: str) -> None:
    body = world.visit(world.enrolled(), "PREP1", therapy={**THERAPY, "staff": [name]})
    assert world.staff_a.post("/v1/visits", body).status_code == 422


def test_a_therapist_does_not_rate_the_madrs_of_the_same_participant(world: World) -> None:
    staff, pid = world.staff_a, world.enrolled()
    visit = held(staff, pid, "BL", "2025-02-10")
    held(staff, pid, "PREP1", "2025-02-11", therapy=THERAPY)
    refused = staff.post("/v1/outcomes", rated(pid, visit["id"]))
    assert (refused.status_code, refused.json()["code"]) == (409, "rater_not_independent")
    assert [(error["pointer"], error["code"]) for error in refused.json()["errors"]] == [
        ("/rater", "RATER-INDEPENDENT")
    ]
    done = staff.post("/v1/outcomes", rated(pid, visit["id"], "R01"))
    assert (done.status_code, done.json()["rater"]) == (201, "R01")
    change = {"reason": "typed wrongly", "rater": "T02"}
    assert staff.patch(done.headers["Location"], change, done.headers["ETag"]).json()["code"] == "rater_not_independent"
    change = {"reason": "typed wrongly", "rater": "R02"}
    assert staff.patch(done.headers["Location"], change, done.headers["ETag"]).json()["rater"] == "R02"
    seen = staff.get(done.headers["Location"]).headers["ETag"]
    change = {"reason": "typed wrongly", "rater": None}
    assert staff.patch(done.headers["Location"], change, seen).json()["rater"] is None
    other = world.enrolled()
    theirs = held(staff, other, "BL", "2025-02-10")
    assert staff.post("/v1/outcomes", rated(other, theirs["id"])).status_code == 201, "of another participant it may be"
    form = {**cssrs(), "rater": "T01", "participant": pid, "visit": visit["id"]}
    assert staff.post("/v1/outcomes", form).status_code == 201, "the rule is about the MADRS"


def test_a_therapist_of_a_dosing_session_does_not_rate_either(world: World) -> None:
    session = a_session(world).json()
    refused = world.staff_a.post("/v1/outcomes", rated(session["participant"], session["visit"], "T02"))
    assert refused.json()["code"] == "rater_not_independent"


def test_a_rater_does_not_treat_afterwards(world: World) -> None:
    staff, pid = world.staff_a, world.enrolled()
    visit = prepared(staff, pid)
    assert staff.post("/v1/outcomes", rated(pid, visit["id"])).status_code == 201
    refused = staff.post(SESSIONS, start(visit["id"]))
    assert (refused.status_code, refused.json()["code"]) == (409, "therapist_is_rater")
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/staff"]
    body = world.visit(pid, "INT1A", "2025-03-04", therapy=THERAPY)
    refused = staff.post("/v1/visits", body)
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/therapy/staff"]
    session = staff.post(SESSIONS, start(visit["id"], staff=["T02", "T03"]))
    assert session.status_code == 201
    change = {"reason": "typed wrongly", "staff": ["T01", "T02"]}
    refused = staff.patch(session.headers["Location"], change, session.headers["ETag"])
    assert refused.json()["code"] == "therapist_is_rater"


def test_who_may_not_rate_a_form_does_not_rate_it_before_the_participant_leaves_either(world: World) -> None:
    plan = {**protocol_definition(), "version": "independent"}
    plan["rater_independence"]["instruments"] = ["CSSRS_SLV"]
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", plan).status_code == 201
    staff, pid = world.staff_a, world.enrolled(protocol_version="independent")
    visit = prepared(staff, pid)["id"]
    form = staff.post("/v1/outcomes", {"participant": pid, "visit": visit, **after_dose(), "rater": "T01"})
    assert form.status_code == 201
    assert staff.post(SESSIONS, start(visit)).json()["code"] == "therapist_is_rater"
    unnamed = staff.patch(form.headers["Location"], {"reason": "typed wrongly", "rater": None}, form.headers["ETag"])
    assert ["CSSRS_SLV_END" in text for _, text in asked(world, pid, "rater_missing")].count(True) == 1
    assert staff.post(SESSIONS, start(visit)).status_code == 201
    back = staff.patch(form.headers["Location"], {"reason": "typed wrongly", "rater": "T01"}, unnamed.headers["ETag"])
    assert (back.status_code, back.json()["code"]) == (409, "rater_not_independent")


def test_a_therapist_of_a_visit_rates_nothing_at_it(world: World) -> None:
    body = world.visit(world.enrolled(), "PREP1", "2025-02-11", therapy=THERAPY)
    refused = world.staff_a.post("/v1/visits", {**body, "outcomes": [{**madrs(2), "rater": "T01"}]})
    assert (refused.status_code, refused.json()["code"]) == (409, "rater_not_independent")
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/outcomes/0/rater"]
    taken = world.staff_a.post("/v1/visits", {**body, "outcomes": [{**madrs(2), "rater": "R01"}]})
    assert taken.status_code == 201, "and a refused visit makes nobody a therapist or a rater"


@pytest.mark.parametrize(("first", "code"), [("PREP1", "rater_not_independent"), ("BL", "therapist_is_rater")])
def test_nobody_treats_and_rates_in_the_lines_of_one_upload(world: World, first: str, code: str) -> None:
    def lines(pid: str) -> list[dict[str, Any]]:
        rating = world.visit(pid, "BL", "2025-02-10", outcomes=[{**madrs(2), "rater": "T01"}])
        both = [rating, world.visit(pid, "PREP1", "2025-02-11", therapy=THERAPY)]
        return [line(one) for one in sorted(both, key=lambda one: one["visit_code"] != first)]

    pids = [world.enrolled(), world.enrolled()]
    told = results(sent(world.staff_a, "visits", [one for pid in pids for one in lines(pid)]))
    assert [one["result"] for one in told] == ["created", "conflict"] * 2
    assert {one["problem"]["code"] for one in told[1::2]} == {code}


def test_a_refused_line_makes_nobody_a_therapist_or_a_rater(world: World) -> None:
    form = {**madrs(2), "rater": "T01"}

    def rating(pid: str, *forms: Any) -> dict[str, Any]:
        return line(world.visit(pid, "BL", "2025-02-10", outcomes=forms))

    def treating(pid: str, *forms: Any) -> dict[str, Any]:
        return line(world.visit(pid, "PREP1", "2025-02-11", therapy=THERAPY, outcomes=forms))

    one, other = world.enrolled(), world.enrolled()
    lines = [treating(one, form), rating(one, form), rating(other, form, form), treating(other)]
    told = [one["result"] for one in results(sent(world.staff_a, "visits", lines))]
    assert told == ["conflict", "created", "invalid", "created"]
