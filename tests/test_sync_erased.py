"""Whoever was erased is erased from the shelf of sync too: no app enrols that person again by what it kept."""

from typing import Any

from tests.courses import withdraw
from tests.test_sync import act, sync
from tests.world import World

Row = dict[str, Any]


def enrolled_twice(world: World) -> tuple[str, Row]:
    """A pid, and the same enrolment as it was refused when it came by sync."""
    body = world.enrolment()
    pid = world.staff_a.post("/v1/participants", body).json()["pid"]
    again = act("/v1/participants", {**body, "site_local_id": body["site_local_id"].lower()})
    assert sync(world.staff_a, again)[again["id"]]["problem"]["code"] == "label_already_enrolled"
    return pid, again


def kept(world: World, one: Row) -> Row:
    (found,) = (item for item in world.staff_a.get("/v1/sync").json()["items"] if item["id"] == one["id"])
    return {name: found[name] for name in ("state", "body", "problem")}


GONE = {"state": "discarded", "body": None, "problem": None}


def found(world: World, one: Row) -> int:
    asked = {name: one["body"][name] for name in ("study", "site", "site_local_id")}
    return int(world.staff_a.post("/v1/participants/lookup", asked).status_code)


def test_an_erasure_takes_the_label_from_the_shelf_and_nobody_is_enrolled_again(world: World) -> None:
    pid, again = enrolled_twice(world)
    _, others = enrolled_twice(world)
    withdraw(world, pid, "identity", "2025-03-01")
    assert kept(world, again) == GONE
    assert sync(world.staff_a, again)[again["id"]]["result"] == "discarded"
    assert (found(world, again), found(world, others)) == (404, 200)
    assert kept(world, others)["body"] == others["body"]


def test_the_same_label_at_another_site_stays_on_the_shelf(world: World) -> None:
    pid, ours = enrolled_twice(world)
    body = world.enrolment("B", site_local_id=ours["body"]["site_local_id"])
    assert world.staff_b.post("/v1/participants", body).status_code == 201
    theirs = act("/v1/participants", body)
    sync(world.staff_b, theirs)
    withdraw(world, pid, "identity", "2025-03-01")
    assert sync(world.staff_b, theirs)[theirs["id"]]["problem"]["code"] == "label_already_enrolled"


def test_the_trail_says_who_discarded_an_act_of_an_app(world: World) -> None:
    pid, again = enrolled_twice(world)
    withdraw(world, pid, "identity", "2025-03-01")
    entries = world.admin.get("/v1/audit-entries", action="sync:discard").json()["items"]
    (entry,) = (one for one in entries if one["subject_id"] == again["id"])
    assert (entry["field"], entry["old"], entry["new"]) == ("state", "refused", "discarded")
