"""Protocol amendments: from when one holds."""

from typing import Any

from httpx2 import Response

from tests.world import World, protocol_definition


def amend(world: World, valid_from: str, *, code: str = "2", **of_amendment: Any) -> Response:
    """Post a version of the study that holds from a day on, with a consent form of its own."""
    plan = protocol_definition()
    form = {**plan["consents"][0], "version": code, "valid_from": valid_from}
    made = {"version": code, "valid_from": valid_from, "summary": "A third questionnaire", "source": "made up"}
    body = {
        **plan,
        "version": code,
        "consents": [*plan["consents"], form],
        "amendments": [{**made, **of_amendment}],
    }
    return world.admin.post(f"/v1/studies/{world.study}/protocols", body)


def moved(world: World, pid: str, version: str = "2") -> Response:
    body = {"version": version, "reason": "amendment in force"}
    return world.staff_a.post(f"/v1/participants/{pid}/protocol-version", body)


def test_an_enrolment_goes_by_the_newest_version_that_holds(world: World) -> None:
    assert amend(world, "2025-02-01").status_code == 201
    assert amend(world, "2097-06-01", code="3").status_code == 201
    person = world.staff_a.post("/v1/participants", world.enrolment())
    assert (person.status_code, person.json()["protocol_version"]) == (201, "2")


def test_nobody_goes_by_an_amendment_before_it_holds(world: World) -> None:
    pid = world.enrolled()
    assert amend(world, "2097-06-01").status_code == 201
    early = moved(world, pid)
    assert (early.status_code, early.json()["code"]) == (409, "protocol_version_not_in_force")
    new = world.staff_a.post("/v1/participants", world.enrolment(protocol_version="2"))
    assert (new.status_code, new.json()["code"]) == (409, "protocol_version_not_in_force")
