"""Sync: what becomes of acts that meet somebody else's, or cannot be done yet."""

from datetime import timedelta
from random import Random
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from app.models.account import Role
from app.models.base import now
from app.models.idempotency import IdempotencyRecord
from app.models.sync import SyncOperation
from app.privacy.vault import EnrolmentUnderWay
from app.services.offline.sync import SyncCourier
from app.services.offline.sync_shelf import Shelf
from app.services.operations import retries
from tests.dosing_cases import DAY, a_session, after_dose, closing, dose, held, prepared, start, vitals
from tests.test_sync import Row, act, sync
from tests.world import Caller, World, madrs


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


def test_an_act_that_has_to_wait_holds_up_only_those_that_depend_on_it(
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


def test_a_problem_of_every_act_is_shown_at_all_that_wait_for_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, sent, tried = world.enrolled(), SyncCourier._sent, []

    async def full(courier: SyncCourier, one: Any, made: Any) -> httpx.Response:
        tried.append(str(one.id))
        if len(tried) == 2:
            return httpx.Response(507, json={"status": 507, "code": "storage_full"}, headers={"Retry-After": "30"})
        return await sent(courier, one, made)

    monkeypatch.setattr(SyncCourier, "_sent", full)
    acts = [act("/v1/adverse-events", world.event(pid)) for _ in range(3)]
    told = sync(world.staff_a, *acts)
    assert tried == [one["id"] for one in acts[:2]]
    assert [told[one["id"]]["result"] for one in acts] == ["created", "blocked", "blocked"]
    assert [told[one["id"]]["retry_after"] for one in acts] == [None, 30, 30]


def test_what_a_record_is_not_ready_for_yet_is_done_once_it_is(world: World) -> None:
    serious = {"criteria": {"hospitalisation": True}, "severity": "severe"}
    event = act("/v1/adverse-events", world.event(world.enrolled(), **serious))
    reports = f"/v1/adverse-events/@{event['id']}/reports"
    initial = act(reports, {"kind": "initial", "late_reason": "was offline"})
    follow_up = act(reports, {"kind": "follow_up", "aware_at": "2025-02-06T10:00:00Z", "late_reason": "was offline"})
    told = sync(world.staff_a, follow_up, initial, event)
    assert {one["result"] for one in told.values()} == {"created"}
    (first, second) = world.staff_a.get(f"{told[event['id']]['location']}/reports").json()["items"]
    assert [first["kind"], second["kind"]] == ["initial", "follow_up"]


def a_dosing_day(world: World) -> tuple[str, Any, Any, str]:
    """Somebody who is prepared, the acts of their visit and session, and the session's address."""
    pid = world.enrolled()
    for number, code in enumerate(("BL", "PREP1", "PREP2", "PREP3")):
        held(world.staff_a, pid, code, f"2025-02-1{number}")
    visit = act("/v1/visits", {**world.visit(pid), "visit_code": "DOS1", "occurred_on": DAY})
    started = act("/v1/dosing-sessions", start(f"@{visit['id']}"))
    return pid, visit, started, f"/v1/dosing-sessions/@{started['id']}"


@pytest.mark.parametrize("turn", [-1, 3], ids=["newest first", "the middle first"])
def test_a_dosing_day_is_whole_in_whatever_order_it_comes(world: World, turn: int) -> None:
    pid, visit, started, place = a_dosing_day(world)
    vital = [act(f"{place}/vitals", vitals(*one)) for one in ((None, "10:15"), ("END", "17:00"))]
    outcome = act("/v1/outcomes", {"participant": pid, "visit": f"@{visit['id']}", **after_dose()})
    given = [act(f"{place}/doses", dose()), act(f"{place}/doses", dose("supplemental", 40, "11:00"))]
    closed = act(f"{place}/close", closing())
    acts = [visit, started, *given, *vital, outcome, closed]
    told = sync(world.staff_a, *(acts[::-1] if turn < 0 else acts[turn:] + acts[:turn]))
    assert {one["result"] for one in told.values()} == {"created"}, told


@pytest.mark.parametrize(
    ("high", "given"), [("09:10", []), ("10:50", ["initial"]), ("13:00", ["initial", "supplemental"])]
)
@pytest.mark.parametrize("seed", range(2))
def test_a_high_reading_holds_the_same_doses_in_whatever_order_the_day_comes(
    world: World, high: str, given: list[str], seed: int
) -> None:
    _, visit, started, place = a_dosing_day(world)
    doses = [act(f"{place}/doses", dose()), act(f"{place}/doses", dose("supplemental", 40, "11:00"))]
    calm, much = vitals(None, "10:45"), vitals(None, high, SYSBP=215)
    acts = [visit, started, *doses, *(act(f"{place}/vitals", one) for one in (calm, much))]
    Random(seed).shuffle(acts)
    told = sync(world.staff_a, *acts)
    read = world.staff_a.get(told[started["id"]]["location"]).json()
    assert [one["kind"] for one in read["doses"]] == given
    assert [one["taken_at"][11:16] for one in read["vitals"]] == sorted(["08:45", "10:45", high])


def test_what_was_recorded_in_a_session_is_corrected_by_the_name_of_its_act(world: World) -> None:
    session = a_session(world)
    place, staff = session.headers["Location"], world.staff_a
    low, high = vitals(None, "10:15", PULSE=60), vitals(None, "10:15", PULSE=66)
    acts = [act(f"{place}/doses", dose()), *(act(f"{place}/vitals", one) for one in (high, low, high))]
    told = sync(staff, *acts)
    assert {one["location"] for one in told.values()} == {place}
    assert {one["location"] for one in staff.get("/v1/sync", limit=4).json()["items"]} == {place}
    seen = staff.get(place).headers["ETag"]
    planned = {"planned_mg": 90, "deviation_reason": "80 was asked for"}
    for made, part, change in ((acts[2], "vitals", {"values": {"PULSE": 61}}), (acts[0], "doses", planned)):
        body = {"reason": "misread", **change}
        fix = act(f"{place}/{part}/@{made['id']}", body, method="PATCH", if_match=seen)
        done = sync(staff, fix)[fix["id"]]
        assert done["result"] == "created", done
        seen = done["etag"]
    read = staff.get(place).json()
    assert sorted(one["values"]["PULSE"] for one in read["vitals"][1:]) == [61, 66, 66]
    assert [one["planned_mg"] for one in read["doses"]] == [90]


@pytest.mark.parametrize("turn", [1, -1], ids=["as it was", "newest first"])
def test_an_apps_own_acts_do_not_stand_in_the_way_of_its_correction(world: World, turn: int) -> None:
    person, visit = act("/v1/participants", world.enrolment()), prepared(world.staff_a, world.enrolled())
    here = f"/v1/participants/@{person['id']}"
    began = {"status": "active", "effective_on": "2025-02-01", "reason": "began"}
    age = {"age_at_consent": 42, "reason": "misread"}
    aged = act(here, age, method="PATCH", if_match=f"@{person['id']}")
    begun = act("/v1/dosing-sessions", start(visit["id"]))
    place = f"/v1/dosing-sessions/@{begun['id']}"
    first, second = (act(f"{place}/vitals", vitals(None, hour)) for hour in ("10:15", "10:45"))
    body = {"values": {"PULSE": 61}, "reason": "misread"}
    pulse = act(f"{place}/vitals/@{first['id']}", body, method="PATCH", if_match=f"@{first['id']}")
    told = sync(world.staff_a, *[person, act(f"{here}/status", began), aged, begun, first, second, pulse][::turn])
    assert {one["result"] for one in told.values()} == {"created"}, told
    read = world.staff_a.get(told[person["id"]]["location"]).json()
    assert (read["age_at_consent"], read["status"]) == (42, "active")


def test_what_was_refused_for_the_state_of_a_record_is_tried_again_when_it_is_sent_again(world: World) -> None:
    event = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled()))
    report = act(f"{event.headers['Location']}/reports", {"kind": "initial", "late_reason": "was offline"})
    wrong = act("/v1/visits", {})
    told = sync(world.staff_a, report, wrong)
    assert told[report["id"]]["problem"]["code"] == "event_not_serious"
    serious = {"criteria": {"hospitalisation": True}, "reason": "the ward called"}
    assert world.staff_a.patch(event.headers["Location"], serious, event.headers["ETag"]).is_success
    told = sync(world.staff_a, report, wrong)
    assert (told[report["id"]]["result"], told[wrong["id"]]["result"]) == ("created", "invalid")
    assert world.staff_a.get("/v1/sync", state="stored").json()["items"][0]["problem"] is None


def test_an_act_that_refers_to_a_discarded_one_is_refused_for_that(world: World) -> None:
    wrong = act("/v1/adverse-events", {**world.event(world.enrolled()), "severity": "awful"})
    later = act(f"/v1/adverse-events/@{wrong['id']}/reports", {"kind": "initial"})
    assert sync(world.staff_a, wrong, later)[later["id"]]["waits_for"] == [wrong["id"]]
    decision = {"decision": "discard", "reason": "entered twice"}
    done = world.staff_a.post(f"/v1/sync/{wrong['id']}/resolution", decision).json()["results"]
    for told in ({one["id"]: one for one in done}, sync(world.staff_a, wrong, later)):
        assert (told[wrong["id"]]["result"], told[wrong["id"]]["problem"]) == ("discarded", None)
        assert (told[later["id"]]["result"], told[later["id"]]["waits_for"]) == ("conflict", [])
        assert told[later["id"]]["problem"]["code"] == "reference_discarded"
    (kept,) = world.staff_a.get("/v1/sync", state="refused").json()["items"]
    assert (kept["id"], kept["body"]) == (later["id"], later["body"])


def after_91_days(world: World) -> None:
    past = now() - timedelta(days=91)
    with world.registry.database.write() as session:
        session.execute(update(SyncOperation).values(updated_at=past))
        session.execute(update(IdempotencyRecord).values(created_at=past))
    retries.forget(world.registry.served, 90)


def test_what_is_kept_for_a_decision_still_finds_what_it_refers_to_when_retries_are_forgotten(world: World) -> None:
    account = world.account((Role.site_staff, "A"))
    staff = Caller(world.registry.client, world.token(account))
    visit, gone = act("/v1/visits", world.visit(world.enrolled())), act("/v1/visits", {})
    fix = act(f"/v1/visits/@{visit['id']}", {"occurred_on": "x"}, method="PATCH", if_match=f"@{visit['id']}")
    sync(staff, visit, gone, fix)
    discard = {"decision": "discard", "reason": "a test of the app"}
    assert staff.post(f"/v1/sync/{gone['id']}/resolution", discard).status_code == 200
    after_91_days(world)
    late = act("/v1/outcomes", {"visit": f"@{gone['id']}"})
    assert sync(staff, late)[late["id"]]["problem"]["code"] == "reference_discarded"
    mended = {"decision": "send", "reason": "read again", "body": {"occurred_on": "2025-01-26", "reason": "misread"}}
    done = staff.post(f"/v1/sync/{fix['id']}/resolution", mended).json()["results"]
    assert [one["result"] for one in done] == ["created"]
    assert staff.post(f"/v1/sync/{late['id']}/resolution", discard).status_code == 200
    after_91_days(world)
    assert staff.get("/v1/sync").json()["items"] == []


def test_names_are_read_in_any_case(world: World) -> None:
    visit = act("/v1/visits", world.visit(world.enrolled()))
    shout = f"@{visit['id']}".upper()
    changes = {"occurred_on": "2025-01-26", "reason": "misread"}
    day = act(f"/v1/visits/{shout}", changes, method="PATCH", if_match=shout)
    outcome = act("/v1/outcomes", {"participant": visit["body"]["participant"], "visit": shout, **madrs(2)})
    told = sync(world.staff_a, outcome, day, {**visit, "id": visit["id"].upper()})
    assert {one: told[one]["result"] for one in told} == dict.fromkeys(
        [outcome["id"], day["id"], visit["id"]], "created"
    )
