"""Sync: an invalid operation affects no other, and its problem is said in words."""

import json
from typing import Any
from uuid import uuid4

import pytest

from tests.hostile import census
from tests.impossible_values import CODE, MARK, UUID_LIKE
from tests.test_sync import Row, act, sync
from tests.world import World, madrs


def results(world: World, *operations: Any) -> list[Row]:
    """One for each, in the order sent."""
    answer = world.staff_a.raw("POST", "/v1/sync", json.dumps({"operations": operations}).encode())
    assert answer.status_code == 200, answer.text
    told: list[Row] = answer.json()["results"]
    assert len(told) == len(operations)
    return told


def a_serious_event(world: World) -> Row:
    serious = {"criteria": {"hospitalisation": True}, "severity": "severe"}
    return act("/v1/adverse-events", world.event(world.enrolled(), **serious))


def test_an_id_that_was_used_for_another_act_costs_only_that_operation(world: World) -> None:
    first, event = act("/v1/visits", {}), a_serious_event(world)
    sync(world.staff_a, first)
    reused, stored, known = results(world, {**first, "body": {"a": 1}}, event, first)
    assert (reused["id"], reused["result"], reused["problem"]["code"]) == (
        first["id"],
        "conflict",
        "operation_id_reused",
    )
    assert [fault["pointer"] for fault in reused["problem"]["errors"]] == ["/operations/0/id"]
    assert (stored["id"], stored["result"]) == (event["id"], "created")
    assert (known["id"], known["result"], known["problem"]["code"]) == (first["id"], "invalid", "validation_failed")
    (kept,) = (
        one for one in world.staff_a.get("/v1/sync", state="refused").json()["items"] if one["id"] == first["id"]
    )
    assert kept["body"] == {}


def test_of_two_acts_under_one_id_the_first_is_kept(world: World) -> None:
    first = act("/v1/adverse-events", world.event(world.enrolled()))
    other = {**first, "body": {**first["body"], "severity": "severe"}}
    told = results(world, first, other, first)
    assert [one["result"] for one in told] == ["created", "conflict", "created"]
    assert world.staff_a.get(told[0]["location"]).json()["severity"] == first["body"]["severity"]


def test_an_operation_that_cannot_be_read_costs_only_itself(world: World) -> None:
    event = a_serious_event(world)
    wrong = act("/v1/elsewhere", {})
    unread, stored = results(world, wrong, event)
    assert (unread["id"], unread["result"], unread["problem"]["code"]) == (
        wrong["id"],
        "invalid",
        "operation_malformed",
    )
    [fault] = unread["problem"]["errors"]
    assert (fault["pointer"], fault["code"]) == ("/operations/0/path", "path_unknown")
    assert "visits" in fault["message"]
    assert "^" not in json.dumps(unread)
    assert stored["result"] == "created"
    assert wrong["id"] not in {one["id"] for one in world.staff_a.get("/v1/sync").json()["items"]}


def test_an_operation_that_was_mended_keeps_its_id_and_what_hangs_on_it_is_done(world: World) -> None:
    pid = world.enrolled()
    visit = act("/v1/visit", world.visit(pid))
    outcome = act("/v1/outcomes", {"participant": pid, "visit": f"@{visit['id']}", **madrs(2)})
    unread, waits = results(world, visit, outcome)
    assert (unread["result"], waits["result"], waits["waits_for"]) == ("invalid", "blocked", [visit["id"]])
    told = sync(world.staff_a, {**visit, "path": "/v1/visits"})
    assert {one: told[one]["result"] for one in told} == dict.fromkeys((visit["id"], outcome["id"]), "created")


NO_OPERATION: tuple[tuple[str, Any], ...] = (
    *(("id", value) for value in UUID_LIKE),
    *(("path", value) for value in (*CODE, "/v1/users", "/v1/visits/../users", "/v1/visits\n", "x" * 70_000, None)),
    *(("method", value) for value in ("GET", MARK, 5, None)),
    *(("if_match", value) for value in ("x", MARK, 5, '"', "@1", '"\u00e9"')),
    *(("body", value) for value in (MARK, 5, None, [MARK], {"x": ["\ud800"]})),
    (MARK, 1),
)


def test_an_impossible_value_is_named_by_its_field_and_never_repeated(world: World) -> None:
    event = a_serious_event(world)
    assert results(world, event)[0]["result"] == "created"
    before = census(world.registry.database.engine)
    told = results(world, *({**act("/v1/visits", {}), name: value} for name, value in NO_OPERATION))
    for place, ((name, value), one) in enumerate(zip(NO_OPERATION, told, strict=True)):
        assert (one["result"], one["problem"]["code"]) == ("invalid", "operation_malformed"), (name, value)
        shown = f"/operations/{place}/{'?' if name == MARK else name}"
        assert {fault["pointer"] for fault in one["problem"]["errors"]} == {shown}, (name, value)
    assert MARK not in json.dumps(told)
    assert census(world.registry.database.engine) == before


@pytest.mark.parametrize("sent", [5, None, "x", [], {}, [{"id": str(uuid4())}]], ids=range(6))
def test_an_unreadable_operation_affects_no_others(world: World, sent: Any) -> None:
    unread, stored = results(world, sent, a_serious_event(world))
    assert (unread["id"], unread["problem"]["code"], stored["result"]) == (None, "operation_malformed", "created")


@pytest.mark.parametrize(
    "body", [{}, {"operations": []}, {"operations": {}}, {"operations": [5] * 201}, []], ids=range(5)
)
def test_only_a_body_that_is_not_a_batch_is_refused_as_a_whole(world: World, body: Any) -> None:
    answer = world.staff_a.raw("POST", "/v1/sync", json.dumps(body).encode())
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")


def test_the_description_says_what_an_operation_is(world: World) -> None:
    schemas = world.staff_a.get("/v1/openapi.json").json()["components"]["schemas"]
    assert schemas["SyncCreate"]["properties"]["operations"]["items"] == {"$ref": "#/components/schemas/Operation"}
    assert schemas["Operation"]["properties"]["path"]["pattern"].startswith("^/v1/(participants|visits")
    assert {"type": "null"} in schemas["SyncResult"]["properties"]["id"]["anyOf"]
