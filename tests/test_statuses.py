"""The days of a participant's statuses, which follow one another."""

from typing import Any

import pytest

from tests.courses import left
from tests.test_withdrawals import refusal
from tests.world import World


def told(world: World, pid: str, status: str, on: str, **more: Any) -> Any:
    body = {"status": status, "effective_on": on, "reason": "as the source says", **more}
    return world.staff_a.post(f"/v1/participants/{pid}/status", body)


def out_of_order(pointer: str = "/effective_on") -> tuple[int, str, list[str]]:
    return 422, "status_out_of_order", [pointer]


@pytest.mark.parametrize("status", ["active", "completed", "withdrawn", "lost_to_follow_up", "died", "terminated"])
def test_nobody_is_treated_or_leaves_before_the_enrolment(world: World, status: str) -> None:
    pid = world.enrolled()
    assert refusal(told(world, pid, status, "2025-01-19")) == out_of_order()
    assert told(world, pid, status, "2025-01-20").status_code == 201
    if status != "died":  # which nothing follows
        assert refusal(told(world, pid, "died", "2025-01-19", correction=True)) == out_of_order()


@pytest.mark.parametrize(
    ("before", "after"), [("active", "completed"), ("completed", "died"), ("lost_to_follow_up", "active")]
)
def test_no_status_begins_before_the_one_that_it_follows(world: World, before: str, after: str) -> None:
    pid = world.enrolled()
    left(world, pid, before, "2025-03-01")
    assert refusal(told(world, pid, after, "2025-02-28")) == out_of_order()
    assert told(world, pid, after, "2025-03-01").status_code == 201


def test_who_seemed_lost_but_had_died_before_is_corrected(world: World) -> None:
    pid = world.enrolled()
    left(world, pid, "lost_to_follow_up", "2025-03-01")
    left(world, pid, "died", "2025-02-10", correction=True)
    person = world.monitor.get(f"/v1/participants/{pid}").json()
    assert (person["status"], person["status_on"]) == ("died", "2025-02-10")


def test_a_mistyped_first_day_of_treatment_is_corrected_and_stands_in_the_way_of_nothing(world: World) -> None:
    pid = world.enrolled()
    left(world, pid, "active", "2025-12-01")
    left(world, pid, "active", "2025-02-01", correction=True)
    left(world, pid, "completed", "2025-09-01")


def test_an_enrolment_is_not_corrected_to_a_day_after_what_followed_it(world: World) -> None:
    pid = world.enrolled()
    left(world, pid, "withdrawn", "2025-02-01")
    left(world, pid, "died", "2025-09-01")
    path = f"/v1/participants/{pid}"

    def enrolled(on: str) -> Any:
        body = {"enrolled_on": on, "reason": "read in the file"}
        return world.staff_a.patch(path, body, world.staff_a.get(path).headers["ETag"])

    assert refusal(enrolled("2025-02-02")) == out_of_order("/enrolled_on")
    assert enrolled("2025-02-01").status_code == 200
