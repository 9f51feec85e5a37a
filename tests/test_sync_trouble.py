"""Sync: what becomes of acts that meet somebody else's, or cannot be done yet."""

from typing import Any

import httpx
import pytest

from app.privacy.vault import EnrolmentUnderWay
from app.services.sync import Courier, Shelf
from tests.test_sync import Row, act, sync
from tests.world import World


def a_visit(world: World) -> tuple[str, str]:
    """Its path and its ETag."""
    made = world.staff_a.post("/v1/visits", world.visit(world.enrolled()))
    assert made.status_code == 201, made.text
    return made.headers["Location"], made.headers["ETag"]


def two_corrections(path: str, seen: str) -> tuple[Row, Row]:
    """The day, and then the end, of the version that the first left."""
    day = act(path, {"occurred_on": "2025-01-26", "reason": "misread"}, method="PATCH", if_match=seen)
    end = {"ended_on": "2025-01-27", "reason": "ended later"}
    return day, act(path, end, method="PATCH", if_match=f"@{day['id']}")


def test_a_correction_of_a_version_that_nobody_here_saw_is_refused(world: World) -> None:
    path, seen = a_visit(world)
    elsewhere = {"occurred_on": "2025-01-26", "ended_on": "2025-01-26", "reason": "misread"}
    assert world.staff_a.patch(path, elsewhere, seen).status_code == 200
    day, end = two_corrections(path, seen)
    told = sync(world.staff_a, day, end)
    assert (told[day["id"]]["result"], told[day["id"]]["etag"]) == ("created", None)
    assert (told[end["id"]]["result"], told[end["id"]]["problem"]["differing_fields"]) == ("conflict", ["ended_on"])
    there = world.staff_a.get(path).json()
    assert (there["ended_on"], there["version"]) == ("2025-01-26", 2)


def test_a_correction_whose_answer_was_lost_is_done_and_so_is_what_hangs_on_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server stops between the correction and the note of it."""
    path, seen = a_visit(world)
    day, end = two_corrections(path, seen)
    with monkeypatch.context() as stopped:
        stopped.setattr(Shelf, "note", lambda *_: 1 / 0)
        assert world.staff_a.post("/v1/sync", {"operations": [day]}).status_code == 500
    assert world.staff_a.get(path).json()["occurred_on"] == "2025-01-26"
    told = sync(world.staff_a, end)
    assert (told[day["id"]]["result"], told[end["id"]]["result"]) == ("replayed", "created")
    there = world.staff_a.get(path).json()
    assert (there["ended_on"], there["version"]) == ("2025-01-27", 3)


def test_an_act_that_is_told_to_come_again_holds_up_only_what_hangs_on_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def under_way(*_: Any) -> Any:
        raise EnrolmentUnderWay(headers={"Retry-After": "60"})

    person, event = act("/v1/participants", world.enrolment()), act("/v1/adverse-events", world.event(world.enrolled()))
    visit = act("/v1/visits", world.visit(f"@{person['id']}"))
    with monkeypatch.context() as broken:
        broken.setattr("app.routers.participants.recorder", under_way)
        told = sync(world.staff_a, person, visit, event)
    assert [told[one["id"]]["result"] for one in (person, visit, event)] == ["blocked", "blocked", "created"]
    assert (told[person["id"]]["problem"]["code"], told[person["id"]]["retry_after"]) == ("enrolment_under_way", 60)
    assert (told[visit["id"]]["problem"], told[visit["id"]]["waits_for"]) == (None, [person["id"]])
    told = sync(world.staff_a, event)
    assert {told[one["id"]]["result"] for one in (person, visit)} == {"created"}


def test_what_concerns_every_act_is_told_of_all_that_wait_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, sent, tried = world.enrolled(), Courier._sent, []

    async def full(courier: Courier, one: Any, made: Any) -> httpx.Response:
        tried.append(str(one.id))
        if len(tried) == 2:
            return httpx.Response(507, json={"status": 507, "code": "storage_full"}, headers={"Retry-After": "30"})
        return await sent(courier, one, made)

    monkeypatch.setattr(Courier, "_sent", full)
    acts = [act("/v1/adverse-events", world.event(pid)) for _ in range(3)]
    told = sync(world.staff_a, *acts)
    assert tried == [one["id"] for one in acts[:2]]
    assert [told[one["id"]]["result"] for one in acts] == ["created", "blocked", "blocked"]
    assert [told[one["id"]]["retry_after"] for one in acts] == [None, 30, 30]
