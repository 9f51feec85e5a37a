"""What is due or overdue across the sites in reach."""

from datetime import UTC, datetime
from typing import Any

import pytest

from tests.courses import at, given, held, left, planned, withdraw
from tests.world import World


def test_what_is_due_is_listed_across_the_sites_in_reach_most_urgent_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, datetime(2025, 3, 10, 12, tzinfo=UTC))
    first, second = world.enrolled(), world.enrolled()
    for pid, dosed in ((first, "2025-03-03"), (second, "2025-03-05")):
        held(world, pid, "BL", "2025-02-10")
        held(world, pid, "DOS1", dosed)

    def due(caller: Any, **query: str) -> list[tuple[str, str]]:
        read = caller.get(f"/v1/studies/{world.study}/due", **query).json()
        return [(item["participant"], item["visit_code"]) for item in read["items"] if item["visit_code"] == "INT1B"]

    assert due(world.monitor) == due(world.staff_a) == [(first, "INT1B"), (second, "INT1B")]
    assert due(world.staff_b) == []
    assert due(world.monitor, **{"from": "2025-03-14", "to": "2025-03-20"}) == [(second, "INT1B")]
    assert world.monitor.get(f"/v1/studies/{world.study}/due", limit="1").json()["truncated"] is True


def test_no_participant_who_withdrew_contact_is_listed_for_the_long_follow_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, datetime(2024, 8, 15, 12, tzinfo=UTC))
    stays, left = (
        world.enrolled(screened_on="2024-01-02", enrolled_on="2024-01-29", consent=given("2024-01-02"))
        for _ in range(2)
    )
    for pid in (stays, left):
        held(world, pid, "BL", "2024-01-29")
    withdraw(world, left, "contact", "2024-08-02")
    listed = world.staff_a.get(f"/v1/studies/{world.study}/due").json()["items"]
    assert _waiting_for(listed, "FU7M") == {stays}
    for pid in (stays, left):
        waits = {code for code, item in planned(world, pid).items() if item["state"] in {"due", "overdue"}}
        assert {item["visit_code"] for item in listed if item["participant"] == pid} == waits
    mistaken = {"reason": "it was somebody else who rang"}
    assert world.staff_a.post(f"/v1/participants/{left}/withdrawals/1/voiding", mistaken).status_code == 201
    assert _waiting_for(world.staff_a.get(f"/v1/studies/{world.study}/due").json()["items"], "FU7M") == {stays, left}
    assert planned(world, left)["FU7M"]["state"] == "due"


def _waiting_for(listed: list[dict[str, Any]], code: str) -> set[str]:
    return {item["participant"] for item in listed if item["visit_code"] == code}


def test_nothing_is_due_for_a_participant_who_completed_the_study(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, datetime(2024, 8, 15, 12, tzinfo=UTC))
    pid = world.enrolled(screened_on="2024-01-02", enrolled_on="2024-01-29", consent=given("2024-01-02"))
    held(world, pid, "BL", "2024-01-29")
    assert planned(world, pid)["FU7M"]["state"] == "due"
    left(world, pid, "completed", "2024-08-02")
    assert planned(world, pid)["FU7M"]["state"] == "not_applicable"
    assert planned(world, pid)["SCR"]["state"] == "overdue"  # its window was over before
    listed = world.staff_a.get(f"/v1/studies/{world.study}/due").json()["items"]
    assert {item["visit_code"] for item in listed} >= {"SCR"}
    assert "FU7M" not in {item["visit_code"] for item in listed}


ENDS = {
    "completed, then died": [("completed", "2025-03-04"), ("died", "2025-06-01")],
    "withdrew, then died": [("withdrawn", "2025-03-04"), ("died", "2025-06-01")],
    "lost, then withdrew": [("lost_to_follow_up", "2025-03-04"), ("withdrawn", "2025-06-01")],
    "lost, then withdrew, then died": [
        ("lost_to_follow_up", "2025-03-04"),
        ("withdrawn", "2025-05-01"),
        ("died", "2025-06-01"),
    ],
}


@pytest.mark.parametrize("ends", ENDS.values(), ids=ENDS)
def test_an_end_that_follows_another_makes_nothing_due_again(
    world: World, monkeypatch: pytest.MonkeyPatch, ends: list[tuple[str, str]]
) -> None:
    at(monkeypatch, datetime(2025, 7, 1, 12, tzinfo=UTC))
    pid = world.enrolled()
    held(world, pid, "BL", "2025-02-01")
    held(world, pid, "DOS1", "2025-03-03")
    for status, on in ends:
        left(world, pid, status, on)
        listed = world.staff_a.get(f"/v1/studies/{world.study}/due").json()["items"]
        assert [item["visit_code"] for item in listed] == ["SCR", "PREP1", "PREP2", "PREP3"], status
        assert planned(world, pid)["INT1A"]["state"] == "not_applicable"


def test_somebody_found_again_is_expected_again_until_the_next_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, datetime(2025, 7, 1, 12, tzinfo=UTC))
    pid = world.enrolled()
    held(world, pid, "DOS1", "2025-03-03")
    for status, on in (("lost_to_follow_up", "2025-03-04"), ("active", "2025-03-05"), ("completed", "2025-06-01")):
        left(world, pid, status, on)
    assert planned(world, pid)["INT1A"]["state"] == "overdue"


@pytest.mark.parametrize(
    ("scope", "open_still"), [("dosing", ["INT1A", "INT1B", "INT1C"]), ("collection", [])], ids=["dosing", "collection"]
)
def test_visits_that_a_withdrawal_ends_are_not_due(
    world: World, monkeypatch: pytest.MonkeyPatch, scope: str, open_still: list[str]
) -> None:
    at(monkeypatch, datetime(2025, 7, 1, 12, tzinfo=UTC))
    pid = world.enrolled()
    held(world, pid, "BL", "2025-02-01")
    held(world, pid, "DOS1", "2025-03-03")
    withdraw(world, pid, scope, "2025-03-04")
    listed = world.staff_a.get(f"/v1/studies/{world.study}/due").json()["items"]
    before = ["SCR", "PREP1", "PREP2", "PREP3"]  # those were due before the first dose
    assert [item["visit_code"] for item in listed] == [*before, *open_still]
    assert planned(world, pid)["DOS2"]["state"] == "not_applicable"


def test_a_visit_that_had_to_precede_another_is_as_urgent_as_one_whose_window_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(monkeypatch, datetime(2025, 3, 10, 12, tzinfo=UTC))
    pid = world.enrolled()
    held(world, pid, "BL", "2025-02-10")
    held(world, pid, "DOS1", "2025-03-03")  # before it three preparations; INT1A until the 6th
    first = world.staff_a.get(f"/v1/studies/{world.study}/due", limit="5").json()["items"]
    assert [item["visit_code"] for item in first] == ["SCR", "PREP1", "PREP2", "PREP3", "INT1A"]


def test_a_period_that_ends_before_it_starts_is_refused_rather_than_empty(world: World) -> None:
    answer = world.staff_a.get(f"/v1/studies/{world.study}/due", **{"from": "2026-01-01", "to": "2025-01-01"})
    assert (answer.status_code, answer.json()["code"]) == (422, "validation_failed")
    assert answer.json()["errors"][0]["pointer"] == "/to"
    day = {"from": "2025-01-01", "to": "2025-01-01"}
    assert world.staff_a.get(f"/v1/studies/{world.study}/due", **day).status_code == 200
