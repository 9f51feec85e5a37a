"""A dosing session that its site entered in error: voided with its doses and vital signs, and counted nowhere."""

from typing import Any

import pytest

from tests.dosing_cases import (
    REVIEW,
    SESSIONS,
    SIGNALS,
    a_session,
    a_session_to_close,
    at,
    closing,
    dose,
    held,
    path_of,
    prepared,
    start,
    vitals,
)
from tests.route_cases import content_of, signature_of, with_password
from tests.test_changes import feed
from tests.test_dosing_corrections import asked, remarks
from tests.test_rule_queries import refresh_site
from tests.test_safety_signals import move, stricter
from tests.test_sync import act, sync
from tests.test_verifications import with_plan
from tests.voided_cases import WHY, void, voided
from tests.world import World, madrs

NOT_GIVEN = {"kind": "initial", "planned_mg": 80, "deviation_reason": "Felt unwell"}


def listed(world: World, **query: Any) -> list[str]:
    return [one["id"] for one in world.monitor.get(SESSIONS, study=world.study, **query).json()["items"]]


def posted(world: World, path: str, body: Any) -> Any:
    answer = world.staff_a.post(path, body)
    assert answer.status_code == 201, answer.text
    return answer


def signals(world: World, pid: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = world.monitor.get(SIGNALS, participant=pid).json()["items"]
    return items


def test_a_session_is_voided_with_its_doses_and_vital_signs_and_is_still_read_with_them(world: World) -> None:
    record = a_session_to_close(world)
    path, before = path_of(record), record.json()
    _, place = feed(world.staff_a)
    answer = voided(world.staff_a, path).json()
    assert (answer["voiding_reason"], answer["voided_at"]) == (WHY["reason"], answer["updated_at"])
    changed = ("voided_at", "voiding_reason", "version", "updated_at")
    assert {**answer, **{name: before[name] for name in changed}} == before
    assert answer["version"] == before["version"] + 1
    assert all(caller.get(path).json() == answer for caller in (world.staff_a, world.monitor))
    assert (listed(world), listed(world, voided="true")) == ([], [before["id"]])
    [change], _ = feed(world.staff_a, place)
    assert (change["action"], change["subject_id"]) == ("dosing-session:voided", before["id"])
    assert change["fields"] == ["voided_at", "voided_by", "voiding_reason"]


def test_what_was_voided_is_not_changed_again_and_the_session_is_recorded_anew(world: World) -> None:
    record = a_session_to_close(world)
    path, read, staff = path_of(record), record.json(), world.staff_a
    seen = voided(staff, path).headers["ETag"]
    why = {"reason": "typed wrongly"}
    verification = {"subject_type": "dosing_session", "subject": read["id"], "result": "verified"}
    for answer in (
        void(staff, path, seen),
        void(staff, path, record.headers["ETag"]),
        staff.patch(path, {**why, "staff": ["T01", "T03"]}, seen),
        staff.post(f"{path}/doses", dose("supplemental", 40, "11:00")),
        staff.patch(path_of(record, "/doses/{dose_id}"), {**why, "planned_mg": 90, "given_mg": 90}, seen),
        staff.post(f"{path}/vitals", vitals("M60", "10:15")),
        staff.patch(path_of(record, "/vitals/{reading_id}"), {**why, "values": {"PULSE": 72}}, seen),
        staff.post(f"{path}/close", closing()),
        world.monitor.post("/v1/verifications", {**verification, "version": read["version"] + 1}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "record_voided"), answer.text
    anew = posted(world, SESSIONS, start(read["visit"]))
    again = staff.post(SESSIONS, start(read["visit"]))
    assert (again.status_code, again.json()["code"]) == (409, "dosing_session_exists")
    assert listed(world) == [anew.json()["id"]]


def test_a_voiding_of_a_session_needs_the_version_seen_with_its_doses(world: World) -> None:
    record = a_session(world)
    path = path_of(record)
    posted(world, f"{path}/doses", dose())
    stale = void(world.staff_a, path, record.headers["ETag"])
    assert (stale.status_code, stale.json()["code"]) == (412, "version_stale")
    blind = world.staff_a.post(f"{path}/voiding", WHY)
    assert (blind.status_code, blind.json()["code"]) == (428, "if_match_missing")
    assert void(world.staff_b, path, record.headers["ETag"]).status_code == 404
    assert listed(world) == [record.json()["id"]]


def test_an_open_session_of_somebody_else_does_not_hold_up_the_next_one(world: World) -> None:
    pid = world.enrolled()
    first = posted(world, SESSIONS, start(prepared(world.staff_a, pid)["id"]))
    second = start(held(world.staff_a, pid, "DOS2", "2025-03-31")["id"], "2025-03-31")
    assert world.staff_a.post(SESSIONS, second).json()["code"] == "dosing_session_open"
    voided(world.staff_a, path_of(first))
    answer = world.staff_a.post(SESSIONS, second)
    assert answer.status_code == 201, answer.text


def test_a_dose_that_was_never_given_is_not_too_near_to_another(world: World) -> None:
    record = a_session_to_close(world)
    first, pid = path_of(record), record.json()["participant"]
    posted(world, f"{first}/close", closing())
    near = "2025-03-24"  # 21 days after the first
    second = posted(world, SESSIONS, start(held(world.staff_a, pid, "DOS2", near)["id"], near)).headers["Location"]
    posted(world, f"{second}/doses", dose(given_at=at("09:15", near)))
    night, later = "2025-03-04", {"reason": "read again", "deviation_reason": "Fell asleep before"}
    for below, change in (
        ("", {"reason": "read again", "ended_at": at("06:00", night), "released_at": at("08:00", night)}),
        (f"/doses/{record.json()['doses'][0]['id']}", {**later, "given_at": at("00:30", night)}),
    ):
        seen = world.staff_a.get(first).headers["ETag"]
        assert world.staff_a.patch(f"{first}{below}", change, seen).status_code == 200
    assert (remarks(world, second), asked(world, second)) == (["dose_off_course DOSE-INTERVAL"], ["dose_off_course"])
    before = world.staff_a.get(second).headers["ETag"]
    voided(world.staff_a, first)
    assert (remarks(world, second), asked(world, second)) == ([], [])
    assert world.staff_a.get(second).headers["ETag"] != before
    assert asked(world, first) == []


def test_exposure_counts_a_session_only_while_it_counts(world: World) -> None:
    """A visit without a session counts as one with a dose, as not every study records sessions."""
    record = a_session(world)
    path, pid = path_of(record), record.json()["participant"]
    event = posted(world, "/v1/adverse-events", world.event(pid, onset="2025-03-04")).headers["Location"]

    def exposed() -> tuple[Any, Any, int]:
        read = world.monitor.get(event).json()
        told = world.monitor.get("/v1/adverse-events/summary", study=world.study).json()
        return read["treatment_emergent"], read["days_since_last_dose"], told["participants"]

    posted(world, f"{path}/doses", NOT_GIVEN)
    assert exposed() == (None, None, 0)
    voided(world.staff_a, path)
    assert exposed() == (True, 1, 1)
    voided(world.staff_a, f"/v1/visits/{record.json()['visit']}")
    assert exposed() == (None, None, 0)


def test_a_signal_of_its_vital_signs_waits_for_its_review_and_holds_dosing_until_then(world: World) -> None:
    record = a_session(world)
    path, read = path_of(record), record.json()
    posted(world, f"{path}/vitals", vitals("M60", "10:15", SYSBP=161))
    voided(world.staff_a, path)
    [signal] = signals(world, read["participant"])
    assert (signal["rule"], signal["state"], signal["trigger_corrected_at"] is not None) == (
        "BLOOD-PRESSURE",
        "open",
        True,
    )
    later = start(read["visit"], started_at=at("11:00"))
    refused = world.staff_a.post(SESSIONS, later)
    assert [one["code"] for one in refused.json()["errors"]] == ["DOSE-SIGNAL"], refused.text
    posted(world, f"{SIGNALS}/{signal['id']}/review", REVIEW)
    posted(world, SESSIONS, later)


def test_stricter_rules_do_not_look_at_the_vital_signs_of_a_voided_session(world: World) -> None:
    right, error = (a_session(world) for _ in range(2))
    for record in (right, error):
        posted(world, path_of(record, "/vitals"), vitals(None, "10:15", PULSE=100))
    voided(world.staff_a, path_of(error))
    version = stricter(world)
    for record, rules in ((right, ["PULSE"]), (error, [])):
        pid = record.json()["participant"]
        move(world, pid, version)
        assert [one["rule"] for one in signals(world, pid)] == rules


def test_what_rules_asked_about_it_is_closed_and_what_a_monitor_asked_waits(world: World) -> None:
    record = a_session(world)
    path, read = path_of(record), record.json()
    posted(world, f"{path}/vitals", vitals(None, "10:15", TEMP=38.5))
    question = {"participant": read["participant"], "subject_type": "dosing_session", "subject": read["id"]}
    assert world.monitor.post("/v1/data-queries", {**question, "text": "Whose is it?"}).status_code == 201

    def states() -> dict[str, str]:
        items = world.monitor.get("/v1/data-queries", study=world.study).json()["items"]
        return {one["rule"] or "monitor": one["state"] for one in items}

    assert states() == {"vital_above_warning": "open", "monitor": "open"}
    voided(world.staff_a, path)
    assert states() == {"vital_above_warning": "closed", "monitor": "open"}
    refresh_site(world)
    told = states()
    assert (told["vital_above_warning"], told["monitor"], told["dosing_session_missing"]) == ("closed", "open", "open")


def test_a_signature_and_a_verification_of_a_voided_record_say_so(world: World) -> None:
    with_plan(world, "all", share=1.0, critical=[{"record": "dosing_session", "fields": ["doses"], "source": "x"}])
    visit = prepared(world.staff_a, world.enrolled(protocol_version="all"))
    record = posted(world, SESSIONS, start(visit["id"]))
    posted(world, f"{path_of(record)}/doses", dose())
    with_password(world, world.investigator)
    signed = world.investigator.post("/v1/signatures", signature_of(world, visit))
    assert signed.status_code == 201, signed.text
    before = content_of(world, visit)
    body = {"subject_type": "dosing_session", "subject": record.json()["id"], "version": 2, "result": "verified"}
    verified = world.monitor.post("/v1/verifications", body)
    assert verified.status_code == 201, verified.text

    def records() -> int:
        coverage = world.monitor.get("/v1/monitoring/verification", study=world.study).json()
        return sum(site["records"] for site in coverage["sites"])

    assert records() == 1
    voided(world.staff_a, path_of(record))
    assert world.monitor.get(signed.headers["Location"]).json()["state"] == "broken"
    assert content_of(world, visit) != before
    assert world.monitor.get(verified.headers["Location"]).json()["state"] == "record_voided"
    assert records() == 0


def test_a_therapist_of_another_participant_may_rate(world: World) -> None:
    record = a_session(world)
    rated = world.visit(record.json()["participant"], "UNS", "2025-04-02", outcomes=[{**madrs(2), "rater": "T01"}])
    assert world.staff_a.post("/v1/visits", rated).json()["code"] == "rater_not_independent"
    voided(world.staff_a, path_of(record))
    posted(world, "/v1/visits", rated)


def test_its_visit_may_be_moved_to_another_day(world: World) -> None:
    record = a_session(world)
    path = f"/v1/visits/{record.json()['visit']}"
    seen, moved = world.staff_a.get(path).headers["ETag"], {"reason": "typed wrongly", "occurred_on": "2025-03-05"}
    assert world.staff_a.patch(path, moved, seen).json()["code"] == "visit_has_dosing_session"
    voided(world.staff_a, path_of(record))
    assert world.staff_a.patch(path, moved, seen).status_code == 200


@pytest.mark.parametrize("scope", ["visit", "participant"])
def test_closed_data_are_opened_first(world: World, scope: str) -> None:
    record = a_session(world)
    about = {scope: record.json()[scope], "kind": "freeze", "study": world.study, "reason": "cleaning the data"}
    assert world.monitor.post("/v1/locks", about).status_code == 201
    answer = void(world.staff_a, path_of(record), record.headers["ETag"])
    assert (answer.status_code, answer.json()["code"]) == (423, "data_locked")


def test_an_act_of_voiding_is_carried_by_sync(world: World) -> None:
    record = a_session(world)
    one = act(f"{path_of(record)}/voiding", WHY, if_match=record.headers["ETag"])
    assert sync(world.staff_a, one)[one["id"]]["result"] == "created"
    assert listed(world) == []


def test_a_visit_with_a_voided_session_alone_is_one_without_a_session(world: World) -> None:
    """By the interval: nobody recorded that no dose was given."""
    record = a_session(world)
    voided(world.staff_a, path_of(record))
    near = held(world.staff_a, record.json()["participant"], "DOS2", "2025-03-20", deviation_reason="Came early")
    refused = world.staff_a.post(SESSIONS, start(near["id"], "2025-03-20"))
    assert [one["code"] for one in refused.json()["errors"]] == ["DOSE-INTERVAL"], refused.text
    voided(world.staff_a, f"/v1/visits/{record.json()['visit']}")
    posted(world, SESSIONS, start(near["id"], "2025-03-20"))
