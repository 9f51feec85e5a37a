"""Vital signs at the protocol's time points: impossible times have a finding, and allow no discharge."""

from typing import Any

import pytest

from tests.dosing_cases import a_session, after_dose, at, closing, dose, path_of, vitals
from tests.world import World


def remarks(read: dict[str, Any]) -> dict[str | None, list[str]]:
    """By time point the codes of what is said of its readings."""
    return {one["timepoint"]: [finding["code"] for finding in one["findings"]] for one in read["vitals"]}


ON_THE_WRONG_SIDE = {"PRE": "09:16", "M60": "09:14", "PRESUPP": "11:06", "END": "11:04"}
ON_THE_RIGHT_SIDE = {"PRE": "09:15", "M60": "09:20", "PRESUPP": "11:05", "END": "11:06", "M180": "09:16"}
"""However many minutes lie between: a protocol names no tolerance."""


@pytest.mark.parametrize("doses_first", [True, False])
def test_a_reading_on_the_wrong_side_of_a_dose_has_a_finding_whichever_was_entered_first(
    world: World, doses_first: bool
) -> None:
    session, staff = a_session(world), world.staff_a
    path = path_of(session)
    second = dose("supplemental", 40, "11:05", deviation_reason="Too few readings")
    doses = [(f"{path}/doses", dose()), (f"{path}/doses", second)]
    readings = [(f"{path}/vitals", vitals(point, hour)) for point, hour in ON_THE_WRONG_SIDE.items()]
    for where, body in [*doses, *readings] if doses_first else [*readings, *doses]:
        assert staff.post(where, body).status_code == 201
    read = staff.get(path).json()
    assert remarks(read) == {point: ["vital_out_of_order"] for point in ON_THE_WRONG_SIDE}
    asked = world.monitor.get(
        "/v1/data-queries", subject_type="dosing_session", rule="vital_out_of_order", state="open"
    )
    assert len(asked.json()["items"]) == 4


def test_a_reading_on_the_right_side_of_a_dose_has_no_finding(world: World) -> None:
    session, staff = a_session(world), world.staff_a
    path = path_of(session)
    assert staff.post(f"{path}/doses", dose()).status_code == 201
    second = dose("supplemental", 40, "11:05", deviation_reason="Too few readings")
    assert staff.post(f"{path}/doses", second).status_code == 201
    for point, hour in ON_THE_RIGHT_SIDE.items():
        assert staff.post(f"{path}/vitals", vitals(point, hour)).status_code == 201
    assert remarks(staff.get(path).json()) == {point: [] for point in ON_THE_RIGHT_SIDE}


def test_what_is_said_of_a_reading_goes_when_it_is_corrected(world: World) -> None:
    session, staff = a_session(world), world.staff_a
    path = path_of(session)
    staff.post(f"{path}/doses", dose())
    wrong = staff.post(f"{path}/vitals", vitals("M60", "09:10"))
    reading = next(one for one in wrong.json()["vitals"] if one["timepoint"] == "M60")
    change = {"reason": "typed wrongly", "taken_at": at("10:10")}
    corrected = staff.patch(f"{path}/vitals/{reading['id']}", change, wrong.headers["ETag"])
    assert remarks(corrected.json())["M60"] == []


def test_nobody_is_discharged_by_vital_signs_from_before_a_dose(world: World) -> None:
    session, staff = a_session(world), world.staff_a
    path, read = path_of(session), session.json()
    staff.post(f"{path}/vitals", vitals("END", "09:10"))
    staff.post(f"{path}/doses", dose())
    staff.post("/v1/outcomes", {"participant": read["participant"], "visit": read["visit"], **after_dose()})
    refused = staff.post(f"{path}/close", closing())
    assert (refused.status_code, refused.json()["code"]) == (409, "discharge_incomplete")
    assert [error["code"] for error in refused.json()["errors"]] == ["DISCHARGE-VITALS"]
    assert staff.post(f"{path}/vitals", vitals("END", "16:50")).status_code == 201
    assert staff.post(f"{path}/close", closing()).status_code == 201
