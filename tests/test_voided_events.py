"""An adverse event that its site entered in error: voided, still to be read, and counted nowhere."""

import json
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response
from sqlmodel import col, select

from app.models.audit import AuditEntry
from tests.monitor_cases import a_report, a_serious_event, an_event, nullification, question_about
from tests.test_changes import feed
from tests.test_rule_queries import refresh_site
from tests.test_sync import act, sync
from tests.test_verifications import with_plan
from tests.voided_cases import WHY, void, voided
from tests.world import World, made

EVENTS = "/v1/adverse-events"
ASSESSED = {"kind": "assessment", "relatedness_drug": "possible", "relatedness_therapy": "unlikely", "expected": True}


def path(event: Response) -> str:
    return event.headers["Location"]


def listed(world: World, **asked: Any) -> list[str]:
    return [one["id"] for one in world.monitor.get(EVENTS, study=world.study, **asked).json()["items"]]


def desk(world: World) -> dict[str, Any]:
    told: dict[str, Any] = world.monitor.get("/v1/monitoring/summary", study=world.study).json()
    return told


def records_to_verify(world: World) -> int:
    """By the protocol's plan."""
    coverage = world.monitor.get("/v1/monitoring/verification", study=world.study).json()
    return sum(site["records"] for site in coverage["sites"])


def test_a_voided_event_is_in_no_list_and_is_still_read_by_its_id_with_when_and_why(world: World) -> None:
    event, other = an_event(world, "A"), an_event(world, "A")
    answer = voided(world.staff_a, path(event)).json()
    assert answer["voiding_reason"] == WHY["reason"]
    assert answer["voided_at"] == answer["updated_at"] > event.json()["updated_at"]
    assert {**event.json(), **{name: answer[name] for name in ("voided_at", "voiding_reason")}} == {
        **answer,
        **{name: event.json()[name] for name in ("version", "updated_at")},
    }
    for caller in (world.staff_a, world.monitor):
        read = caller.get(path(event)).json()
        assert {name: read[name] for name in answer} == answer
    assert listed(world) == [other.json()["id"]]
    assert listed(world, voided="true") == [event.json()["id"]]
    assert listed(world, voided="true", term="Nausea") == []
    sheet = world.monitor.get(EVENTS, study=world.study, format="csv").text.splitlines()
    assert (len(sheet), other.json()["id"] in sheet[1]) == (2, True)


def test_what_was_voided_is_not_changed_again(world: World) -> None:
    event = a_serious_event(world, "A")
    seen = voided(world.staff_a, path(event)).headers["ETag"]
    staff, monitor, version = world.staff_a, world.monitor, {"version": 2}
    verification = {"subject_type": "adverse_event", "subject": event.json()["id"], "result": "verified", **version}
    for answer in (
        void(staff, path(event), seen),
        void(staff, path(event), event.headers["ETag"]),
        staff.patch(path(event), {"reason": "typed wrongly", "severity": "severe"}, seen),
        staff.post(f"{path(event)}/reports", {"kind": "initial"}),
        monitor.post(f"{path(event)}/reviews", {**ASSESSED, **version}),
        monitor.post("/v1/verifications", verification),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "record_voided"), answer.text
    assert staff.get(path(event)).headers["ETag"] == seen


def test_a_voiding_needs_the_version_seen_and_a_reason(world: World) -> None:
    event = an_event(world, "A")
    blind = world.staff_a.post(f"{path(event)}/voiding", WHY)
    assert (blind.status_code, blind.json()["code"]) == (428, "if_match_missing")
    change = {"reason": "typed wrongly", "severity": "severe"}
    assert world.staff_a.patch(path(event), change, event.headers["ETag"]).is_success
    stale = void(world.staff_a, path(event), event.headers["ETag"])
    assert (stale.status_code, stale.json()["code"]) == (412, "version_stale")
    unsaid = world.staff_a.post(f"{path(event)}/voiding", {}, **{"If-Match": stale.headers["ETag"]})
    assert (unsaid.status_code, unsaid.json()["errors"][0]["pointer"]) == (422, "/reason")
    assert listed(world) == [event.json()["id"]]


def test_a_retry_gets_its_own_first_answer(world: World) -> None:
    key, body = str(uuid4()), world.event(world.enrolled())
    event = world.staff_a.post(EVENTS, body, key)
    first, again = (void(world.staff_a, path(event), event.headers["ETag"], f"{key}-void") for _ in range(2))
    assert (again.status_code, again.json()) == (201, first.json())
    assert again.headers["Idempotent-Replayed"] == "true"
    reported = world.staff_a.post(EVENTS, body, key)
    assert (reported.status_code, reported.json()) == (201, event.json())
    assert listed(world) == []


def test_another_sites_event_is_not_there(world: World) -> None:
    event = an_event(world, "A")
    answer = void(world.staff_b, path(event), event.headers["ETag"])
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_trail_and_the_feed_have_the_voiding_and_keep_what_was_recorded(world: World) -> None:
    event = an_event(world, "A")
    _, place = feed(world.staff_a)
    voided(world.staff_a, path(event))
    [change], _ = feed(world.staff_a, place)
    assert (change["action"], change["subject_type"]) == ("adverse-event:voided", "adverse_event")
    assert change["fields"] == ["voided_at", "voided_by", "voiding_reason"]
    with world.registry.database.read() as session:
        entries = select(AuditEntry).filter_by(subject_type="adverse_event", subject_id=event.json()["id"])
        made, put_right = session.exec(entries.order_by(col(AuditEntry.seq))).all()
    me = world.staff_a.get("/v1/me").json()["id"]
    assert (put_right.actor, put_right.reason) == (me, WHY["reason"])
    assert {one["field"]: one["new"] for one in json.loads(made.changes)}["term"] == "Headache"
    told = world.monitor.get(f"{path(event)}/history").json()["items"]
    assert {one["field"] for one in told if one["action"] == "adverse-event:voided"} == {*change["fields"]}


def test_an_act_of_voiding_is_carried_by_sync(world: World) -> None:
    event = an_event(world, "A")
    one = act(f"{path(event)}/voiding", WHY, if_match=event.headers["ETag"])
    assert sync(world.staff_a, one)[one["id"]]["result"] == "created"
    assert listed(world) == []


def test_what_rules_asked_about_it_is_closed_and_what_a_monitor_asked_waits_for_the_monitor(world: World) -> None:
    event = world.staff_a.post(EVENTS, world.event(world.enrolled(), onset=None))
    assert world.monitor.post("/v1/data-queries", question_about(event.json())).status_code == 201
    voided(world.staff_a, path(event))

    def states() -> dict[str, str]:
        items = world.monitor.get("/v1/data-queries", study=world.study).json()["items"]
        return {one["rule"] or "monitor": one["state"] for one in items}

    assert states() == {"onset_missing": "closed", "monitor": "open"}
    refresh_site(world)
    assert states() == {"onset_missing": "closed", "monitor": "open"}


def test_a_serious_event_has_no_clock_any_more_and_stays_at_the_monitors_desk_until_it_is_seen(world: World) -> None:
    event = a_serious_event(world, "A")
    assert [one["code"] for one in world.monitor.get(f"{path(event)}/clocks").json()["items"]] == ["SAE-REPORT"]
    voided(world.staff_a, path(event))
    assert world.monitor.get(f"{path(event)}/clocks").json()["items"] == []
    told = desk(world)
    [waits] = told["voided"]
    assert (waits["adverse_event"], waits["voiding_reason"]) == (event.json()["id"], WHY["reason"])
    [here] = [one for one in told["sites"] if one["site"] == "A"]
    counted = {name: here[name] for name in ("adverse_events", "serious", "unreviewed", "due_soon", "voided")}
    assert counted == {"adverse_events": 0, "serious": 0, "unreviewed": 0, "due_soon": 0, "voided": 1}
    seen = world.monitor.post(f"{path(event)}/reviews", {"kind": "acknowledged", "version": 2})
    assert seen.status_code == 201, seen.text
    assert desk(world)["voided"] == []
    assert world.monitor.post(f"{path(event)}/reviews/1/withdrawal", WHY).status_code == 201
    assert len(desk(world)["voided"]) == 1


def test_an_event_that_is_not_serious_asks_nobody(world: World) -> None:
    voided(world.staff_a, path(an_event(world, "A")))
    assert desk(world)["voided"] == []


def test_a_request_for_information_closes_with_its_event_and_the_reason_and_the_monitor_sees_it(world: World) -> None:
    event = an_event(world, "A")
    reviews = f"{path(event)}/reviews"
    asked = {"kind": "information_request", "version": 1, "due_at": "2030-01-01T12:00:00Z", "comment": "Which drug?"}
    for _ in range(2):
        assert world.monitor.post(reviews, asked).status_code == 201
    assert world.monitor.post(f"{reviews}/1/withdrawal", WHY).status_code == 201
    _, place = feed(world.monitor)
    answer = voided(world.staff_a, path(event)).json()
    withdrawn, closed = world.monitor.get(reviews).json()["items"]
    assert (withdrawn["closed_at"], withdrawn["closing_reason"]) == (None, None)
    assert (closed["closed_at"], closed["closing_reason"]) == (answer["voided_at"], WHY["reason"])
    changes, _ = feed(world.monitor, place)
    closing = ("adverse-event:request-closed", "ae_review", f"{event.json()['id']}/2")
    assert [(one["action"], one["subject_type"], one["subject_id"]) for one in changes][1:] == [closing]
    assert world.monitor.get(f"{path(event)}/clocks").json()["items"] == []
    told = desk(world)
    assert ([one["adverse_event"] for one in told["voided"]], told["due_soon"]) == ([event.json()["id"]], [])
    assert world.monitor.post(reviews, {"kind": "acknowledged", "version": 2}).status_code == 201
    assert desk(world)["voided"] == []


def test_a_request_that_was_answered_is_not_closed_by_the_voiding(world: World) -> None:
    event = an_event(world, "A")
    asked = {"kind": "information_request", "version": 1, "due_at": "2030-01-01T12:00:00Z", "comment": "Which drug?"}
    assert world.monitor.post(f"{path(event)}/reviews", asked).status_code == 201
    assert world.staff_a.post(f"{path(event)}/reports", {"kind": "initial"}).status_code == 201
    assert world.staff_a.post(f"{path(event)}/reports", nullification()).status_code == 201
    voided(world.staff_a, path(event))
    [request] = world.monitor.get(f"{path(event)}/reviews").json()["items"]
    assert (request["closed_at"], request["closing_reason"]) == (None, None)
    assert [one["adverse_event"] for one in desk(world)["voided"]] == [event.json()["id"]]


@pytest.mark.parametrize("told", ["the sponsor", "an authority"])
def test_an_event_that_was_reported_cannot_be_voided(world: World, told: str) -> None:
    if told == "the sponsor":
        event = path(a_report(world, "A")).removesuffix("/reports/1")
    else:
        event = path(a_serious_event(world, "A"))
        informed = world.staff_a.get(event).json()["aware_at"]
        body = {"kind": "authority_informed", "version": 1, "informed_at": informed}
        assert world.monitor.post(f"{event}/reviews", body).status_code == 201
    answer = void(world.staff_a, event, world.staff_a.get(event).headers["ETag"])
    assert (answer.status_code, answer.json()["code"]) == (409, "event_reported")
    assert listed(world) == [event.rpartition("/")[2]]


def test_an_authority_that_was_not_informed_after_all_prevents_nothing(world: World) -> None:
    event = path(a_serious_event(world, "A"))
    body = {"kind": "authority_informed", "version": 1, "informed_at": world.staff_a.get(event).json()["aware_at"]}
    assert world.monitor.post(f"{event}/reviews", body).status_code == 201
    assert world.monitor.post(f"{event}/reviews/1/withdrawal", WHY).status_code == 201
    voided(world.staff_a, event)


def test_a_verification_of_it_says_that_the_record_was_voided(world: World) -> None:
    with_plan(world, "all", share=1.0)
    event = made(world, "A", EVENTS, world.event(world.enrolled(protocol_version="all")))
    body = {"subject_type": "adverse_event", "subject": event.json()["id"], "version": 1, "result": "verified"}
    verified, before = world.monitor.post("/v1/verifications", body), records_to_verify(world)
    voided(world.staff_a, path(event))
    assert world.monitor.get(verified.headers["Location"]).json()["state"] == "record_voided"
    assert len(world.monitor.get("/v1/verifications", study=world.study, state="record_voided").json()["items"]) == 1
    assert records_to_verify(world) == before - 1


def test_the_double_of_a_voided_event_is_no_double_any_more(world: World) -> None:
    pid = world.enrolled()
    once, twice = (world.staff_a.post(EVENTS, world.event(pid)) for _ in range(2))
    assert len(listed(world, possible_duplicate="true")) == 2
    voided(world.staff_a, path(twice))
    assert (listed(world, possible_duplicate="true"), listed(world)) == ([], [once.json()["id"]])
