"""Sync: whatever the order and the batches, the registry ends in the state that the people meant."""

import asyncio
import json
import os
import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlmodel import col, select

from app.models.account import Role, RoleGrant
from app.models.sync import Operation, SyncOperation
from app.services.offline.sync import SyncCourier
from app.services.offline.sync_shelf import Act, ActMade, Shelf
from tests.hostile import census, require_problem
from tests.world import Caller, World, madrs

Row = dict[str, Any]
ALL = "REGISTRY_TEST_ALL_ORDERS" in os.environ
"""Send all 720 orders, at once and one by one, which takes many minutes."""

PARTS = 40 if ALL else 1
"""No token lives as long as all of them take."""


def act(path: str, body: Row, **more: Any) -> Row:
    return {"id": str(uuid4()), "path": path, "body": body, **more}


def six(world: World) -> list[Row]:
    """A morning without network: a person, a visit, an outcome, an event, and two corrections on each other."""
    person = act("/v1/participants", world.enrolment())
    visit = act("/v1/visits", world.visit(f"@{person['id']}"))
    outcome = act("/v1/outcomes", {"participant": f"@{person['id']}", "visit": f"@{visit['id']}", **madrs(2)})
    event = act("/v1/adverse-events", world.event(f"@{person['id']}"))
    first = correction(visit, "2025-01-26", f"@{visit['id']}")
    second = correction(visit, "2025-01-27", f"@{first['id']}")
    return [person, visit, outcome, event, first, second]


def correction(visit: Row, day: str, seen: str) -> Row:
    body = {"occurred_on": day, "reason": "misread"}
    return act(f"/v1/visits/@{visit['id']}", body, method="PATCH", if_match=seen)


def sync(caller: Caller, *acts: Row) -> dict[str, Row]:
    answer = caller.post("/v1/sync", {"operations": list(acts)})
    assert answer.status_code == 200, answer.text
    return {one["id"]: one for one in answer.json()["results"]}


def state(world: World, person: Row, told: dict[str, Row]) -> list[Any]:
    """What the registry holds of one person, without ids."""
    staff, pid = world.staff_a, told[person["id"]]["location"].rpartition("/")[2]
    (visit,) = staff.get("/v1/visits", participant=pid).json()["items"]
    (outcome,) = staff.get("/v1/outcomes", participant=pid).json()["items"]
    (event,) = staff.get("/v1/adverse-events", participant=pid).json()["items"]
    return [visit["occurred_on"], visit["version"], outcome["scores"][0]["value"], event["severity"]]


BEFORE = ((0, 1), (0, 3), (1, 2), (1, 4), (4, 5))
"""Which of the six has to be done before which."""

ORDERS = list(permutations(range(6)))
POSSIBLE = [order for order in ORDERS if all(order.index(one) < order.index(other) for one, other in BEFORE)]


class Desk:
    """Where a courier finds what waits, without a registry behind it."""

    def __init__(self, acts: list[Operation]) -> None:
        self.acts = acts
        self.arrived: list[Operation] = []
        self.sent: list[int] = []

    def waiting(self) -> tuple[list[Act], dict[str, ActMade], set[str]]:
        done = {f"@{self.acts[number].id}": ActMade(f"/v1/x/{number}", '"1"') for number in self.sent}
        return [Act.of(one) for one in self.arrived if f"@{one.id}" not in done], done, set()

    def note(self, *_: Any) -> None:
        """Nobody reads it."""

    async def deliver(self, request: Any) -> None:
        async def sent(one: Operation, _: Any) -> httpx.Response:
            self.sent.append(self.acts.index(one))
            return httpx.Response(201, headers={"Location": f"/v1/x/{self.sent[-1]}", "ETag": '"1"'}, json={})

        courier = SyncCourier(request, request.state.actor)
        courier.shelf, courier._sent = self, sent  # type: ignore[assignment, method-assign]
        await courier.deliver()


async def _at_once(work: Callable[..., Any], *given: Any) -> Any:
    return work(*given)


def test_in_all_720_orders_each_act_is_sent_once_and_after_what_it_refers_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, in some batches and one by one: a registry meets fifteen orders, and the next test sends these to it."""
    monkeypatch.setattr("app.services.offline.sync.run_in_threadpool", _at_once)
    bodies: Any = SimpleNamespace(enrolment=dict, visit=lambda name: {"participant": name})
    bodies.event = bodies.visit
    random, actor = Random(720), SimpleNamespace(account_id=uuid4())
    acts = [Operation.model_validate_json(json.dumps(one)) for one in six(bodies)]
    app = SimpleNamespace(state=SimpleNamespace(database=None, keyring=None))
    asked = {"headers": {"authorization": "Bearer x"}, "app": app, "client": None}
    request = SimpleNamespace(**asked, state=SimpleNamespace(actor=actor))

    async def met_in(order: tuple[int, ...], cuts: Collection[int]) -> tuple[int, ...]:
        desk = Desk(acts)
        for place, number in enumerate(order):
            if place in cuts:
                await desk.deliver(request)
            desk.arrived.append(desk.acts[number])
        await desk.deliver(request)
        return tuple(desk.sent)

    async def met_in_all() -> set[tuple[int, ...]]:
        cut = [((), random.sample(range(1, 6), random.randint(1, 5))) for _ in ORDERS]
        met = {await met_in(order, cuts) for order, both in zip(ORDERS, cut, strict=True) for cuts in both}
        return met | {await met_in(order, range(6)) for order in POSSIBLE}

    assert asyncio.run(met_in_all()) == set(POSSIBLE)
    assert len(POSSIBLE) == 15


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("batch", [6, 1], ids=["at once", "one by one"])
def test_every_order_ends_in_the_same_state(world: World, batch: int, part: int) -> None:
    few = POSSIBLE if batch == 1 else ORDERS[::240]
    for order in ORDERS[part::PARTS] if ALL else few:
        acts = six(world)
        sent, told = [acts[place] for place in order], {}
        for start in range(0, 6, batch):
            told |= sync(world.staff_a, *sent[start : start + batch])
        assert {one["result"] for one in told.values()} == {"created"}, order
        assert state(world, acts[0], told) == ["2025-01-27", 3, 20, "mild"], order


@pytest.mark.parametrize("seed", range(120 if ALL else 2))
def test_any_batching_with_doubles_and_retries_ends_in_the_same_state(world: World, seed: int) -> None:
    """As apps do whose answers get lost: acts sent again in other batches, and while the first call is under way."""
    random, acts, staff = Random(seed), six(world), world.staff_a
    sent = acts + random.choices(acts, k=3)
    random.shuffle(sent)
    told: dict[str, Row] = {}
    while sent:
        size = random.randint(1, 5)
        batch, sent = sent[:size], sent[size:]
        copies = random.choice([1, 1, 2])
        with ThreadPoolExecutor(copies) as calls:
            for answer in calls.map(lambda batch: sync(staff, *batch), [batch] * copies):
                told |= answer
    told = sync(staff, *acts)
    assert {one["result"] for one in told.values()} == {"replayed"}
    assert state(world, acts[0], told) == ["2025-01-27", 3, 20, "mild"]


def test_a_call_that_comes_too_late_does_not_undo_what_another_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sends a correction whose record the other call has meanwhile corrected twice, and is refused."""
    acts, staff, overtaken = six(world), world.staff_a, threading.Event()
    sent, [first] = SyncCourier._sent, [one for one in acts if one.get("if_match") == f"@{acts[1]['id']}"]

    async def late(courier: SyncCourier, one: Operation, made: Any) -> httpx.Response:
        if str(one.id) == first["id"] and not overtaken.is_set():
            overtaken.set()
            await asyncio.to_thread(sync, staff, *acts)
        return await sent(courier, one, made)

    monkeypatch.setattr(SyncCourier, "_sent", late)
    told = sync(staff, *acts[:5])
    assert overtaken.is_set()
    assert {one["problem"] for one in told.values()} == {None}
    told = sync(staff, *acts)
    assert {one["result"] for one in told.values()} == {"replayed"}
    assert state(world, acts[0], told) == ["2025-01-27", 3, 20, "mild"]


def test_what_waits_says_for_what_and_is_done_when_that_is_there(world: World) -> None:
    person, visit, *_ = six(world)
    told = sync(world.staff_a, visit)
    assert told[visit["id"]] == {
        **told[visit["id"]],
        "result": "blocked",
        "waits_for": [person["id"]],
        "problem": None,
    }
    (kept,) = world.staff_a.get("/v1/sync", state="waiting").json()["items"]
    assert (kept["id"], kept["body"]) == (visit["id"], visit["body"])
    told = sync(world.staff_a, person)
    assert {one["result"] for one in told.values()} == {"created"}
    assert told.keys() == {person["id"], visit["id"]}
    assert world.staff_a.get("/v1/sync", state="waiting").json()["items"] == []


def test_sending_all_of_it_again_changes_nothing(world: World) -> None:
    acts = six(world)
    sync(world.staff_a, *acts)
    before = census(world.registry.database.engine)
    again = sync(world.staff_a, *reversed(acts))
    assert {one["result"] for one in again.values()} == {"replayed"}
    assert census(world.registry.database.engine) == before


def test_a_conflict_keeps_what_was_sent_until_somebody_decides(world: World) -> None:
    acts = six(world)
    told = sync(world.staff_a, *acts[:2])
    there = told[acts[1]["id"]]["location"]
    seen = world.staff_a.get(there).headers["ETag"]
    elsewhere = {"occurred_on": "2025-01-24", "reason": "by somebody else"}
    assert world.staff_a.patch(there, elsewhere, seen).status_code == 200
    mine = correction(acts[1], "2025-01-26", seen)
    told = sync(world.staff_a, mine)
    assert (told[mine["id"]]["result"], told[mine["id"]]["problem"]["code"]) == ("conflict", "version_stale")
    assert told[mine["id"]]["problem"]["differing_fields"] == ["occurred_on"]
    (kept,) = world.staff_a.get("/v1/sync", state="refused").json()["items"]
    assert (kept["body"], kept["path"]) == (mine["body"], mine["path"])
    decision = {"decision": "send", "reason": "ours is right", "if_match": world.staff_a.get(there).headers["ETag"]}
    done = world.staff_a.post(f"/v1/sync/{mine['id']}/resolution", decision)
    assert (done.status_code, done.json()["results"][0]["result"]) == (200, "created")
    assert world.staff_a.get(there).json()["occurred_on"] == "2025-01-26"


def test_what_is_wrong_costs_itself_and_what_hangs_on_it_waits(world: World) -> None:
    person, visit, outcome, event, *_ = six(world)
    visit["body"]["occurred_on"] = "2025-13-45"
    told = sync(world.staff_a, outcome, event, visit, person)
    kinds = {one["id"]: told[one["id"]]["result"] for one in (person, visit, outcome, event)}
    assert list(kinds.values()) == ["created", "invalid", "blocked", "created"]
    mended = {**visit["body"], "occurred_on": "2025-01-25"}
    decision = {"decision": "send", "reason": "a slip of the finger", "body": mended}
    done = world.staff_a.post(f"/v1/sync/{visit['id']}/resolution", decision).json()["results"]
    assert {one["id"]: one["result"] for one in done} == {visit["id"]: "created", outcome["id"]: "created"}


def test_a_discarded_act_is_gone_and_remembered(world: World) -> None:
    wrong = act("/v1/participants", world.enrolment(age_at_consent=-1, site_local_id="CANARY7"))
    assert sync(world.staff_a, wrong)[wrong["id"]]["result"] == "invalid"
    place, decision = f"/v1/sync/{wrong['id']}/resolution", {"decision": "discard", "reason": "entered twice"}
    assert world.staff_a.post(place, decision).json()["results"][0]["result"] == "discarded"
    again = world.staff_a.post(place, decision)
    assert (again.status_code, again.json()["code"]) == (409, "act_settled")
    with world.registry.database.read() as session:
        rows = session.exec(select(SyncOperation).where(col(SyncOperation.state) == "discarded")).all()
    assert {row.sealed for row in rows} == {None}


def test_a_call_that_comes_too_late_does_not_bring_back_what_was_discarded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong, staff, sent = act("/v1/participants", world.enrolment(age_at_consent=-1)), world.staff_a, SyncCourier._sent
    place, decision = f"/v1/sync/{wrong['id']}/resolution", {"decision": "discard", "reason": "entered twice"}

    async def late(courier: SyncCourier, one: Operation, made: Any) -> httpx.Response:
        assert (await asyncio.to_thread(staff.post, place, decision)).is_success
        return await sent(courier, one, made)

    monkeypatch.setattr(SyncCourier, "_sent", late)
    sync(staff, wrong)
    assert staff.get("/v1/sync", state="refused").json()["items"] == []
    (kept,) = staff.get("/v1/sync", state="discarded").json()["items"]
    assert (kept["id"], kept["body"], kept["problem"]) == (wrong["id"], None, None)


def test_an_act_that_waits_for_what_never_comes_can_be_pointed_elsewhere(world: World) -> None:
    person, visit, *_ = six(world)
    sync(world.staff_a, visit)
    place = f"/v1/sync/{visit['id']}/resolution"
    decision = {"decision": "send", "reason": "enrolled online meanwhile", "body": world.visit(world.enrolled())}
    assert world.staff_a.post(place, decision).json()["results"][0]["result"] == "created"
    sync(world.staff_a, act("/v1/visits", world.visit(f"@{person['id']}")))
    (left,) = world.staff_a.get("/v1/sync", state="waiting").json()["items"]
    gone = world.staff_a.post(f"/v1/sync/{left['id']}/resolution", {"decision": "discard", "reason": "entered twice"})
    assert gone.status_code == 200
    assert world.staff_a.get("/v1/sync", state="waiting").json()["items"] == []


def test_an_act_is_kept_while_its_sender_has_no_grant_there(world: World) -> None:
    account = world.account((Role.site_staff, "A"))
    person = act("/v1/participants", world.enrolment("B"))
    told = sync(Caller(world.registry.client, world.token(account)), person)[person["id"]]
    assert (told["result"], told["problem"]["code"]) == ("invalid", "not_found")
    world.revoke(account)
    nobody = Caller(world.registry.client, world.token(account))
    assert nobody.post("/v1/sync", {"operations": [person]}).status_code == 403
    with world.registry.database.write() as session:
        at = {"account_id": account.id, "study_id": world.study_id, "site_id": world.site_ids["B"]}
        session.add(RoleGrant(role=Role.site_staff, **at))
    again = Caller(world.registry.client, world.token(account))
    (kept,) = again.get("/v1/sync", state="refused").json()["items"]
    assert kept["body"] == person["body"]
    send = {"decision": "send", "reason": "the grant has come"}
    assert again.post(f"/v1/sync/{person['id']}/resolution", send).json()["results"][0]["result"] == "created"


def test_a_defect_of_ours_holds_up_only_what_hangs_on_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    person, visit, outcome, event, *_ = six(world)
    with monkeypatch.context() as broken:
        broken.setattr("app.routers.visits.recorder", lambda *_: 1 / 0)
        told = sync(world.staff_a, visit, outcome, event, person)
        kinds = {one["id"]: told[one["id"]]["result"] for one in (person, visit, outcome, event)}
        assert list(kinds.values()) == ["created", "blocked", "blocked", "created"]
    told = sync(world.staff_a, event)
    assert {told[one["id"]]["result"] for one in (visit, outcome)} == {"created"}


def test_what_is_kept_is_sealed(world: World) -> None:
    wrong = act("/v1/participants", world.enrolment(age_at_consent=-1, site_local_id="CANARY7"))
    sync(world.staff_a, wrong)
    with world.registry.database.read() as session:
        texts = [str(vars(row)) for row in session.exec(select(SyncOperation))]
    assert texts
    assert not any("CANARY7" in text for text in texts)


def test_everybody_has_their_own(world: World) -> None:
    wrong = act("/v1/visits", {})
    sync(world.staff_a, wrong)
    assert world.staff_b.get("/v1/sync").json()["items"] == []
    decision = {"decision": "discard", "reason": "not mine"}
    assert world.staff_b.post(f"/v1/sync/{wrong['id']}/resolution", decision).status_code == 404
    assert sync(world.staff_b, {**wrong})[wrong["id"]]["result"] == "invalid"


def test_an_act_is_done_as_its_caller_and_nothing_else_is_reached(world: World) -> None:
    other = act("/v1/adverse-events", world.event(world.enrolled("B")))
    told = sync(world.staff_a, other)[other["id"]]
    assert (told["result"], told["problem"]["code"]) == ("invalid", "not_found")
    for path in ("/v1/users", "/v1/extracts", "/v1/sync", "/v1/visits/../users", "//x", "http://x/v1/visits"):
        (refused,) = sync(world.staff_a, act(path, {})).values()
        assert [fault["pointer"] for fault in refused["problem"]["errors"]] == ["/operations/0/path"]


def nested(levels: int) -> Row:
    return {"a": nested(levels - 1)} if levels > 1 else {}


@pytest.mark.parametrize("body", [nested(33), nested(300), {"x": ["\ud800"]}, {"\ud800": 1}], ids=range(4))
def test_what_nobody_could_read_again_is_not_kept(world: World, body: Row) -> None:
    staff, kept = world.staff_a, act("/v1/visits", nested(32))
    assert sync(staff, kept)[kept["id"]]["result"] == "invalid"
    before = census(world.registry.database.engine)
    mended = {"decision": "send", "reason": "typed wrongly", "body": body}
    sent = json.dumps({"operations": [act("/v1/visits", body)]}).encode()
    (unread,) = staff.raw("POST", "/v1/sync", sent).json()["results"]
    refused = require_problem(staff.raw("POST", f"/v1/sync/{kept['id']}/resolution", json.dumps(mended).encode()))
    for problem in (unread["problem"], refused):
        [fault] = problem["errors"]
        assert fault["code"] in {"nested_too_deep", "unclean_text"}
    assert census(world.registry.database.engine) == before


def test_what_was_kept_by_older_rules_holds_up_nothing_and_can_be_discarded(world: World) -> None:
    account, app = world.account((Role.site_staff, "A")), world.registry.app
    staff = Caller(world.registry.client, world.token(account))
    old = Operation.model_construct(id=uuid4(), path="/v1/visits", body=nested(254))
    Shelf(app.state.database, app.state.keyring, account.id).keep({0: old})
    event = act("/v1/adverse-events", world.event(world.enrolled()))
    assert sync(staff, event)[event["id"]]["result"] == "created"
    (kept,) = staff.get("/v1/sync", state="refused").json()["items"]
    assert (kept["id"], kept["body"]) == (str(old.id), old.body)
    decision = {"decision": "discard", "reason": "a test of the app"}
    assert staff.post(f"/v1/sync/{old.id}/resolution", decision).status_code == 200
