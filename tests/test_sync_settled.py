"""Sync: what a single request did under an act's id, that act has done, whichever of them came first."""

from datetime import timedelta
from typing import Any

import pytest
from httpx2 import Response

from app.models.account import Role
from app.models.base import now
from tests.dosing_cases import a_session, vitals
from tests.test_sync import Row, act, sync
from tests.test_sync_again import closed, events_of, lift, listed
from tests.world import Caller, World


@pytest.fixture
def staff(world: World) -> Caller:
    """An app with an account of its own."""
    return Caller(world.registry.client, world.token(world.account((Role.site_staff, "A"))))


def single(caller: Caller, one: Row, body: Row | None = None, key: str | None = None) -> Response:
    """The act as a request of its own."""
    return caller.post(one["path"], body or one["body"], key=key or one["id"])


def refused(world: World, staff: Caller, **wrong: Any) -> tuple[str, Row]:
    """A participant, and an event that sync refused."""
    pid = world.enrolled()
    event = act("/v1/adverse-events", world.event(pid, **wrong))
    assert sync(staff, event)[event["id"]]["result"] == "invalid"
    return pid, event


def test_what_a_single_request_stored_is_no_longer_listed_as_refused(
    world: World, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, event = refused(world, staff, aware_at=(now() + timedelta(minutes=16)).isoformat())
    with monkeypatch.context() as later:
        later.setattr("app.models.base.CLOCK_OFF", timedelta(minutes=17))
        made = single(staff, event)
    assert made.status_code == 201
    assert event["id"] not in listed(staff, "refused")
    kept = listed(staff, "stored")[event["id"]]
    assert (kept["location"], kept["body"], kept["problem"]) == (made.headers["Location"], None, None)
    told = sync(staff, event)[event["id"]]
    assert (told["result"], told["location"]) == ("replayed", made.headers["Location"])
    assert told["etag"] == made.headers["ETag"]
    assert len(events_of(world, pid)) == 1


def test_a_single_request_with_another_body_settles_the_act(world: World, staff: Caller) -> None:
    pid, event = refused(world, staff, severity="awful")
    made = single(staff, event, {**event["body"], "severity": "moderate"})
    assert made.status_code == 201
    told = sync(staff, event)[event["id"]]
    assert (told["result"], told["location"]) == ("replayed", made.headers["Location"])
    assert len(events_of(world, pid)) == 1


def test_what_a_single_request_stored_is_settled_for_a_resolution_too(world: World, staff: Caller) -> None:
    pid, event = refused(world, staff, severity="awful")
    mended = {**event["body"], "severity": "moderate"}
    assert single(staff, event, mended).status_code == 201
    decision = {"decision": "send", "reason": "typed wrongly", "body": {**mended, "severity": "severe"}}
    answer = staff.post(f"/v1/sync/{event['id']}/resolution", decision)
    assert (answer.status_code, answer.json()["code"]) == (409, "act_settled")
    assert [one["severity"] for one in events_of(world, pid)] == ["moderate"]


def test_what_hangs_on_what_a_single_request_stored_is_done(world: World, staff: Caller) -> None:
    pid = world.enrolled()
    place, event = closed(world, pid), act("/v1/adverse-events", world.event(pid))
    fix = {"severity": "moderate", "reason": "misread"}
    later = act(f"/v1/adverse-events/@{event['id']}", fix, method="PATCH", if_match=f"@{event['id']}")
    told = sync(staff, event, later)
    assert {one["result"] for one in told.values()} == {"blocked"}
    lift(world, place)
    assert single(staff, event).status_code == 201
    told = sync(staff, act("/v1/visits", {}))
    assert (told[event["id"]]["result"], told[later["id"]]["result"]) == ("replayed", "created")
    assert [one["severity"] for one in events_of(world, pid)] == ["moderate"]


def test_a_reading_that_a_single_request_stored_is_found_by_its_name(world: World, staff: Caller) -> None:
    session = a_session(world)
    place = session.headers["Location"]
    high = act(f"{place}/vitals", vitals(None, "10:15", PULSE=9999))
    assert sync(staff, high)[high["id"]]["result"] == "invalid"
    assert single(staff, high, vitals(None, "10:15", PULSE=66)).status_code == 201
    seen = staff.get(place).headers["ETag"]
    body = {"values": {"PULSE": 61}, "reason": "misread"}
    fix = act(f"{place}/vitals/@{high['id']}", body, method="PATCH", if_match=seen)
    assert sync(staff, fix)[fix["id"]]["result"] == "created"
    assert [one["values"]["PULSE"] for one in staff.get(place).json()["vitals"][1:]] == [61]


def test_an_id_is_read_in_upper_case_as_apps_write_their_keys(world: World, staff: Caller) -> None:
    """As some systems spell what they draw: sync reads ids in either case."""
    pid = world.enrolled()
    event = act("/v1/adverse-events", world.event(pid))
    made = single(staff, event, key=event["id"].upper())
    assert made.status_code == 201
    told = sync(staff, {**event, "id": event["id"].upper()})[event["id"]]
    assert (told["result"], told["location"]) == ("replayed", made.headers["Location"])
    assert len(events_of(world, pid)) == 1


def test_a_key_that_was_used_for_something_else_settles_nothing(world: World, staff: Caller) -> None:
    pid, event = refused(world, staff, severity="awful")
    other = act("/v1/visits", world.visit(pid))
    assert single(staff, other, key=event["id"]).status_code == 201
    assert event["id"] in listed(staff, "refused")
    told = sync(staff, event)[event["id"]]
    assert (told["result"], told["location"]) == ("invalid", None)
