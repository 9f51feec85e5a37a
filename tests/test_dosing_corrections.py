"""Corrections of dosing sessions: with a reason, against the session's ETag, never against a rule."""

from typing import Any

import pytest

from tests.dosing_cases import AMENDMENTS, a_session_to_close, at, closing, path_of
from tests.world import World


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


def test_a_dose_or_reading_of_another_session_is_not_there(world: World) -> None:
    mine, other = a_session_to_close(world), a_session_to_close(world)
    for kind, index in (("doses", "doses"), ("vitals", "vitals")):
        path = f"{path_of(mine)}/{kind}/{other.json()[index][0]['id']}"
        body = {
            "reason": "typed wrongly",
            **AMENDMENTS["/doses/{dose_id}" if kind == "doses" else "/vitals/{reading_id}"],
        }
        assert world.staff_a.patch(path, body, mine.headers["ETag"]).status_code == 404
