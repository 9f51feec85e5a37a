"""The change feed: every committed change of one's sites, once, in order, and nothing of others."""

import asyncio
import json
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from socket import socket
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from sqlalchemy import event
from sqlmodel import col, select

from app import audit
from app.errors import DatabaseUnavailable
from app.models.account import Role
from app.models.audit import AuditEntry
from app.models.change import ChangeFilter
from app.routers import changes as changes_router
from app.security.sealing import seal
from app.services.trail.changes import Places
from app.services.trail.waiting import LOOK_SECONDS, MOST_OF_ACCOUNT, Waiting
from tests.course_cases import CONSENT, under_amendment
from tests.hostile import connected, live_study, request_text
from tests.server import LiveServer
from tests.world import Caller, World

Change = dict[str, Any]


def feed(caller: Caller, place: str | None = None, **query: Any) -> tuple[list[Change], str]:
    """All that is behind a place, and the place behind it."""
    found: list[Change] = []
    while True:
        asked = {**query, **({"after": place} if place else {})}
        answer = caller.get("/v1/changes", **asked)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found += page["items"]
        place = str(page["next"])
        if not page["more"]:
            return found, place


def committed(world: World, *sites: str) -> list[tuple[int, int]]:
    """Site and number of every entry of these sites that changed something."""
    wanted = [world.site_ids[site] for site in sites]
    statement = select(AuditEntry.site_id, AuditEntry.seq).where(
        col(AuditEntry.site_id).in_(wanted), AuditEntry.changes != "[]"
    )
    with world.registry.database.read() as session:
        return sorted((site, seq) for site, seq in session.exec(statement))


def told(world: World, changes: list[Change]) -> list[tuple[int, int]]:
    return [(world.site_ids[change["site"]], change["seq"]) for change in changes]


def test_the_feed_has_the_changes_in_order_without_values(world: World) -> None:
    pid = world.enrolled()
    visit = world.staff_a.post("/v1/visits", world.visit(pid)).headers["Location"]
    seen = world.staff_a.get(visit).headers["ETag"]
    world.staff_a.patch(visit, {"occurred_on": "2025-01-26", "reason": "misread"}, seen)
    changes, place = feed(world.staff_a)
    assert [change["action"] for change in changes][-2:] == ["visit:recorded", "visit:amended"]
    last = changes[-1]
    assert (last["subject_type"], last["subject_id"], last["version"]) == ("visit", visit.rpartition("/")[2], 2)
    assert last["fields"] == ["occurred_on"]
    assert "2025-01-26" not in json.dumps(changes)
    assert feed(world.staff_a, place)[0] == []


def test_withdrawals_and_consents_are_changes(world: World) -> None:
    pid = under_amendment(world, "A")
    _, place = feed(world.staff_a)
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", CONSENT).is_success
    withdrawal = {"scope": "sharing", "effective_on": "2025-03-01", "reason": "changed their mind"}
    assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals", withdrawal).is_success
    changes, _ = feed(world.staff_a, place)
    assert {"consent", "withdrawal"} <= {change["subject_type"] for change in changes}


def test_a_look_up_is_no_change_and_is_passed_over(world: World) -> None:
    body = world.enrolment()
    assert world.staff_a.post("/v1/participants", body).is_success
    changes, place = feed(world.staff_a)
    looked = {name: body[name] for name in ("study", "site", "site_local_id")}
    assert world.staff_a.post("/v1/participants/lookup", looked).is_success
    assert feed(world.staff_a, place)[0] == []
    assert feed(world.staff_a)[0] == changes


def test_one_sees_ones_own_sites_alone(world: World) -> None:
    world.enrolled("A")
    world.enrolled("B")
    assert {change["site"] for change in feed(world.staff_a)[0]} == {"A"}
    assert {change["site"] for change in feed(world.monitor)[0]} == {"A", "B"}
    assert {change["site"] for change in feed(world.monitor, site="B", study=world.study)[0]} == {"B"}
    assert world.monitor.get("/v1/changes", site="NO_SUCH").status_code == 404
    assert feed(World(world.registry).monitor)[0] == []


def test_a_site_that_comes_into_reach_is_in_the_feed_from_its_beginning(world: World) -> None:
    world.enrolled("A")
    world.enrolled("B")
    account = world.account((Role.monitor, "A"))
    changes, place = feed(Caller(world.registry.client, world.token(account)))
    assert {change["site"] for change in changes} == {"A"}
    grant = {"role": "monitor", "study": world.study, "sites": ["B"]}
    assert world.admin.post(f"/v1/users/{account.id}/grants", grant).is_success
    account.grants_version += 1
    later, _ = feed(Caller(world.registry.client, world.token(account)), place)
    assert {change["site"] for change in later} == {"B"}


def test_small_pages_have_the_same_changes(world: World) -> None:
    for site in "ABAB":
        world.enrolled(site)
    whole, _ = feed(world.monitor)
    assert feed(world.monitor, limit=1)[0] == feed(world.monitor, limit=3)[0] == whole
    assert sorted(told(world, whole)) == committed(world, "A", "B")


@pytest.mark.parametrize("place", ["x", "AAAA", "A" * 3000, "\u00e9"])
def test_a_place_of_nobody_is_refused(world: World, place: str) -> None:
    answer = world.staff_a.get("/v1/changes", after=place)
    assert (answer.status_code, answer.json()["code"]) == (400, "place_invalid")


def test_a_place_is_its_owners_and_for_its_filters(world: World) -> None:
    world.enrolled()
    _, place = feed(world.staff_a)
    assert world.monitor.get("/v1/changes", after=place).json()["code"] == "place_invalid"
    assert world.staff_a.get("/v1/changes", after=place, site="A").json()["code"] == "place_invalid"


def test_a_position_for_400_sites_is_accepted(world: World) -> None:
    account = world.account((Role.monitor, None))
    places = Places(world.registry.app.state.keyring, world.request(account).state.actor, ChangeFilter())
    place = {10_000 + site: 1_000_000 + site * 7_919 for site in range(400)}
    answer = Caller(world.registry.client, world.token(account)).get("/v1/changes", after=places.written(place))
    assert answer.status_code == 200, answer.text
    assert places.read(answer.json()["next"]) == place


def test_a_position_from_before_compression_is_accepted(world: World) -> None:
    account, keyring = world.account((Role.monitor, "A")), world.registry.app.state.keyring
    caller = Caller(world.registry.client, world.token(account))
    for _ in range(2):
        world.enrolled("A")
    whole, _ = feed(caller)
    behind_first = json.dumps({world.site_ids["A"]: whole[0]["seq"]}).encode()
    context = json.dumps(["changes", str(account.id), None, None]).encode()
    assert feed(caller, seal(keyring.derived("cursor"), behind_first, context))[0] == whole[1:] != []


def test_no_gap_and_nothing_twice_while_fifty_write(world: World) -> None:
    people = {site: [world.enrolled(site) for _ in range(5)] for site in "AB"}
    seen, ended = [], Event()

    def follow() -> None:
        place = None
        while not ended.is_set():
            changes, place = feed(world.monitor, place, limit=7)
            seen.extend(changes)
        seen.extend(feed(world.monitor, place, limit=7)[0])

    def write(number: int) -> None:
        site = "AB"[number % 2]
        staff = world.staff_a if site == "A" else world.staff_b
        for _ in range(2):
            assert staff.post("/v1/adverse-events", world.event(people[site][number % 5])).is_success

    assert world.staff_a
    assert world.monitor
    follower = Thread(target=follow)
    follower.start()
    with ThreadPoolExecutor(50) as threads:
        list(threads.map(write, range(50)))
    ended.set()
    follower.join()
    assert sorted(told(world, seen)) == committed(world, "A", "B")
    by_site = defaultdict(list)
    for change in seen:
        by_site[change["site"]].append(change["seq"])
    assert all(numbers == sorted(numbers) for numbers in by_site.values())


def test_a_change_of_a_long_transaction_is_in_the_feed_once_it_is_committed(world: World) -> None:
    """Begun before the others, committed after them: its number comes later, so a reader who was past them meets it."""
    pid = world.enrolled()
    place = feed(world.monitor)[1]
    site = world.site_ids["A"]
    with world.registry.database.write() as session:
        unseen = audit.Event("visit:recorded", "visit", pid, 1, [{"field": "x", "old": None, "new": 1}])
        if not world.on_sqlite:  # SQLite has one writer anyway
            with ThreadPoolExecutor(1) as thread:
                session.exec(select(AuditEntry).limit(1)).all()
                assert thread.submit(world.enrolled, "A").result(10)
            changes, place = feed(world.monitor, place)
            assert "participant" in {change["subject_type"] for change in changes}
        audit.append(session, "system", site, [unseen])
    assert [change["subject_id"] for change in feed(world.monitor, place)[0]] == [pid]


def test_a_waiting_client_gets_changes_at_once_and_without_any_a_position(world: World) -> None:
    pid = world.enrolled()
    _, place = feed(world.staff_a)
    started = time.monotonic()
    answer = world.staff_a.get("/v1/changes", after=place, wait=1).json()
    assert (answer["items"], answer["more"]) == ([], False)
    assert time.monotonic() - started >= 1
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(world.staff_a.get, "/v1/changes", after=place, wait=30)
        time.sleep(0.2)
        assert world.staff_a.post("/v1/adverse-events", world.event(pid)).is_success
        assert len(waiting.result(20).json()["items"]) == 1


def test_a_stream_sends_changes_and_continues_where_it_broke(live_server: LiveServer) -> None:
    with live_study(live_server) as live:
        live.enrolled()
        headers = {"Authorization": f"Bearer {live.staff.token}", "Accept": "text/event-stream"}

        def first(count: int, last: str | None, **asked: str) -> list[dict[str, str]]:
            sent = {**headers, **({"Last-Event-ID": last} if last else {})}
            events: list[dict[str, str]] = [{}]
            address = httpx.URL(f"{live.server.base_url}/v1/changes", params=asked)
            with httpx.stream("GET", address, headers=sent, timeout=20) as stream:
                assert stream.headers["Content-Type"].startswith("text/event-stream")
                for text in stream.iter_lines():
                    if text:
                        name, _, value = text.partition(": ")
                        events[-1][name] = value
                    elif "data" in events[-1]:
                        events.append({})
                    if len(events) > count:
                        break
            return events[:count]

        begun = first(2, None)
        with ThreadPoolExecutor(1) as thread:
            later = thread.submit(first, 1, begun[-1]["id"], after=begun[0]["id"])
            time.sleep(0.5)
            live.enrolled()
            (event,) = later.result(20)
        assert json.loads(event["data"])["seq"] == json.loads(begun[-1]["data"])["seq"] + 1


def test_an_account_cannot_take_all_connections_by_keeping_streams_open(live_server: LiveServer) -> None:
    """Each holds a connection, and by a machine's usual limit a worker has a thousand."""
    with live_study(live_server) as live, ExitStack() as open_ones:

        def begun(token: str, path: str = "/v1/changes", **headers: str) -> tuple[socket, str]:
            wire = open_ones.enter_context(connected(live_server))
            wire.sendall(request_text("GET", path, token, **headers))
            return wire, wire.recv(4096).decode()

        def status(token: str, path: str = "/v1/changes", **headers: str) -> str:
            return begun(token, path, **headers)[1].split()[1]

        events, other = {"Accept": "text/event-stream"}, live.caller("monitor")
        kept = [begun(live.staff.token, **events) for _ in range(MOST_OF_ACCOUNT)]
        assert {answer.split()[1] for _, answer in kept} == {"200"}
        assert status(live.staff.token, **events) == status(live.staff.token, "/v1/changes?wait=30") == "429"
        refused = live.staff.get("/v1/changes")
        assert (refused.json()["code"], refused.headers["Retry-After"]) == ("too_many_waiting", "1")
        assert status(other.token, **events) == "200", "others go on"
        kept[0][0].close()
        until = time.monotonic() + 20
        while status(live.staff.token, **events) != "200":
            assert time.monotonic() < until


def test_many_who_wait_cost_as_many_looks_as_one(world: World) -> None:
    """Beside the first and the last look of each, a worker looks twice a second for all of them."""
    world.enrolled()
    _, place = feed(world.staff_a)
    looks = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM audit_chain" in statement:
            looks.append(statement)

    engine = world.registry.served.of_sessions
    event.listen(engine, "before_cursor_execute", count)
    try:
        with ThreadPoolExecutor(20) as threads:
            asked = [threads.submit(world.staff_a.get, "/v1/changes", after=place, wait=3) for _ in range(20)]
            assert all(one.result(30).json()["items"] == [] for one in asked)
    finally:
        event.remove(engine, "before_cursor_execute", count)
    assert 40 <= len(looks) <= 80


def test_a_waiting_client_is_woken_by_its_own_sites_only(world: World) -> None:
    world.enrolled("A")
    waiting, site = Waiting(world.registry.served), world.site_ids["A"]
    stood = {site: committed(world, "A")[-1][1]}

    async def woken() -> tuple[bool, bool]:
        await waiting.moved([site], {}, 20)
        vain = asyncio.create_task(waiting.moved([site], stood, 20))
        await asyncio.to_thread(world.enrolled, "B")
        await asyncio.sleep(3 * LOOK_SECONDS)
        asleep = not vain.done()
        await asyncio.to_thread(world.enrolled, "A")
        await vain
        return asleep, waiting.over

    assert asyncio.run(woken()) == (True, False)


def test_where_the_look_for_all_fails_each_looks_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise DatabaseUnavailable

    monkeypatch.setattr(Waiting, "_heads", fail)
    monkeypatch.setattr(changes_router, "ANEW_SECONDS", 60.0)
    pid = world.enrolled()
    _, place = feed(world.staff_a)
    with ThreadPoolExecutor(1) as thread:
        asked = thread.submit(world.staff_a.get, "/v1/changes", after=place, wait=30)
        time.sleep(0.2)
        assert world.staff_a.post("/v1/adverse-events", world.event(pid)).is_success
        assert len(asked.result(20).json()["items"]) == 1
