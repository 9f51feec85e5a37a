"""Sync: what becomes of acts that meet somebody else's, or cannot be done yet."""

import pytest

from app.services.sync import Shelf
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
