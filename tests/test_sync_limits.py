"""How much an account may leave waiting at the registry."""

import pytest

from app.models.account import Role
from tests.test_sync import act, six, sync
from tests.world import Caller, World


@pytest.fixture
def staff(world: World) -> Caller:
    """An app with an account of its own: what others left waiting does not count."""
    return Caller(world.registry.client, world.token(world.account((Role.site_staff, "A"))))


def test_of_more_acts_than_may_wait_the_last_is_refused_and_goes_through_once_there_is_room(
    world: World, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.offline.sync.MOST_WAITING", 2)
    person, visit, outcome, event, *_ = six(world)
    told = sync(staff, visit, outcome, event)
    assert {told[one["id"]]["problem"] for one in (visit, outcome)} == {None}
    refused = told[event["id"]]
    assert (refused["result"], refused["problem"]["code"]) == ("conflict", "too_many_acts_wait")
    assert refused["waits_for"] == [person["id"]]
    assert sync(staff, event)[event["id"]]["problem"]["code"] == "too_many_acts_wait"
    told = sync(staff, person)
    assert {one: told[one]["result"] for one in told} == dict.fromkeys(
        (person["id"], visit["id"], outcome["id"]), "created"
    )
    assert sync(staff, event)[event["id"]]["result"] == "created"


def test_an_act_that_was_refused_is_not_brought_back_to_wait_where_none_more_may(
    world: World, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.offline.sync.MOST_WAITING", 1)
    _, visit, _, event, *_ = six(world)
    sync(staff, visit, event)
    again = staff.post(f"/v1/sync/{event['id']}/resolution", {"decision": "send", "reason": "once more"})
    assert again.json()["results"][0]["problem"]["code"] == "too_many_acts_wait"
    assert [one["id"] for one in staff.get("/v1/sync", state="waiting").json()["items"]] == [visit["id"]]


def test_an_act_that_is_refused_lets_no_others_wait_beyond_the_limit(
    world: World, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.offline.sync.MOST_WAITING", 1)
    taken = world.visit(world.enrolled())
    assert staff.post("/v1/visits", taken).status_code == 201
    _, visit, outcome, *_ = six(world)
    told = sync(staff, act("/v1/visits", taken), visit, outcome)
    assert told[outcome["id"]]["problem"]["code"] == "too_many_acts_wait"


def test_beyond_as_many_refused_acts_as_may_be_kept_a_new_one_stays_with_the_app(
    world: World, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept can still be sent again, settled and discarded."""
    monkeypatch.setattr("app.services.offline.sync_shelf.MOST_REFUSED", 1)
    pid = world.enrolled()
    taken, event = act("/v1/visits", world.visit(pid)), act("/v1/adverse-events", world.event(pid))
    assert staff.post("/v1/visits", taken["body"]).status_code == 201
    assert sync(staff, taken)[taken["id"]]["result"] == "conflict"
    told = sync(staff, taken, event)
    assert told[taken["id"]]["problem"]["code"] == "visit_already_recorded"
    assert (told[event["id"]]["result"], told[event["id"]]["problem"]["code"]) == ("conflict", "too_many_acts_refused")
    assert [one["id"] for one in staff.get("/v1/sync").json()["items"]] == [taken["id"]]
    assert staff.get("/v1/adverse-events", participant=pid).json()["items"] == []
    given_up = {"decision": "discard", "reason": "was recorded on paper too"}
    assert staff.post(f"/v1/sync/{taken['id']}/resolution", given_up).status_code == 200
    assert sync(staff, event)[event["id"]]["result"] == "created"


def test_an_act_that_the_shelf_has_no_room_for_is_taken_as_a_single_request(
    world: World, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.offline.sync_shelf.MOST_REFUSED", 0)
    event = act("/v1/adverse-events", world.event(world.enrolled()))
    assert sync(staff, event)[event["id"]]["problem"]["code"] == "too_many_acts_refused"
    single = staff.post(event["path"], event["body"], key=event["id"])
    assert single.status_code == 201
