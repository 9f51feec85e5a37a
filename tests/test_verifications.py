"""Source data verification: of a version, stale when the record changes, withdrawn with a reason; and its plan."""

from collections.abc import Mapping
from typing import Any

import pytest
from httpx2 import Response
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select

from app.models.audit import AuditEntry
from tests.closing_cases import a_verification
from tests.dosing_cases import a_session, a_session_to_close
from tests.monitor_cases import an_event
from tests.route_cases import a_visit, an_older_outcome, an_outcome
from tests.test_bulk import kinds, line, results, sent
from tests.world import World, made, madrs, protocol_definition


def a_participant(world: World, site: str) -> Response:
    return made(world, site, "/v1/participants", world.enrolment(site))


RECORDS: Mapping[str, Any] = {
    "visit": (a_visit, {"occurred_on": "2025-01-26"}),
    "outcome": (an_outcome, {"items": {"MADRS_01": 4}}),
    "adverse_event": (an_event, {"severity": "severe"}),
    "participant": (a_participant, {"age_at_consent": 52}),
    "dosing_session": (a_session, {"staff": ["T01", "T03"]}),
}


def path_of(kind: str, record: Response) -> str:
    read = record.json()
    return f"/v1/{kind.replace('_', '-')}s/{read['pid'] if kind == 'participant' else read['id']}"


def about(kind: str, record: Response) -> dict[str, Any]:
    """Says that a record is as its source has it."""
    read = record.json()
    subject = read["pid"] if kind == "participant" else read["id"]
    return {"subject_type": kind, "subject": subject, "version": read["version"], "result": "verified"}


def verify(world: World, kind: str, record: Response, **changes: Any) -> Response:
    return world.monitor.post("/v1/verifications", {**about(kind, record), **changes})


def state(world: World, verification: Response) -> str:
    """As reading it alone says, and as the list says, with and without the filter."""
    alone = world.monitor.get(verification.headers["Location"]).json()
    told: str = alone["state"]
    for filters in ({}, {"state": told}):
        listed = world.staff_a.get("/v1/verifications", participant=alone["participant"], **filters).json()["items"]
        assert alone in listed
    return told


@pytest.mark.parametrize("kind", RECORDS)
def test_a_verified_record_needs_it_again_once_it_changes(world: World, kind: str) -> None:
    make, change = RECORDS[kind]
    record = make(world, "A")
    first = verify(world, kind, record, note="held against page 3 of the source")
    read = first.json()
    assert (first.status_code, read["state"], read["version"], read["present_version"]) == (201, "verified", 1, 1)
    assert (read["subject_type"], read["site"], read["study"]) == (kind, "A", world.study)
    assert read["subject"] == path_of(kind, record).rpartition("/")[2]
    assert read["verified_by"] == world.monitor.get("/v1/me").json()["id"]
    assert state(world, first) == "verified"

    seen = record.headers["ETag"]
    amended = world.staff_a.patch(path_of(kind, record), {"reason": "typed wrongly", **change}, seen)
    assert state(world, first) == "needs_reverification"
    stale = verify(world, kind, record)
    assert (stale.status_code, stale.json()["code"]) == (409, "record_moved")

    second = verify(world, kind, amended)
    assert (state(world, second), state(world, first)) == ("verified", "superseded")


def test_a_record_that_differs_from_its_source_says_so_until_it_is_corrected(world: World) -> None:
    visit = a_visit(world, "A")
    verification = verify(world, "visit", visit, result="discrepant", note="the source says the 26th")
    assert state(world, verification) == "discrepant"
    change = {"occurred_on": "2025-01-26", "reason": "as the source says"}
    world.staff_a.patch(path_of("visit", visit), change, visit.headers["ETag"])
    assert state(world, verification) == "needs_reverification"


def test_a_verification_is_withdrawn_with_a_reason_and_the_one_before_it_counts_again(world: World) -> None:
    visit = a_visit(world, "A")
    first, second = (verify(world, "visit", visit) for _ in range(2))
    assert (state(world, first), state(world, second)) == ("superseded", "verified")
    path = f"{second.headers['Location']}/withdrawal"
    assert world.monitor.post(path, {}).status_code == 422
    assert world.staff_a.post(path, {"reason": "we disagree"}).status_code == 403
    answer = world.monitor_a.post(path, {"reason": "the wrong visit"})
    assert (answer.status_code, answer.json()["state"]) == (201, "withdrawn")
    assert answer.json()["withdrawal_reason"] == "the wrong visit"
    assert answer.json()["withdrawn_by"] == world.monitor_a.get("/v1/me").json()["id"]
    assert (state(world, first), state(world, second)) == ("verified", "withdrawn")
    again = world.monitor.post(path, {"reason": "the wrong visit"})
    assert (again.status_code, again.json()["code"]) == (409, "verification_withdrawn")
    with world.registry.database.read() as session:
        told = session.exec(
            select(AuditEntry).where(AuditEntry.subject_id == second.json()["id"]).order_by(col(AuditEntry.seq))
        ).all()
    assert [(entry.action, entry.reason) for entry in told] == [
        ("verification:recorded", None),
        ("verification:withdrawn", "the wrong visit"),
    ]


def test_locked_data_can_still_be_verified(world: World) -> None:
    visit = a_visit(world, "A")
    world.monitor.post("/v1/locks", {"kind": "lock", "study": world.study, "site": "A", "reason": "cleaning now"})
    assert verify(world, "visit", visit).status_code == 201


def test_an_identifier_of_another_kind_or_site_is_refused(world: World) -> None:
    visit, person = a_visit(world, "B"), a_participant(world, "B")
    assert verify(world, "outcome", visit).status_code == 404
    for kind, record in (("visit", person), ("participant", visit)):
        subject = record.json().get("pid") or record.json()["id"]
        body = {"subject_type": kind, "subject": subject, "version": 1, "result": "verified"}
        assert world.monitor.post("/v1/verifications", body).status_code == 422
        assert world.monitor_a.post("/v1/verifications", body).status_code == 422
    body = {"subject_type": "visit", "subject": visit.json()["id"], "version": 1, "result": "verified"}
    assert world.monitor_a.post("/v1/verifications", body).status_code == 404


def test_many_records_of_all_kinds_are_verified_in_one_request_and_sent_again_safely(world: World) -> None:
    records = [(kind, make(world, site)) for kind, (make, _) in RECORDS.items() for site in ("A", "B")]
    bodies = [about(kind, record) for kind, record in records]
    bodies[3] |= {"result": "discrepant", "note": "the source says 3"}
    lines = [line(body) for body in bodies]
    answer = sent(world.monitor, "verifications", lines)
    assert (answer.status_code, kinds(answer)) == (200, ["created"] * len(lines))
    for one, body in zip(results(answer), bodies, strict=True):
        read = world.monitor.get(one["location"]).json()
        assert (read["state"], read["note"]) == (body["result"], body.get("note"))
        assert (read["subject_type"], read["subject"]) == (body["subject_type"], body["subject"])
    again = sent(world.monitor, "verifications", lines)
    assert [{**one, "result": "created"} for one in results(again)] == results(answer)
    assert kinds(again) == ["replayed"] * len(lines)
    single = world.monitor.post("/v1/verifications", bodies[0], lines[0]["key"])
    assert single.headers["Location"] == results(answer)[0]["location"]
    assert single.json() == world.monitor.get(single.headers["Location"]).json()
    asked = {"study": world.study, "action": "verification:recorded", "limit": 500}
    told = world.monitor.get("/v1/audit-entries", **asked).json()["items"]
    assert len({(one["chain"], one["seq"]) for one in told}) == len(lines)


def test_a_record_that_moved_or_is_out_of_reach_costs_only_its_own_line(world: World) -> None:
    moved, good, elsewhere, person = (a_visit(world, site) for site in ("A", "A", "B", "A"))
    change = {"occurred_on": "2025-01-26", "reason": "typed wrongly"}
    assert world.staff_a.patch(path_of("visit", moved), change, moved.headers["ETag"]).is_success
    bodies = [about("visit", one) for one in (moved, good, elsewhere, person)]
    bodies[3]["subject_type"] = "outcome"
    answer = sent(world.monitor_a, "verifications", [line(body) for body in bodies])
    codes = [one["problem"]["code"] if "problem" in one else one["result"] for one in results(answer)]
    assert codes == ["record_moved", "created", "not_found", "not_found"]
    assert [one["result"] for one in results(answer)] == ["conflict", "created", "invalid", "invalid"]
    assert sent(world.staff_a, "verifications", [line(about("visit", good))]).status_code == 403


ATTACKS = (
    "UPDATE verification SET result = 'verified'",
    "DELETE FROM verification_withdrawal",
    "UPDATE verification_withdrawal SET reason = 'none'",
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_verifications_cannot_be_changed_by_sql(world: World, attack: str) -> None:
    path = a_verification(world, "A").headers["Location"]
    assert world.monitor.post(f"{path}/withdrawal", {"reason": "the wrong visit"}).status_code == 201
    with pytest.raises(DBAPIError, match="append-only"), world.registry.database.write() as session:
        session.execute(text(attack))
    with pytest.raises(DBAPIError), Session(world.registry.served.engine) as session:
        session.execute(text(attack))


def with_plan(world: World, version: str, **plan: Any) -> None:
    """Another protocol version, with this plan of verification."""
    definition = protocol_definition()
    definition["verification"].update(plan)
    answer = world.admin.post(f"/v1/studies/{world.study}/protocols", {**definition, "version": version})
    assert answer.status_code == 201, answer.text


def coverage(world: World) -> dict[str, dict[str, Any]]:
    read = world.monitor.get("/v1/monitoring/verification", study=world.study)
    assert read.status_code == 200, read.text
    assert [site["site"] for site in read.json()["sites"]] == ["A", "B"]
    return {site["site"]: site for site in read.json()["sites"]}


def test_coverage_counts_the_critical_records_of_sampled_participants_as_they_are_now(world: World) -> None:
    with_plan(world, "all", share=1.0)
    with_plan(world, "none", share=1e-12)
    person = made(world, "A", "/v1/participants", world.enrolment(protocol_version="all"))
    other = world.enrolled("A", protocol_version="none")
    pid = person.json()["pid"]
    visit = made(world, "A", "/v1/visits", world.visit(pid, outcomes=[madrs(2)]))
    made(world, "A", "/v1/visits", world.visit(other, outcomes=[madrs(2)]))
    events = [made(world, "A", "/v1/adverse-events", world.event(pid)) for _ in range(3)]
    before = coverage(world)
    assert before["B"] == {
        "site": "B",
        "participants": 0,
        "sampled": [],
        "coverage_percent": None,
        **dict.fromkeys(("records", "verified", "discrepant", "needs_reverification", "unverified"), 0),
    }
    assert before["A"]["sampled"] == [pid]
    assert (before["A"]["participants"], before["A"]["records"], before["A"]["unverified"]) == (2, 5, 5)
    assert before["A"]["coverage_percent"] == 0

    verify(world, "participant", person)
    outcome = world.staff_a.get(f"/v1/outcomes/{visit.json()['outcomes'][0]['id']}")
    verify(world, "outcome", outcome)
    verify(world, "outcome", outcome)  # once more counts once
    verify(world, "visit", visit)  # not in the plan
    verify(world, "adverse_event", events[0], result="discrepant")
    verify(world, "adverse_event", events[1])
    change = {"severity": "severe", "reason": "typed wrongly"}
    world.staff_a.patch(path_of("adverse_event", events[1]), change, events[1].headers["ETag"])
    now = coverage(world)["A"]
    counted = [now[name] for name in ("records", "verified", "discrepant", "needs_reverification", "unverified")]
    assert counted == [5, 2, 1, 1, 1]
    assert now["coverage_percent"] == 40.0


@pytest.mark.parametrize(
    ("kind", "change", "stands"),
    [
        ("adverse_event", {"expected": True, "action_taken": "unknown"}, True),
        ("adverse_event", {"criteria": {"hospitalisation": True}}, False),
        ("outcome", {"rater": "R02"}, True),
        ("outcome", {"items": {"MADRS_01": 4}}, False),
        ("participant", {"age_at_consent": 52}, True),
    ],
)
def test_a_verification_counts_until_a_critical_field_is_corrected(
    world: World, kind: str, change: dict[str, Any], stands: bool
) -> None:
    with_plan(world, "all", share=1.0)
    record = RECORDS[kind][0](world, "A")
    first = verify(world, kind, record)
    before = coverage(world)["A"]
    amended = world.staff_a.patch(path_of(kind, record), {"reason": "typed wrongly", **change}, record.headers["ETag"])
    assert amended.status_code == 200, amended.text
    assert state(world, first) == "needs_reverification"
    after = coverage(world)["A"]
    assert (before["verified"], after["verified"], after["needs_reverification"]) == (1, stands, not stands)


@pytest.mark.parametrize(("fields", "stands"), [(["doses"], False), (["staff"], True)])
def test_a_corrected_dose_shows_that_its_session_was_verified_before(
    world: World, fields: list[str], stands: bool
) -> None:
    critical = [{"record": "dosing_session", "fields": fields, "source": "made up"}]
    with_plan(world, "all", share=1.0, critical=critical)
    record = a_session_to_close(world, "A")
    first = verify(world, "dosing_session", record)
    assert (state(world, first), coverage(world)["A"]["verified"]) == ("verified", 1)
    path = f"{path_of('dosing_session', record)}/doses/{record.json()['doses'][0]['id']}"
    change = {"given_mg": 90, "planned_mg": 90, "reason": "the pharmacy's record says so"}
    assert world.staff_a.patch(path, change, record.headers["ETag"]).status_code == 200
    assert state(world, first) == "needs_reverification"
    assert coverage(world)["A"]["verified"] == stands


def test_scores_by_another_rule_are_the_same_answers_to_a_verifier(world: World) -> None:
    with_plan(world, "all", share=1.0, critical=[{"record": "outcome", "fields": ["items"], "source": "made up"}])
    outcome = an_older_outcome(world, "A")
    first = verify(world, "outcome", outcome)
    rescored = world.staff_a.post(f"{outcome.headers['Location']}/rescoring", {"reason": "the newest rules"})
    assert (rescored.status_code, state(world, first)) == (200, "needs_reverification"), rescored.text
    assert coverage(world)["A"]["verified"] == 1


def test_a_sites_performance_shows_the_coverage_without_the_participants(world: World) -> None:
    with_plan(world, "all", share=1.0)
    person = made(world, "A", "/v1/participants", world.enrolment(protocol_version="all"))
    verify(world, "participant", person)
    made(world, "A", "/v1/adverse-events", world.event(person.json()["pid"]))
    counts = {"records": 2, "verified": 1, "discrepant": 0, "needs_reverification": 0, "unverified": 1}
    answer = world.monitor.get("/v1/monitoring/sites", study=world.study)
    told = {site["site"]: site["verification"] for site in answer.json()["sites"]}
    assert told == {
        "A": {**counts, "coverage_percent": 50.0},
        "B": {**dict.fromkeys(counts, 0), "coverage_percent": None},
    }
    assert person.json()["pid"] not in answer.text


def test_coverage_is_of_the_sites_in_reach(world: World) -> None:
    path = "/v1/monitoring/verification"
    for caller in (world.monitor_a, world.staff_a):
        assert [site["site"] for site in caller.get(path, study=world.study).json()["sites"]] == ["A"]
    elsewhere = World(world.registry)
    assert elsewhere.monitor.get(path, study=world.study).status_code == 404
    assert world.monitor.get(path).status_code == 422


PENDING = "/v1/monitoring/verification/pending"


def pending(world: World, **query: Any) -> list[tuple[str, str, str]]:
    """What waits, as kind, subject and state, read in pages of one."""
    found, cursor = [], {}
    while True:
        page = world.monitor.get(PENDING, **{"study": world.study, "limit": 1, **query, **cursor})
        assert page.status_code == 200, page.text
        found += [(one["subject_type"], one["subject"], one["state"]) for one in page.json()["items"]]
        if page.json()["next"] is None:
            return found
        cursor = {"cursor": page.json()["next"]}


def test_the_records_that_the_plan_covers_wait_until_they_are_verified(world: World) -> None:
    with_plan(world, "all", share=1.0)
    with_plan(world, "none", share=1e-12)
    assert pending(world) == []
    person = made(world, "A", "/v1/participants", world.enrolment(protocol_version="all"))
    other, pid = world.enrolled("A", protocol_version="none"), person.json()["pid"]
    forms = [madrs(2), {"instrument": "CSSRS_SLV", "items": {}}]  # the plan is of the MADRS alone
    outcome = made(world, "A", "/v1/visits", world.visit(pid, outcomes=forms)).json()["outcomes"][0]
    made(world, "A", "/v1/visits", world.visit(other, outcomes=forms))
    event = made(world, "A", "/v1/adverse-events", world.event(pid))
    waiting = [
        ("adverse_event", event.json()["id"], "unverified"),
        ("outcome", outcome["id"], "unverified"),
        ("participant", pid, "unverified"),
    ]
    assert pending(world) == waiting
    verify(world, "participant", person)
    verify(world, "adverse_event", event, result="discrepant")
    assert pending(world) == waiting[1:2], "what is discrepant was seen, and a data query asks about it"
    [left] = world.monitor.get(PENDING, study=world.study).json()["items"]
    assert (left["participant"], left["site"], left["fields"]) == (pid, "A", ["collected_on", "items"])
    sent = {name: left[name] for name in ("subject_type", "subject", "version")}
    assert world.monitor.post("/v1/verifications", {**sent, "result": "verified"}).status_code == 201
    assert pending(world) == []


@pytest.mark.parametrize(("change", "waits"), [({"rater": "R02"}, False), ({"items": {"MADRS_01": 4}}, True)])
def test_what_was_verified_waits_again_once_a_critical_field_is_corrected(
    world: World, change: dict[str, Any], waits: bool
) -> None:
    with_plan(world, "all", share=1.0, critical=[{"record": "outcome", "fields": ["items"], "source": "made up"}])
    outcome = an_outcome(world, "A")
    first = verify(world, "outcome", outcome)
    body = {"reason": "typed wrongly", **change}
    assert world.staff_a.patch(path_of("outcome", outcome), body, outcome.headers["ETag"]).status_code == 200
    again = [("outcome", outcome.json()["id"], "needs_reverification")] if waits else []
    assert pending(world) == pending(world, state="needs_reverification") == again
    assert pending(world, state="unverified") == []
    listed = world.monitor.get(PENDING, study=world.study).json()["items"]
    assert [(one["version"], one["verified_version"]) for one in listed] == [(2, 1)] * waits
    world.monitor.post(f"{first.headers['Location']}/withdrawal", {"reason": "the wrong visit"})
    assert pending(world) == [("outcome", outcome.json()["id"], "unverified")]


def test_every_kind_of_record_can_wait_and_as_many_as_coverage_counts(world: World) -> None:
    fields = {"visit": "occurred_on", "outcome": "items", "adverse_event": "term", "participant": "status"}
    fields["dosing_session"] = "doses"
    critical = [{"record": kind, "fields": [field], "source": "made up"} for kind, field in fields.items()]
    with_plan(world, "all", share=1.0, critical=critical)
    for kind in RECORDS:
        RECORDS[kind][0](world, "A" if kind == "visit" else "B")
    counted = {site: read["unverified"] for site, read in coverage(world).items()}
    assert {site: len(pending(world, site=site, limit=3)) for site in ("A", "B")} == counted
    assert {kind for kind, _, _ in pending(world, limit=50)} == set(RECORDS)
    assert len(set(pending(world, limit=2))) == sum(counted.values())


def test_pending_records_are_those_of_the_sites_in_reach(world: World) -> None:
    with_plan(world, "all", share=1.0)
    mine, other = world.enrolled("A"), world.enrolled("B")
    for caller in (world.monitor_a, world.staff_a):
        [one] = caller.get(PENDING, study=world.study).json()["items"]
        assert (one["participant"], one["site"]) == (mine, "A")
        assert caller.get(PENDING, study=world.study, site="B").status_code == 404
    assert {subject for _, subject, _ in pending(world)} == {mine, other}
    assert World(world.registry).monitor.get(PENDING, study=world.study).status_code == 404
    assert world.monitor.get(PENDING).status_code == 422
