"""A participant who was enrolled in error, such as somebody twice: voided, still to be read, and counted nowhere."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response

from app.privacy.erasure_journal import noted
from app.services.operations import vault_care
from tests.builds import key
from tests.course_cases import CONSENT, TREATMENT, screen_failed, under_amendment
from tests.courses import withdraw
from tests.label_cases import PATH, approved, asking
from tests.outbox_cases import a_subscription
from tests.test_audit_entries import rows
from tests.test_bulk import line, results, sent
from tests.test_changes import feed
from tests.test_data_cuts import cut, extract, tables, verdict
from tests.test_labels_corrected import found, relabelled
from tests.test_notifications import told
from tests.test_screenings import all_met, screened_again
from tests.test_signatures import signed_record, state
from tests.test_sync import act, sync
from tests.test_withdrawn_since import NOBODY, TOLD, since
from tests.voided_cases import WHY, void, voided
from tests.world import Caller, World, label, madrs


def of(pid: str) -> str:
    return f"/v1/participants/{pid}"


def take_out(world: World, pid: str, by: Caller | None = None) -> Response:
    return void(by or world.staff_a, of(pid), world.staff_a.get(of(pid)).headers["ETag"])


def refused(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def listed(world: World, **asked: str) -> list[str]:
    items = world.staff_a.get("/v1/participants", study=world.study, **asked).json()["items"]
    return [one["pid"] for one in items]


def test_who_was_enrolled_twice_is_one_participant_and_can_still_be_read(world: World) -> None:
    right, twice = world.enrolled(), world.enrolled()
    before = world.staff_a.get(of(twice)).json()
    answer = voided(world.staff_a, of(twice)).json()
    assert answer == world.monitor.get(of(twice)).json()
    changed = {"version": 2, **{name: answer[name] for name in ("updated_at", "voided_at", "voiding_reason")}}
    assert (answer, answer["voiding_reason"]) == ({**before, **changed}, WHY["reason"])
    assert (listed(world), listed(world, voided="true")) == ([right], [twice])
    assert world.monitor.get(f"{of(twice)}/history").json()["items"][-1]["action"] == "participant:voided"
    lists = [world.monitor.get(f"{of(twice)}/{name}").json() for name in ("screenings", "consents")]
    assert [one["voided_at"] for one in (lists[0]["items"][0], lists[1]["consents"][0])] == [answer["voided_at"]] * 2
    counted = world.monitor.get("/v1/monitoring/sites", study=world.study).json()["sites"][0]["participants"]
    assert (counted["registered"], counted["enrolled"]) == (1, 1)
    planned = [world.monitor.get(f"{of(pid)}/schedule").json()["items"] for pid in (right, twice)]
    assert (planned[0] != [], planned[1]) == (True, [])


def test_the_label_is_free_and_finds_whoever_is_enrolled_under_it_next(world: World) -> None:
    """It was typed for another person, who comes now, or the wrong one of two pids was voided."""
    theirs = label()
    pid = world.enrolled(site_local_id=theirs)
    voided(world.staff_a, of(pid))
    assert found(world, theirs) is None
    new = world.enrolled(site_local_id=theirs)
    assert found(world, theirs) == new != pid
    path = approved(world, world.monitor.post(PATH, asking(pid)).headers["Location"])
    assert refused(world.monitor.post(f"{path}/reading", {})) == (410, "label_erased")
    journal = world.registry.app.state.erasures
    assert journal.person(pid.replace("-", "")) in noted(journal.path).persons
    assert vault_care.check(world.registry.database, sweep=False).nameless == 0
    mistyped = world.enrolled()
    assert refused(relabelled(world, mistyped, theirs)) == (409, "label_already_enrolled")


def test_a_repeated_enrolment_is_answered_as_before_and_a_reserved_pid_stays_used(world: World) -> None:
    body = {"study": world.study, "site": "A", "device": "tablet", "count": 1}
    [reserved] = world.staff_a.post("/v1/pid-reservations", body).json()["pids"]
    enrolment, once = world.enrolment(pid=reserved), str(uuid4())
    first = world.staff_a.post("/v1/participants", enrolment, once)
    voided(world.staff_a, of(reserved))
    again = world.staff_a.post("/v1/participants", enrolment, once)
    assert (again.status_code, again.json()) == (201, first.json())
    other = world.staff_a.post("/v1/participants", world.enrolment(pid=reserved))
    assert refused(other) == (409, "pid_already_enrolled")


def test_whatever_was_recorded_later_is_voided_first(world: World) -> None:
    pid = under_amendment(world)
    staff, person = world.staff_a, of(pid)
    visit = staff.post("/v1/visits", world.visit(pid, outcomes=[madrs(2)])).json()
    event = staff.post("/v1/adverse-events", world.event(pid)).headers["Location"]
    treatment = staff.post(f"{person}/treatments", TREATMENT).headers["Location"]
    assert staff.post(f"{person}/consents", CONSENT).status_code == 201
    withdraw(world, pid, "contact", "2025-03-01")
    kinds = ["adverse_events", "consents", "treatments", "visits", "withdrawals"]
    answer = take_out(world, pid)
    assert (refused(answer), answer.json()["records"]) == ((409, "participant_has_records"), kinds)
    for path in (event, treatment, f"/v1/visits/{visit['id']}"):
        voided(staff, path)
    assert take_out(world, pid).json()["records"] == ["consents", "withdrawals"]
    assert void(staff, f"{person}/consents/2/1", staff.get(person).headers["ETag"]).status_code == 201
    assert staff.post(f"{person}/withdrawals/1/voiding", WHY).status_code == 201
    assert take_out(world, pid).status_code == 201
    assert [staff.get(f"{person}/{name}").json()["reconsent_to"] for name in ("schedule", "consents")] == [[], []]


def test_a_further_screening_is_no_part_of_the_enrolment(world: World) -> None:
    pid = screen_failed(world)
    assert screened_again(world, pid, "2025-06-01", **all_met()).status_code == 201
    assert take_out(world, pid).json()["records"] == ["screenings"]


def test_whose_identity_was_erased_can_be_voided(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "identity", "2025-03-01")
    assert take_out(world, pid).status_code == 201


def test_only_who_may_enrol_there_and_saw_the_participant_voids_it_and_once(world: World) -> None:
    pid = world.enrolled()
    seen = world.staff_a.get(of(pid)).headers["ETag"]
    assert void(world.staff_b, of(pid), seen).status_code == 404
    assert void(world.monitor, of(pid), seen).status_code == 403
    assert refused(world.staff_a.post(f"{of(pid)}/voiding", WHY)) == (428, "if_match_missing")
    assert relabelled(world, pid, label()).status_code == 200
    assert refused(void(world.staff_a, of(pid), seen)) == (412, "version_stale")
    lock = {"kind": "freeze", "study": world.study, "site": "A", "participant": pid, "reason": "before the cut"}
    path = world.monitor.post("/v1/locks", lock).headers["Location"]
    assert refused(take_out(world, pid)) == (423, "data_locked")
    assert world.monitor.post(f"{path}/lifting", {"reason": "it was enrolled twice"}).status_code == 201
    assert take_out(world, pid, world.investigator).status_code == 201
    assert refused(take_out(world, pid)) == (409, "record_voided")


WRITES: dict[str, Callable[[World, str], Response]] = {
    "visit": lambda world, pid: world.staff_a.post("/v1/visits", world.visit(pid)),
    "event": lambda world, pid: world.staff_a.post("/v1/adverse-events", world.event(pid)),
    "treatment": lambda world, pid: world.staff_a.post(f"{of(pid)}/treatments", TREATMENT),
    "consent": lambda world, pid: world.staff_a.post(f"{of(pid)}/consents", {**CONSENT, "version": "1"}),
    "label": lambda world, pid: relabelled(world, pid, label()),
    "status": lambda world, pid: world.staff_a.post(
        f"{of(pid)}/status", {"status": "active", "effective_on": "2025-03-03", "reason": "dosed"}
    ),
    "withdrawal": lambda world, pid: world.staff_a.post(
        f"{of(pid)}/withdrawals", {"scope": "identity", "effective_on": "2025-03-03", "reason": "asked for"}
    ),
    "lock": lambda world, pid: world.monitor.post(
        "/v1/locks", {"kind": "freeze", "study": world.study, "site": "A", "participant": pid, "reason": "before a cut"}
    ),
    "verification": lambda world, pid: world.monitor.post(
        "/v1/verifications", {"subject_type": "participant", "subject": pid, "version": 2, "result": "verified"}
    ),
    "missing visit": lambda world, pid: world.monitor.post(
        "/v1/data-queries",
        {"participant": pid, "subject_type": "missing_visit", "visit_code": "BL", "occurrence": 1, "text": "Held?"},
    ),
}


def test_nothing_more_is_written_of_a_voided_participant(world: World) -> None:
    pid = world.enrolled()
    voided(world.staff_a, of(pid))
    for name, write in WRITES.items():
        assert refused(write(world, pid)) == (409, "record_voided"), name
    lines = [line(world.visit(world.enrolled())), line(world.visit(pid))]
    uploaded = results(sent(world.staff_a, "visits", lines))
    assert [one.get("problem", {}).get("code") for one in uploaded] == [None, "record_voided"]
    offline = act("/v1/visits", world.visit(pid))
    assert sync(world.staff_a, offline)[offline["id"]]["problem"]["code"] == "record_voided"


def test_an_act_of_voiding_is_carried_by_sync(world: World) -> None:
    pid = world.enrolled()
    one = {**act(f"{of(pid)}/voiding", WHY), "if_match": world.staff_a.get(of(pid)).headers["ETag"]}
    assert sync(world.staff_a, one)[one["id"]]["result"] == "created"
    assert listed(world, voided="true") == [pid]


def test_extracts_keep_who_was_given_out_and_later_ones_are_without(world: World) -> None:
    everything = a_subscription(world, event_types=[TOLD])
    under_amendment(world, age_at_consent=30)
    pid = under_amendment(world, age_at_consent=60)
    name, before = cut(world), extract(world)
    voided(world.staff_a, of(pid))
    later = extract(world), extract(world, cut=name)
    ages = [[row["age_group"] for row in tables(world, path)["participants.csv"]] for path in (before, *later)]
    assert ages == [["30", "60"], ["30"], ["30"]]
    assert [verdict(world, path) for path in (before, *later)] == ["the same rows"] * 3
    assert since(world.custodian, before) == {**NOBODY, "sharing": 1}
    assert told(world, everything) == [(TOLD, key(before))]


def test_what_rules_asked_is_settled_and_what_a_monitor_asked_waits_for_the_monitor(world: World) -> None:
    pid = world.enrolled(consent={"version": "1", "given_on": None, "scopes": ["main"]})
    about = {"participant": pid, "subject_type": "participant", "text": "Is this the person of the other pid?"}
    path = world.monitor.post("/v1/data-queries", about).headers["Location"]
    voided(world.staff_a, of(pid))
    still = world.monitor.get("/v1/data-queries", participant=pid, state="open").json()["items"]
    assert [one["origin"] for one in still] == ["monitor"]
    answer = {"text": "It is, and this one was voided"}
    assert world.staff_a.post(f"{path}/answers", answer).status_code == 201
    closure = {"decision": "close", "reason": "Seen"}
    assert world.monitor.post(f"{path}/closure", closure).status_code == 201


def test_what_was_verified_and_signed_of_it_says_so(world: World) -> None:
    pid = world.enrolled()
    seen = {"subject_type": "participant", "subject": pid, "version": 1, "result": "verified"}
    verified = world.monitor.post("/v1/verifications", seen).headers["Location"]
    signature = signed_record(world, pid)
    voided(world.staff_a, of(pid))
    assert world.monitor.get(verified).json()["state"] == "record_voided"
    assert state(world, signature) == "broken"
    assert world.investigator.get("/v1/signatures/content", participant=pid).status_code == 404


def test_the_trail_and_the_feed_tell_of_it_and_not_of_the_label(world: World) -> None:
    theirs = label()
    pid = world.enrolled(site_local_id=theirs)
    _, place = feed(world.staff_a)
    voided(world.staff_a, of(pid))
    changes, _ = feed(world.staff_a, place)
    actions = ["consent:voided", "screening:voided", "participant:voided"]
    assert [one["action"] for one in changes] == actions
    entries = [one for one in rows(world.monitor, participant=pid) if one["action"] in [*actions, "vault:erased"]]
    assert {one["action"] for one in entries} == {*actions, "vault:erased"}
    assert {one["reason"] for one in entries} == {WHY["reason"]}
    assert theirs not in str(entries)


@pytest.mark.parametrize("noun", ["visits", "adverse-events"])
def test_a_record_and_a_voiding_at_once_come_one_after_the_other(world: World, noun: str) -> None:
    """Whichever is second is refused: no record of somebody who was voided counts."""
    pid = world.enrolled()
    seen = world.staff_a.get(of(pid)).headers["ETag"]
    body: dict[str, Any] = world.visit(pid) if noun == "visits" else world.event(pid)
    with ThreadPoolExecutor(2) as both:
        record = both.submit(lambda: world.staff_a.post(f"/v1/{noun}", body))
        taken = both.submit(lambda: void(world.staff_a, of(pid), seen))
        answers = record.result(), taken.result()
    assert sorted(one.status_code for one in answers) == [201, 409]
    assert {one.json().get("code") for one in answers} < {None, "participant_has_records", "record_voided"}
