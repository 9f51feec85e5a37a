"""A code that nobody defined is refused by the lists: an empty answer would say that nothing is there."""

from typing import Any
from uuid import uuid4

import pytest

from app.models.account import Role
from tests.test_withdrawals import refusal
from tests.world import Caller, World, protocol_definition

LISTS = [
    ("/v1/adverse-events", "aesi", "unknown_special_interest", "suicidality"),
    ("/v1/dosing-sessions", "visit_code", "unknown_visit", "DOS1"),
    ("/v1/locks", "visit_code", "unknown_visit", "BL"),
    ("/v1/outcomes", "visit_code", "unknown_visit", "BL"),
    ("/v1/outcomes", "instrument", "unknown_instrument", "MADRS"),
    ("/v1/safety-signals", "rule", "unknown_rule", "MADRS-10"),
    ("/v1/visits", "visit_code", "unknown_visit", "BL"),
]


@pytest.mark.parametrize(("path", "name", "code", "known"), LISTS, ids=[f"{one[0]} {one[1]}" for one in LISTS])
def test_a_mistyped_code_is_refused_with_the_field_and_the_rule(
    world: World, path: str, name: str, code: str, known: str
) -> None:
    for more in ({}, {"study": world.study}, {"study": world.study, "site": "A"}):
        refused = world.monitor.get(path, **{name: "BSL"}, **more)
        assert refusal(refused) == (422, "validation_failed", [f"/query/{name}"])
        assert refused.json()["errors"][0]["code"] == code
        assert "BSL" not in refused.text
        assert world.monitor.get(path, **{name: known}, **more).json()["items"] == []


def test_a_study_or_site_out_of_reach_is_still_absent(world: World) -> None:
    """Whether the code is known there or not."""
    other = World(world.registry)
    of_a_study = [(path, name, known) for path, name, _, known in LISTS if name != "instrument"]
    for path, name, known in of_a_study:
        for value in ("BSL", known):
            for more in ({"study": other.study}, {"study": world.study, "site": "B"}):
                assert world.monitor_a.get(path, **{name: value}, **more).status_code == 404


def with_codes(world: World, suffix: str) -> None:
    """A version of the protocol with one more visit and one more special interest."""
    definition = protocol_definition()
    visit = {"code": f"V{suffix}", "name": "Extra", "kind": "unscheduled"}
    interest = {**definition["special_interest"][0], "code": f"I-{suffix}"}
    changed = {
        "visits": [*definition["visits"], visit],
        "special_interest": [*definition["special_interest"], interest],
    }
    body = {**definition, "version": uuid4().hex, **changed}
    answer = world.admin.post(f"/v1/studies/{world.study}/protocols", body)
    assert answer.status_code == 201, answer.text


def test_codes_of_every_version_are_known_and_those_of_another_study_are_not(world: World) -> None:
    suffix, other = uuid4().hex[:8].upper(), World(world.registry)
    with_codes(world, suffix)

    def told(caller: Caller, **more: Any) -> list[int]:
        asked = (("/v1/visits", {"visit_code": f"V{suffix}"}), ("/v1/adverse-events", {"aesi": f"I-{suffix}"}))
        return [caller.get(path, **filters, **more).status_code for path, filters in asked]

    assert told(world.monitor) == told(world.monitor, study=world.study) == [200, 200]
    assert told(other.monitor) == [422, 422]
    both = world.account((Role.monitor, None))
    assert told(Caller(world.registry.client, world.token(both))) == [200, 200]


def test_summaries_refuse_such_codes_too(world: World) -> None:
    pid = world.enrolled()
    summary = {"study": world.study, "instrument": "MADRS"}
    answers = [
        (world.monitor.get("/v1/outcomes/summary", **summary, arm="MDNA"), "/query/arm"),
        (world.monitor.get(f"/v1/participants/{pid}/response", instrument="MADSR"), "/query/instrument"),
        (world.monitor.get("/v1/adverse-events", aesi="BSL", format="csv"), "/query/aesi"),
    ]
    for refused, pointer in answers:
        assert refusal(refused) == (422, "validation_failed", [pointer])
