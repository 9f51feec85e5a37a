"""A clock that ran fast and was put right: what was stored by it lies ahead, and all else of it can be corrected."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from httpx2 import Response

import app.models.base
from tests.dosing_cases import AMENDMENTS, DAY, a_session, a_session_to_close, at, closing, path_of
from tests.world import World, made, madrs

BEFORE_ALL = datetime(2025, 1, 1, tzinfo=UTC)
"""That the tests record."""

Stored = tuple[str, Response]
"""The path of a record, and the answer that shows it."""


def _person(world: World) -> Stored:
    read = world.staff_a.get(f"/v1/participants/{world.enrolled()}")
    return read.request.url.path, read


def _visit(world: World) -> Stored:
    read = made(world, "A", "/v1/visits", world.visit(world.enrolled(), ended_on="2025-01-26"))
    return read.headers["Location"], read


def _outcome(world: World) -> Stored:
    visit = made(world, "A", "/v1/visits", world.visit(world.enrolled(), outcomes=[madrs(2)])).json()
    path = f"/v1/outcomes/{visit['outcomes'][0]['id']}"
    return path, world.staff_a.get(path)


def _event(world: World) -> Stored:
    body = world.event(world.enrolled(), end="2025-02", aware_at="2025-02-04T09:00:00Z")
    read = made(world, "A", "/v1/adverse-events", {"criteria": {"hospitalisation": True}, **body})
    return read.headers["Location"], read


def _session(world: World) -> Stored:
    read = world.staff_a.post(path_of(_with_a_medication(world), "/close"), closing())
    return path_of(read), read


def _with_a_medication(world: World) -> Response:
    """A session to close, with something given after its end."""
    read = a_session_to_close(world)
    medication = {"atc": "N05B", "kind": "as_needed", "given_at": at("20:00")}
    body = {"reason": "was left out", "medications": [medication]}
    answer = world.staff_a.patch(path_of(read), body, read.headers["ETag"])
    assert answer.status_code == 200, answer.text
    return answer


def _dose(world: World) -> Stored:
    read = a_session_to_close(world)
    return path_of(read, "/doses/{dose_id}"), read


def _vitals(world: World) -> Stored:
    read = a_session(world)
    return path_of(read, "/vitals/{reading_id}"), read


RECORDS: Mapping[str, tuple[Callable[[World], Stored], dict[str, Any], str]] = {
    "participant": (_person, {"age_at_consent": 52}, "screened_on"),
    "visit": (_visit, {"deviation_reason": "Snow"}, "ended_on"),
    "outcome": (_outcome, {"items": {"MADRS_01": 4}}, "collected_on"),
    "adverse event": (_event, {"criteria": {"hospitalisation": True, "death": True}}, "aware_at"),
    "dosing session": (_session, AMENDMENTS[""], "ended_at"),
    "dose": (_dose, AMENDMENTS["/doses/{dose_id}"], "given_at"),
    "vital signs": (_vitals, AMENDMENTS["/vitals/{reading_id}"], "taken_at"),
}
"""By what is corrected: how it comes about, a correction that names no moment, and one of its moments."""


def _put_right(monkeypatch: pytest.MonkeyPatch, at: datetime = BEFORE_ALL) -> None:
    monkeypatch.setattr(app.models.base, "now", lambda: at)


@pytest.mark.parametrize("kind", RECORDS)
def test_what_a_fast_clock_stored_is_corrected_in_its_other_fields(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stored, change, _ = RECORDS[kind]
    path, read = stored(world)
    _put_right(monkeypatch)
    answer = world.staff_a.patch(path, {"reason": "typed wrongly", **change}, read.headers["ETag"])
    assert answer.status_code == 200, answer.text
    assert answer.json()["version"] == read.json()["version"] + 1


@pytest.mark.by_turns
@pytest.mark.parametrize("kind", RECORDS)
def test_a_moment_that_a_correction_names_cannot_lie_ahead(
    world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    stored, _, moment = RECORDS[kind]
    path, read = stored(world)
    _put_right(monkeypatch)
    ahead = at("16:30") if moment.endswith("_at") else DAY
    answer = world.staff_a.patch(path, {"reason": "typed wrongly", moment: ahead}, read.headers["ETag"])
    assert answer.status_code == 422, answer.text
    (fault,) = answer.json()["errors"]
    assert (fault["pointer"], fault["code"]) == (f"/{moment}", "date_in_future")


def test_a_session_with_what_a_fast_clock_stored_is_closed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path = path_of(_with_a_medication(world), "/close")
    _put_right(monkeypatch, datetime(2025, 3, 3, 18, 5, tzinfo=UTC))
    answer = world.staff_a.post(path, closing())
    assert answer.status_code == 201, answer.text
