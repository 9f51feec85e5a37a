"""The refusal of a record that exists already has its address, so that nobody corrects another one."""

import json
from typing import Any

import pytest
from httpx2 import Response

from tests.dosing_cases import a_session, dose
from tests.world import World, madrs


def refused(answer: Response) -> dict[str, Any]:
    assert answer.status_code == 409, answer.text
    problem: dict[str, Any] = answer.json()
    return problem


def test_the_refusal_of_a_second_unscheduled_visit_has_the_address_of_the_first_and_what_to_do(world: World) -> None:
    pid = world.enrolled()
    unscheduled = world.visit(pid, "UNS", "2025-03-01")
    first = world.staff_a.post("/v1/visits", unscheduled).headers["Location"]
    second = {**unscheduled, "occurred_on": "2025-03-09"}
    problem = refused(world.staff_a.post("/v1/visits", second))
    assert problem["existing"] == first
    (fault,) = problem["errors"]
    assert (fault["pointer"], "next occurrence" in fault["message"]) == ("/occurrence", True)
    assert world.staff_a.post("/v1/visits", {**second, "occurrence": 2}).status_code == 201
    assert world.staff_a.get(first).json()["occurred_on"] == "2025-03-01"


def test_the_refusal_of_a_visit_that_does_not_repeat_suggests_no_other_occurrence(world: World) -> None:
    pid = world.enrolled()
    there = world.staff_a.post("/v1/visits", world.visit(pid)).headers["Location"]
    problem = refused(world.staff_a.post("/v1/visits", world.visit(pid)))
    assert (problem["existing"], problem["errors"][0]["message"]) == (there, "This one is there: correct it")


def test_an_upload_with_a_visit_twice_gets_the_address_of_the_first(world: World) -> None:
    pid = world.enrolled()
    lines = [json.dumps({"key": f"{pid}-{place}", "record": world.visit(pid)}) for place in range(2)]
    sent = "\n".join(lines).encode()
    told = world.staff_a.raw("POST", "/v1/visits/bulk", sent, **{"Content-Type": "application/x-ndjson"})
    first, second = (json.loads(line) for line in told.text.splitlines())
    assert second["problem"]["existing"] == first["location"]


def test_the_refusal_of_a_second_outcome_or_dose_has_the_address_of_the_first(world: World) -> None:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled(), outcomes=[madrs(1)])).json()
    body = {"participant": visit["participant"], "visit": visit["id"], **madrs(2)}
    problem = refused(world.staff_a.post("/v1/outcomes", body))
    assert problem["existing"] == f"/v1/outcomes/{visit['outcomes'][0]['id']}"
    session = a_session(world).headers["Location"]
    given = world.staff_a.post(f"{session}/doses", dose()).json()["doses"][0]["id"]
    problem = refused(world.staff_a.post(f"{session}/doses", dose()))
    assert (problem["existing"], problem["errors"][0]["pointer"]) == (f"{session}/doses/{given}", "/kind")


@pytest.mark.parametrize("twice", [[madrs(1), madrs(1)], [madrs(1), madrs(2)]], ids=["the same", "another"])
def test_a_visit_that_names_an_instrument_twice_is_refused_for_that(world: World, twice: list[dict[str, Any]]) -> None:
    answer = world.staff_a.post("/v1/visits", world.visit(world.enrolled(), outcomes=twice))
    (fault,) = answer.json()["errors"]
    assert (answer.status_code, fault["pointer"], fault["code"]) == (422, "/outcomes/1/instrument", "instrument_twice")
