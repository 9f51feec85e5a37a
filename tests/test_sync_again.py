"""Sync: whatever is not settled is tried again, so that what time or somebody else has cured goes through."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.models.account import Role, RoleGrant
from app.models.base import now
from app.models.sync import Operation
from app.services.offline.sync import SyncCourier
from tests.closing_cases import lock_of
from tests.test_sync import Row, act, sync
from tests.world import Caller, World, madrs


def events_of(world: World, pid: str) -> list[Row]:
    found: list[Row] = world.staff_a.get("/v1/adverse-events", participant=pid).json()["items"]
    return found


def closed(world: World, pid: str, kind: str = "lock") -> str:
    """Where the lock of one participant is lifted."""
    lock = world.monitor.post("/v1/locks", lock_of(world, "A", kind=kind, participant=pid))
    return f"{lock.headers['Location']}/lifting"


def lift(world: World, place: str) -> None:
    assert world.monitor.post(place, {"reason": "a late page"}).status_code == 201


def listed(caller: Caller, state: str) -> dict[str, Row]:
    return {one["id"]: one for one in caller.get("/v1/sync", state=state, limit=500).json()["items"]}


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The ids of the acts that are tried."""
    tried, sent = [], SyncCourier._sent

    async def noted(courier: SyncCourier, one: Operation, made: Any) -> httpx.Response:
        tried.append(str(one.id))
        return await sent(courier, one, made)

    with monkeypatch.context() as watched:
        watched.setattr(SyncCourier, "_sent", noted)
        yield tried


@pytest.fixture
def staff(world: World) -> Caller:
    """An app with an account of its own: what others left waiting is not tried."""
    return Caller(world.registry.client, world.token(world.account((Role.site_staff, "A"))))


def test_what_meets_a_lock_waits_with_the_reason_and_is_done_by_the_next_call_after_it(
    world: World, staff: Caller
) -> None:
    pid = world.enrolled()
    place, event = closed(world, pid), act("/v1/adverse-events", world.event(pid))
    first = sync(staff, event)[event["id"]]
    assert (first["result"], first["problem"]["code"]) == ("blocked", "data_locked")
    kept = listed(staff, "waiting")[event["id"]]
    assert (kept["body"], kept["problem"]["code"]) == (event["body"], "data_locked")
    assert event["id"] not in listed(staff, "refused")
    again = sync(staff, event)[event["id"]]
    assert again["problem"]["request_id"] != first["problem"]["request_id"]
    lift(world, place)
    other = act("/v1/adverse-events", world.event(world.enrolled()))
    assert sync(staff, other)[event["id"]]["result"] == "created"
    assert sync(staff, event)[event["id"]]["result"] == "replayed"
    assert len(events_of(world, pid)) == 1
    assert listed(staff, "stored")[event["id"]]["problem"] is None


def test_what_hangs_on_a_frozen_visit_is_done_when_it_is_sent_again(world: World, staff: Caller) -> None:
    pid = world.enrolled()
    place = closed(world, pid, "freeze")
    visit = act("/v1/visits", world.visit(pid))
    outcome = act("/v1/outcomes", {"participant": pid, "visit": f"@{visit['id']}", **madrs(2)})
    told = sync(staff, outcome, visit)
    assert {told[one["id"]]["result"] for one in (visit, outcome)} == {"blocked"}
    assert told[outcome["id"]]["waits_for"] == [visit["id"]]
    lift(world, place)
    told = sync(staff, outcome, visit)
    assert {told[one["id"]]["result"] for one in (visit, outcome)} == {"created"}


def test_of_many_acts_before_one_lock_a_later_call_tries_one(
    world: World, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a site's backlog does not make every call slow."""
    one_pid, other_pid = world.enrolled(), world.enrolled()
    places = [closed(world, pid) for pid in (one_pid, other_pid)]
    acts = [act("/v1/adverse-events", world.event(pid)) for pid in (one_pid, other_pid, one_pid, other_pid)]
    sync(staff, *acts)
    wrong = act("/v1/visits", {})
    with counted(monkeypatch) as tried:
        sync(staff, wrong)
    assert sorted(tried) == sorted([acts[0]["id"], acts[1]["id"], wrong["id"]])
    with counted(monkeypatch) as tried:
        told = sync(staff, *acts)
    assert tried == [one["id"] for one in acts[:2]]
    assert {(one["result"], one["problem"]["code"]) for one in told.values()} == {("blocked", "data_locked")}
    lift(world, places[1])
    told = sync(staff, wrong)
    assert {one: told[one]["result"] for one in told} == {
        **dict.fromkeys((acts[1]["id"], acts[3]["id"]), "created"),
        wrong["id"]: "invalid",
    }
    lift(world, places[0])
    sync(staff, wrong)
    assert [len(events_of(world, pid)) for pid in (one_pid, other_pid)] == [2, 2]


def test_what_a_fast_clock_dated_ahead_is_done_once_its_moment_has_come(
    world: World, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = (now() + timedelta(minutes=16)).isoformat()
    event = act("/v1/adverse-events", world.event(world.enrolled(), aware_at=ahead))
    told = sync(staff, event)[event["id"]]
    assert (told["result"], told["problem"]["errors"][0]["code"]) == ("invalid", "date_in_future")
    assert sync(staff, event)[event["id"]]["result"] == "invalid"
    with monkeypatch.context() as later:
        later.setattr("app.models.base.CLOCK_OFF", timedelta(minutes=17))
        assert sync(staff, event)[event["id"]]["result"] == "created"
    assert sync(staff, event)[event["id"]]["result"] == "replayed"


def test_what_nobody_may_see_yet_is_done_once_it_is_there_or_the_grant_has_come(world: World) -> None:
    account = world.account((Role.site_staff, "A"))
    person = act("/v1/participants", world.enrolment("B"))
    caller = Caller(world.registry.client, world.token(account))
    assert sync(caller, person)[person["id"]]["problem"]["code"] == "not_found"
    with world.registry.database.write() as session:
        at = {"account_id": account.id, "study_id": world.study_id, "site_id": world.site_ids["B"]}
        session.add(RoleGrant(role=Role.site_staff, **at))
    assert sync(caller, person)[person["id"]]["result"] == "created"


def test_what_can_never_be_right_stays_refused_however_often_it_is_sent(world: World, staff: Caller) -> None:
    wrong = act("/v1/participants", world.enrolment(age_at_consent=-1))
    for _ in range(3):
        told = sync(staff, wrong)[wrong["id"]]
        assert (told["result"], told["problem"]["code"]) == ("invalid", "validation_failed")
    assert listed(staff, "refused").keys() == {wrong["id"]}
    mended = {**wrong["body"], "age_at_consent": 41}
    decision = {"decision": "send", "reason": "typed wrongly", "body": mended}
    assert staff.post(f"/v1/sync/{wrong['id']}/resolution", decision).json()["results"][0]["result"] == "created"
    assert sync(staff, wrong)[wrong["id"]]["result"] == "replayed"


def test_an_act_that_was_mended_and_met_a_lock_goes_on_as_it_was_mended(world: World, staff: Caller) -> None:
    pid = world.enrolled()
    wrong = act("/v1/adverse-events", world.event(pid, severity="awful"))
    sync(staff, wrong)
    place = closed(world, pid)
    decision = {"decision": "send", "reason": "typed wrongly", "body": world.event(pid, severity="moderate")}
    done = staff.post(f"/v1/sync/{wrong['id']}/resolution", decision).json()["results"]
    assert [one["result"] for one in done] == ["blocked"]
    lift(world, place)
    assert sync(staff, wrong)[wrong["id"]]["result"] == "created"
    assert [one["severity"] for one in events_of(world, pid)] == ["moderate"]


def test_two_devices_that_send_again_at_once_store_each_act_once(world: World, staff: Caller) -> None:
    pid = world.enrolled()
    place = closed(world, pid)
    acts = [act("/v1/adverse-events", world.event(pid)) for _ in range(3)]
    sync(staff, *acts)
    lift(world, place)
    with ThreadPoolExecutor(3) as devices:
        list(devices.map(lambda turn: sync(staff, *acts[::turn]), (1, -1, 1)))
    told = sync(staff, *acts)
    assert {one["result"] for one in told.values()} == {"replayed"}
    assert len(events_of(world, pid)) == 3


def test_of_more_acts_than_may_wait_before_a_lock_the_last_is_refused(
    world: World, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.offline.sync.MOST_WAITING", 2)
    pid = world.enrolled()
    place = closed(world, pid)
    acts = [act("/v1/adverse-events", world.event(pid)) for _ in range(3)]
    told = sync(staff, *acts)
    assert [told[one["id"]]["result"] for one in acts] == ["blocked", "blocked", "conflict"]
    assert told[acts[2]["id"]]["problem"]["code"] == "too_many_acts_wait"
    lift(world, place)
    assert {one["result"] for one in sync(staff, *acts).values()} == {"created"}


def test_an_attempt_that_is_repeated_and_refused_alike_stands_in_the_trail_once(world: World, staff: Caller) -> None:
    account = staff.get("/v1/me").json()["id"]
    foreign = act("/v1/adverse-events", world.event(world.enrolled("B")))
    for _ in range(3):
        assert sync(staff, foreign)[foreign["id"]]["problem"]["code"] == "not_found"
    mended = {"decision": "send", "reason": "once more", "body": foreign["body"]}
    assert staff.post(f"/v1/sync/{foreign['id']}/resolution", mended).is_success
    entries = world.admin.get("/v1/audit-entries", action="request:refused", limit=100).json()["items"]
    codes = [one for one in entries if one["subject_id"] == account and one["field"] == "code"]
    assert len(codes) == 2


def test_what_a_role_does_not_include_waits_and_each_act_is_tried_when_it_is_sent_again(
    world: World, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [world.staff_a.post("/v1/adverse-events", world.event(world.enrolled())) for _ in range(2)]
    acts = [act(f"{one.headers['Location']}/reviews", {"version": 1}) for one in made]
    told = sync(staff, *acts)
    assert {(one["result"], one["problem"]["code"]) for one in told.values()} == {("blocked", "permission_missing")}
    wrong = act("/v1/visits", {})
    with counted(monkeypatch) as tried:
        sync(staff, wrong)
    assert sorted(tried) == sorted([acts[0]["id"], wrong["id"]])
    with counted(monkeypatch) as tried:
        sync(staff, *acts)
    assert tried == [one["id"] for one in acts]


def test_an_act_that_is_refused_otherwise_than_before_does_not_wait_for_what_it_met_then(
    world: World, staff: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is still there for the second act, and the third one is stored, so that the first is tried once more."""
    pid, sent = world.enrolled(), SyncCourier._sent
    closed(world, pid)
    first, second = (act("/v1/adverse-events", world.event(pid)) for _ in range(2))
    sync(staff, first, second)

    async def in_conflict(courier: SyncCourier, one: Operation, made: Any) -> httpx.Response:
        if str(one.id) == first["id"]:
            return httpx.Response(409, json={"status": 409, "code": "record_voided"})
        return await sent(courier, one, made)

    monkeypatch.setattr(SyncCourier, "_sent", in_conflict)
    third = act("/v1/adverse-events", world.event(world.enrolled()))
    with counted(monkeypatch) as tried:
        told = sync(staff, third)
    assert [told[one["id"]]["result"] for one in (third, first)] == ["created", "conflict"]
    assert tried == [one["id"] for one in (first, second, third, first)]
