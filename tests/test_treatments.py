"""Treatments before the study: what they come to, and how a typing error in one is put right."""

from typing import Any

import pytest
from httpx2 import Response

from tests.course_cases import TREATMENT, a_treatment
from tests.test_sync import act, sync
from tests.world import World


def test_resistance_counts_different_adequate_treatments_of_this_episode(world: World) -> None:
    pid = world.enrolled()
    path = f"/v1/participants/{pid}/treatments"

    def told(**changes: Any) -> tuple[int, bool]:
        assert world.staff_a.post(path, {**TREATMENT, **changes}).status_code == 201
        read = world.monitor.get(path).json()
        return read["failed_adequate"], read["treatment_resistant"]

    assert told() == (1, False)
    assert told(outcome="partial") == (1, False)  # the same substance
    assert told(atc="N06AX16", adequate=False) == (1, False)
    assert told(atc="N06AX16", outcome="response") == (1, False)
    assert told(atc="N06AX16", this_episode=False) == (1, False)
    assert told(atc="N06AX16") == (2, True)


def amend(world: World, record: Response, **changes: Any) -> Response:
    body = {"reason": "read from the wrong line", **changes}
    return world.staff_a.patch(record.headers["Location"], body, record.headers["ETag"])


def listed(world: World, record: Response) -> Any:
    return world.monitor.get(record.headers["Location"].rpartition("/")[0]).json()


def test_a_mistyped_substance_is_corrected_and_resistance_follows(world: World) -> None:
    first = a_treatment(world)
    path = first.headers["Location"].rpartition("/")[0]
    same = world.staff_a.post(path, TREATMENT)
    assert listed(world, first)["treatment_resistant"] is False
    corrected = amend(world, same, atc="N06AX16")
    assert (corrected.status_code, corrected.json()["version"]) == (200, 2)
    told = listed(world, first)
    assert [one["atc"] for one in told["items"]] == ["N06AB04", "N06AX16"]
    assert (told["items"][1], told["treatment_resistant"]) == (corrected.json(), True)
    assert world.monitor.get(same.headers["Location"]).json() == corrected.json()


def test_a_correction_is_in_trail_and_feed_with_old_and_new_value_author_and_reason(world: World) -> None:
    record = a_treatment(world)
    pid = record.headers["Location"].split("/")[3]
    assert amend(world, record, weeks=6).is_success
    (row,) = world.monitor.get("/v1/audit-entries", participant=pid, action="treatment:amended").json()["items"]
    assert (row["field"], row["old"], row["new"], row["subject_version"]) == ("weeks", 8, 6, 2)
    assert (row["subject_id"], row["reason"]) == (record.json()["id"], "read from the wrong line")
    assert row["actor"] == world.staff_a.get("/v1/me").json()["id"]
    change = world.monitor.get("/v1/changes").json()["items"][-1]
    assert (change["action"], change["fields"], change["version"]) == ("treatment:amended", ["weeks"], 2)


def test_a_correction_that_changes_nothing_leaves_the_version(world: World) -> None:
    record = a_treatment(world)
    same = amend(world, record, weeks=TREATMENT["weeks"])
    assert (same.status_code, same.json(), same.headers["ETag"]) == (200, record.json(), record.headers["ETag"])


@pytest.mark.parametrize(
    ("change", "pointer"),
    [({"atc": "n06ab04"}, "/atc"), ({"atc": None}, "/atc"), ({"weeks": -1}, "/weeks"), ({"outcome": None}, "/outcome")],
)
def test_no_correction_makes_a_treatment_that_could_not_be_recorded(
    world: World, change: dict[str, Any], pointer: str
) -> None:
    refused = amend(world, a_treatment(world), **change)
    assert (refused.status_code, refused.json()["code"]) == (422, "validation_failed")
    assert refused.json()["errors"][0]["pointer"] == pointer


def test_a_dose_that_is_not_known_after_all_is_cleared(world: World) -> None:
    record = a_treatment(world)
    known = amend(world, record, maximum_mg=40)
    assert known.json()["maximum_mg"] == 40
    seen = {"reason": "no such page", "maximum_mg": None}
    cleared = world.staff_a.patch(record.headers["Location"], seen, known.headers["ETag"])
    assert (cleared.status_code, cleared.json()["maximum_mg"]) == (200, None)


def test_a_treatment_is_not_found_under_another_participant(world: World) -> None:
    record = a_treatment(world)
    elsewhere = f"/v1/participants/{world.enrolled()}/treatments/{record.json()['id']}"
    assert world.staff_a.get(elsewhere).status_code == 404
    change = {"weeks": 6, "reason": "read from the wrong line"}
    assert world.staff_a.patch(elsewhere, change, record.headers["ETag"]).status_code == 404


def test_an_app_that_was_offline_records_and_corrects_a_treatment_in_one_call(world: World) -> None:
    person = act("/v1/participants", world.enrolment())
    here = f"/v1/participants/@{person['id']}/treatments"
    treatment = act(here, TREATMENT)
    change = {"weeks": 6, "reason": "misread"}
    corrected = act(f"{here}/@{treatment['id']}", change, method="PATCH", if_match=f"@{treatment['id']}")
    told = sync(world.staff_a, corrected, treatment, person)
    assert {one["result"] for one in told.values()} == {"created"}, told
    assert world.staff_a.get(told[treatment["id"]]["location"]).json()["weeks"] == 6
