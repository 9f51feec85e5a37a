"""Corrections of dosing sessions: with a reason, against the session's ETag, never against a rule."""

from datetime import time
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from httpx2 import Response

from tests.dosing_cases import (
    AMENDMENTS,
    DAY,
    REVIEW,
    SESSIONS,
    SIGNALS,
    a_session,
    a_session_to_close,
    at,
    closing,
    cssrs,
    dose,
    held,
    path_of,
    start,
    vitals,
)
from tests.world import World, protocol_definition


@pytest.mark.parametrize("below", AMENDMENTS, ids=["session", "dose", "vitals"])
def test_what_is_in_a_closed_session_is_corrected_with_a_reason(world: World, below: str) -> None:
    record = a_session_to_close(world)
    closed = world.staff_a.post(path_of(record, "/close"), closing())
    body, seen = {"reason": "typed wrongly", **AMENDMENTS[below]}, closed.headers["ETag"]
    done = world.staff_a.patch(path_of(closed, below), body, seen)
    assert done.status_code == 200, done.text
    assert done.json()["version"] == closed.json()["version"] + 1
    assert done.headers["ETag"] != seen
    assert world.staff_a.get(path_of(record)).json() == done.json()
    stale = world.staff_a.patch(path_of(closed, below), {"reason": "typed wrongly", **_other(below)}, seen)
    assert (stale.status_code, stale.json()["code"]) == (412, "version_stale")
    again = world.staff_a.patch(path_of(closed, below), body, done.headers["ETag"])
    assert again.json()["version"] == done.json()["version"], "the same again changes nothing"
    trail = world.monitor.get("/v1/audit-entries").json()["items"]
    assert trail[0]["reason"] == "typed wrongly"


@pytest.mark.parametrize("below", AMENDMENTS, ids=["session", "dose", "vitals"])
def test_a_repeated_correction_of_a_session_is_answered_with_its_own_version(world: World, below: str) -> None:
    record = a_session_to_close(world)
    headers = world.staff_a.headers(**{"If-Match": record.headers["ETag"], "Idempotency-Key": str(uuid4())})
    body = {"reason": "typed wrongly", **AMENDMENTS[below]}
    done = world.registry.client.patch(path_of(record, below), json=body, headers=headers)
    elsewhere = {"reason": "by somebody else", **_other(below)}
    assert world.staff_a.patch(path_of(record, below), elsewhere, done.headers["ETag"]).status_code == 200
    again = world.registry.client.patch(path_of(record, below), json=body, headers=headers)
    assert (again.status_code, again.content, again.headers["ETag"]) == (200, done.content, done.headers["ETag"])


def _other(below: str) -> dict[str, Any]:
    return {"": {"staff": ["T04", "T05"]}, "/doses/{dose_id}": {"planned_mg": 100, "given_mg": 100}}.get(
        below, {"values": {"PULSE": 73}}
    )


LOOSE: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "one member of staff": ("", {"staff": ["T01"]}, 409, "dosing_not_allowed"),
    "a confirmation taken back": ("", {"confirmations": {}}, 409, "dosing_not_allowed"),
    "no release": ("", {"released_at": None}, 409, "discharge_incomplete"),
    "no discharge": ("", {"discharge": []}, 409, "discharge_incomplete"),
    "no end": ("", {"ended_at": None, "released_at": None}, 422, "validation_failed"),
    "no staff": ("", {"staff": None}, 422, "validation_failed"),
    "an end before the start": ("", {"ended_at": at("08:00")}, 422, "validation_failed"),
    "a release before the end": ("", {"released_at": at("16:00")}, 422, "validation_failed"),
    "a start after the dose": ("", {"started_at": at("09:16")}, 422, "moment_outside_visit"),
    "an end measure taken away": ("/vitals/{last}", {"values": {"TEMP": None}}, 409, "discharge_incomplete"),
    "an impossible pulse": ("/vitals/{last}", {"values": {"PULSE": 300}}, 422, "vitals_refused"),
    "half a dose": ("/doses/{dose_id}", {"given_at": None}, 422, "validation_failed"),
    "a dose off the plan": ("/doses/{dose_id}", {"given_mg": 130}, 409, "dose_off_plan"),
}


def test_a_correction_breaks_no_rule_that_the_session_was_made_by(world: World) -> None:
    record = a_session_to_close(world)
    closed = world.staff_a.post(path_of(record, "/close"), closing())
    last = closed.json()["vitals"][-1]["id"]
    for why, (below, change, status, code) in LOOSE.items():
        path = path_of(closed, below.replace("{last}", last))
        answer = world.staff_a.patch(path, {"reason": "typed wrongly", **change}, closed.headers["ETag"])
        assert (answer.status_code, answer.json()["code"]) == (status, code), why
        assert world.staff_a.get(path_of(record)).json() == closed.json(), why


def test_the_same_discharge_in_another_order_makes_no_version(world: World) -> None:
    told = closing()
    closed = world.staff_a.post(path_of(a_session_to_close(world), "/close"), told)
    again = {"discharge": told["discharge"][::-1], "reason": "The form was saved again"}
    answer = world.staff_a.patch(path_of(closed), again, closed.headers["ETag"])
    assert (answer.status_code, answer.json()) == (200, closed.json())


def test_a_dose_or_reading_of_another_session_is_not_there(world: World) -> None:
    mine, other = a_session_to_close(world), a_session_to_close(world)
    for kind, index in (("doses", "doses"), ("vitals", "vitals")):
        path = f"{path_of(mine)}/{kind}/{other.json()[index][0]['id']}"
        body = {
            "reason": "typed wrongly",
            **AMENDMENTS["/doses/{dose_id}" if kind == "doses" else "/vitals/{reading_id}"],
        }
        assert world.staff_a.patch(path, body, mine.headers["ETag"]).status_code == 404


def corrected(world: World, path: str, part: str = "", **change: Any) -> Response:
    """A correction of a record, or of what is in a session, against its newest ETag."""
    seen = world.staff_a.get(path).headers["ETag"]
    return world.staff_a.patch(path + part, {"reason": "read in the source", **change}, seen)


def remarks(world: World, path: str) -> list[str]:
    """What is said of the doses of a session."""
    doses = world.staff_a.get(path).json()["doses"]
    return [f"{one['code']} {one['message'].partition(':')[0]}" for dose in doses for one in dose["findings"]]


def asked(world: World, path: str) -> list[str]:
    """The open data queries on the doses of a session."""
    of_it = {"subject_type": "dosing_session", "subject": path.rpartition("/")[2], "state": "open"}
    items = world.monitor.get("/v1/data-queries", **of_it).json()["items"]
    return [query["rule"] for query in items if query["field"].startswith("/doses/")]


def test_a_signal_holds_a_dose_that_was_first_recorded_as_not_given(world: World) -> None:
    session = a_session(world)
    path, read = path_of(session), session.json()
    not_given = {"kind": "initial", "planned_mg": 80, "deviation_reason": "Not yet"}
    [told] = world.staff_a.post(f"{path}/doses", not_given).json()["doses"]
    world.staff_a.post("/v1/outcomes", {"participant": read["participant"], "visit": read["visit"], **cssrs(4)})
    given = {"given_mg": 80, "given_at": at("12:00"), "deviation_reason": None}
    refused = corrected(world, path, f"/doses/{told['id']}", **given)
    assert (refused.status_code, refused.json()["code"]) == (409, "dose_refused")
    assert [error["code"] for error in refused.json()["errors"]] == ["DOSE-SIGNAL"]
    for signal in world.staff_a.get(path).json()["holding"]:
        assert world.staff_a.post(f"{SIGNALS}/{signal['id']}/review", REVIEW).status_code == 201
    assert corrected(world, path, f"/doses/{told['id']}", **given).status_code == 200


def test_a_dose_is_not_moved_behind_the_end_of_its_session(world: World) -> None:
    record = a_session_to_close(world)
    world.staff_a.post(path_of(record, "/close"), closing())
    of_dose = f"/doses/{record.json()['doses'][0]['id']}"
    late = corrected(world, path_of(record), of_dose, given_at=at("17:01"))
    assert (late.status_code, late.json()["code"]) == (422, "moment_outside_visit")
    assert [(error["pointer"], error["code"]) for error in late.json()["errors"]] == [("/given_at", "after_end")]


@pytest.mark.parametrize("scope", ["dosing", "collection"])
def test_a_dose_after_the_withdrawal_of_dosing_is_kept_with_its_reason_and_flagged(world: World, scope: str) -> None:
    session = a_session(world)
    path, pid = path_of(session), session.json()["participant"]
    assert world.staff_a.post(f"{path}/doses", dose()).status_code == 201
    back = {"scope": scope, "effective_on": DAY, "reason": "told the therapists"}
    assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals", back).status_code == 201
    assert world.staff_a.post(f"{path}/vitals", vitals("PRESUPP", "11:00")).status_code == 201, "for their safety"
    second = dose("supplemental", 40, "11:05")
    refused = world.staff_a.post(f"{path}/doses", second)
    assert (refused.status_code, refused.json()["code"]) == (409, "dose_off_plan")
    assert [error["code"] for error in refused.json()["errors"]] == ["DOSE-CONSENT"]
    kept = world.staff_a.post(f"{path}/doses", {**second, "deviation_reason": "Given before we were told"})
    assert kept.status_code == 201, kept.text
    assert world.staff_a.post(f"{path}/vitals", vitals("M180", "12:15")).status_code == 201
    assert remarks(world, path) == ["dose_without_consent DOSE-CONSENT"], "not the dose from before"
    assert asked(world, path) == ["dose_without_consent"]


FORGOTTEN = {"doses": dose("supplemental", 40, "11:05"), "vitals": vitals(None, "11:00")}


def test_what_was_forgotten_is_added_to_a_closed_session_with_the_reason(world: World) -> None:
    record = a_session_to_close(world)
    path = path_of(record)
    assert world.staff_a.post(f"{path}/close", closing()).status_code == 201
    why = "Found on the paper form"
    for below in ("vitals", "doses"):
        refused = world.staff_a.post(f"{path}/{below}", FORGOTTEN[below])
        assert (refused.status_code, refused.json()["code"]) == (409, "dosing_session_closed")
        added = world.staff_a.post(f"{path}/{below}", {**FORGOTTEN[below], "reason": why})
        assert (added.status_code, added.json()["state"]) == (201, "closed"), added.text
        assert world.monitor.get("/v1/audit-entries").json()["items"][0]["reason"] == why
    assert [one["kind"] for one in added.json()["doses"]] == ["initial", "supplemental"]
    assert remarks(world, path) == []
    again = world.staff_a.post(f"{path}/close", closing())
    assert (again.status_code, again.json()["code"]) == (409, "dosing_session_closed")


def test_what_was_given_as_needed_was_given_on_the_day_of_the_session(world: World) -> None:
    session = a_session_to_close(world)
    early = {"atc": "C07AB02", "kind": "as_needed", "amount_mg": 25, "given_at": "1999-01-01T12:00:00Z"}
    refused = [
        world.staff_a.post(path_of(session, "/close"), closing(medications=[early])),
        corrected(world, path_of(session), medications=[early]),
    ]
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (422, "moment_outside_visit")
        assert answer.json()["errors"][0]["pointer"] == "/medications/0/given_at"
    before = {**early, "kind": "concomitant"}
    assert corrected(world, path_of(session), medications=[before]).status_code == 200


def test_a_forgotten_dose_lies_before_the_end_of_its_session(world: World) -> None:
    record = a_session_to_close(world)
    path = path_of(record)
    assert world.staff_a.post(f"{path}/close", closing()).status_code == 201
    late = {**dose("supplemental", 40, "17:01"), "reason": "Found on the paper form"}
    refused = world.staff_a.post(f"{path}/doses", late)
    assert (refused.status_code, refused.json()["errors"][0]["code"]) == (422, "after_end")


def test_two_doses_that_a_correction_brings_too_near_are_flagged_until_it_is_undone(world: World) -> None:
    record = a_session_to_close(world)
    first, pid = path_of(record), record.json()["participant"]
    assert world.staff_a.post(f"{first}/close", closing()).status_code == 201
    visit = held(world.staff_a, pid, "DOS2", "2025-03-24")  # 21 days after DAY
    second = world.staff_a.post(SESSIONS, start(visit["id"], "2025-03-24")).headers["Location"]
    given = dose(given_at=at("09:15", "2025-03-24"))
    assert world.staff_a.post(f"{second}/doses", given).status_code == 201
    night = "2025-03-04"
    ends = {"ended_at": at("06:00", night), "released_at": at("08:00", night)}
    assert corrected(world, first, **ends).status_code == 200
    of_first = f"/doses/{record.json()['doses'][0]['id']}"
    moved = {"given_at": at("00:30", night)}
    assert corrected(world, first, of_first, **moved).json()["code"] == "dose_off_plan"
    told = corrected(world, first, of_first, **moved, deviation_reason="Fell asleep before")
    assert told.status_code == 200, told.text
    for path in (first, second):
        assert (remarks(world, path), asked(world, path)) == (["dose_off_course DOSE-INTERVAL"], ["dose_off_course"])
    assert corrected(world, first, of_first, given_at=at("09:15")).status_code == 200
    for path in (first, second):
        assert (remarks(world, path), asked(world, path)) == ([], [])


def test_times_from_before_there_was_a_latest_hour_can_be_corrected(world: World) -> None:
    record = a_session_to_close(world)
    path, afternoon = path_of(record), at("15:00", "2025-03-04")
    medication = {"atc": "N05BA01", "kind": "as_needed", "amount_mg": 5, "given_at": afternoon}
    with patch("app.services.dosing.dosing_day._NIGHT_ENDS", time(23, 59)):
        ends = closing(ended_at=afternoon, released_at=afternoon, medications=[medication])
        assert world.staff_a.post(f"{path}/close", ends).status_code == 201
        late = {"taken_at": afternoon, "values": {"PULSE": 70}, "reason": "found on the chart"}
        reading = world.staff_a.post(f"{path}/vitals", late).json()["vitals"][-1]
        given = world.staff_a.get(path).json()["doses"][0]
        moved = {"given_at": afternoon, "deviation_reason": "told by the night shift"}
        assert corrected(world, path, f"/doses/{given['id']}", **moved).status_code == 200
    assert corrected(world, path, medications=[medication, {**medication, "atc": "C08CA05"}]).status_code == 200
    assert corrected(world, path, f"/vitals/{reading['id']}", values={"PULSE": 71}).status_code == 200
    assert corrected(world, path, f"/doses/{given['id']}", given_mg=79).status_code == 200
    later = corrected(world, path, f"/doses/{given['id']}", given_at=at("14:00", "2025-03-04"))
    assert (later.status_code, later.json()["code"]) == (422, "moment_outside_visit")


def test_a_dose_is_flagged_while_a_visit_that_prepares_it_is_said_not_to_have_been_held(world: World) -> None:
    record = a_session_to_close(world)
    path, pid = path_of(record), record.json()["participant"]
    [prep] = world.staff_a.get("/v1/visits", participant=pid, visit_code="PREP2").json()["items"]
    of_prep = f"/v1/visits/{prep['id']}"
    missed = {"status": "missed", "occurred_on": None, "deviation_reason": "Was not there"}
    assert corrected(world, of_prep, **missed).status_code == 200
    assert (remarks(world, path), asked(world, path)) == (["dose_off_course DOSE-PREPARED"], ["dose_off_course"])
    assert world.staff_a.get(path).headers["ETag"] != record.headers["ETag"]
    there = {"status": "completed", "occurred_on": prep["occurred_on"], "deviation_reason": None}
    assert corrected(world, of_prep, **there).status_code == 200
    assert (remarks(world, path), asked(world, path)) == ([], [])


def test_a_dose_is_checked_against_the_protocol_version_of_its_day(world: World) -> None:
    record = a_session_to_close(world)
    path, pid = path_of(record), record.json()["participant"]
    definition = {**protocol_definition(), "version": "larger"}
    for one in definition["dosing"]["doses"]:
        one["initial_min_mg"] = 100
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", definition).status_code == 201
    move = {"version": "larger", "reason": "amendment in force"}
    assert world.staff_a.post(f"/v1/participants/{pid}/protocol-version", move).status_code == 200
    reading = record.json()["vitals"][0]["id"]
    assert corrected(world, path, f"/vitals/{reading}", values={"PULSE": 72}).status_code == 200
    assert remarks(world, path) == []
