"""What a rule of the protocol finds in an outcome or a vital sign waits for a clinician, whatever else happens."""

from datetime import UTC, datetime, timedelta
from itertools import product
from threading import Thread
from typing import Any
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.models.account import AccountKind, Role
from app.models.safety_signal import SafetySignal
from app.models.study import Site
from app.services.dosing import dosing_sessions
from tests.dosing_cases import (
    REVIEW,
    SESSIONS,
    SIGNALS,
    a_session,
    a_session_to_close,
    a_signal,
    closing,
    cssrs,
    held,
    path_of,
    prepared,
    start,
    suicidal,
    vitals,
)
from tests.world import Caller, World, made, madrs, protocol_definition

PHQ9 = {"instrument": "PHQ9", "items": {f"PHQ9_{number:02d}": int(number == 9) for number in range(1, 10)}}
TRIGGERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "CSSRS-IDEATION": (cssrs(2, 4, 5), ["CSSRS_SLV_04", "CSSRS_SLV_05"]),
    "CSSRS-BEHAVIOUR": (cssrs(6), ["CSSRS_SLV_06"]),
    "CSSRS-SELF-INJURY": (cssrs(10), ["CSSRS_SLV_10"]),
    "MADRS-10": (suicidal(), ["MADRS_10"]),
    "PHQ9-9": (PHQ9, ["PHQ9_09"]),
}


def signals(world: World, pid: str, **asked: str) -> list[dict[str, Any]]:
    """As the monitor sees them, newest first."""
    items: list[dict[str, Any]] = world.monitor.get(SIGNALS, participant=pid, **asked).json()["items"]
    return items


@pytest.mark.by_turns
@pytest.mark.parametrize("rule", TRIGGERS)
@pytest.mark.parametrize("way", ["with the visit", "alone", "by correction"])
def test_whatever_way_the_answer_comes_in_the_monitor_sees_the_signal_at_once(
    world: World, rule: str, way: str
) -> None:
    outcome, because = TRIGGERS[rule]
    pid, harmless = world.enrolled(), {**outcome, "items": dict.fromkeys(outcome["items"], 0)}
    visit = held(world.staff_a, pid, "BL", "2025-02-10", outcomes={"with the visit": [outcome]}.get(way, []))
    if way != "with the visit":
        body = {"participant": pid, "visit": visit["id"], **(outcome if way == "alone" else harmless)}
        stored = world.staff_a.post("/v1/outcomes", body)
        assert stored.status_code == 201
        if way == "by correction":
            assert signals(world, pid) == []
            change = {"reason": "Read from the wrong line", "items": outcome["items"]}
            assert world.staff_a.patch(stored.headers["Location"], change, stored.headers["ETag"]).status_code == 200
    (signal,) = signals(world, pid)
    assert (signal["rule"], signal["because"], signal["state"]) == (rule, because, "open")
    assert (signal["rule_version"], signal["protocol_version"]) == ("2" if rule == "CSSRS-BEHAVIOUR" else "1", "1")
    assert signal["holds_dosing"]
    assert signal["source"]["kind"] == "outcome"


def test_a_retried_request_raises_no_second_signal(world: World) -> None:
    pid, key = world.enrolled(), str(uuid4())
    body = world.visit(pid, outcomes=[suicidal()])
    for _ in range(3):
        assert world.staff_a.post("/v1/visits", body, key).status_code == 201
    assert world.staff_a.post("/v1/visits", body).status_code == 409
    assert len(signals(world, pid)) == 1


STEPS = ("0", "4", "5", "another item", "review")


@pytest.mark.by_turns  # the rule decides, and knows no database
@pytest.mark.parametrize(("first", "second"), [(4, 0), (0, 5)])
def test_no_order_of_corrections_and_reviews_leaves_a_trigger_unseen(world: World, first: int, second: int) -> None:
    """After each step: a value of 4 or more has its open signal, or one that was reviewed at this very value."""
    for steps in product(STEPS, STEPS):
        pid = world.enrolled()
        outcome = held(world.staff_a, pid, "BL", "2025-02-10", outcomes=[suicidal(first)])["outcomes"][0]
        value, other, reviewed_at, count = first, 2, None, 0
        for step in (str(second), *steps):
            told = signals(world, pid)
            if step == "review":
                for signal in told:
                    answer = world.staff_a.post(f"{SIGNALS}/{signal['id']}/review", REVIEW)
                    assert answer.status_code == (201 if signal["state"] == "open" else 409)
                reviewed_at = value
            else:
                other = 7 - other if step == "another item" else other
                wanted = value if step == "another item" else int(step)
                reviewed_at = reviewed_at if wanted == value else None
                value = wanted
                path = f"/v1/outcomes/{outcome['id']}"
                items = {"MADRS_10": value, "MADRS_01": other}
                tag = world.staff_a.get(path).headers["ETag"]
                assert world.staff_a.patch(path, {"reason": "read again", "items": items}, tag).status_code == 200
            told = signals(world, pid)
            waiting = [signal for signal in told if signal["state"] == "open"]
            assert len(told) >= count, "a signal went away"
            assert len(waiting) <= 1
            assert value < 4 or waiting or reviewed_at == value, (first, second, steps, step)
            assert all((signal["trigger_corrected_at"] is None) == (value >= 4) for signal in waiting)
            count = len(told)


def test_a_correction_that_takes_the_trigger_away_leaves_the_signal_with_a_note(world: World) -> None:
    pid = world.enrolled()
    outcome = held(world.staff_a, pid, "BL", "2025-02-10", outcomes=[suicidal()])["outcomes"][0]
    path = f"/v1/outcomes/{outcome['id']}"
    tag = world.staff_a.get(path).headers["ETag"]
    change = {"reason": "Read from the wrong line", "items": {"MADRS_10": 1}}
    assert world.staff_a.patch(path, change, tag).status_code == 200
    (signal,) = signals(world, pid)
    assert signal["state"] == "open"
    assert signal["trigger_corrected_at"] is not None
    assert signal["because"] == ["MADRS_10"]
    trail = world.monitor.get("/v1/audit-entries", action="safety-signal:source-corrected").json()["items"]
    assert signal["id"] in {entry["subject_id"] for entry in trail}


def test_vital_signs_raise_signals_too_and_their_correction_is_followed(world: World) -> None:
    session = a_session(world)
    path, pid = session.headers["Location"], session.json()["participant"]
    answer = world.staff_a.post(f"{path}/vitals", vitals("M60", "10:15", SYSBP=161, PULSE=111))
    assert [signal["rule"] for signal in answer.json()["holding"]] == ["BLOOD-PRESSURE", "PULSE"]
    reading = answer.json()["vitals"][1]
    assert [finding["code"] for finding in reading["findings"]] == ["vital_above_warning"] * 2
    change = {"reason": "Cuff was loose", "values": {"SYSBP": 150}}
    corrected = world.staff_a.patch(f"{path}/vitals/{reading['id']}", change, answer.headers["ETag"])
    assert corrected.status_code == 200
    notes = {signal["rule"]: signal["trigger_corrected_at"] is not None for signal in signals(world, pid)}
    assert notes == {"BLOOD-PRESSURE": True, "PULSE": False}


def test_a_signal_is_due_before_the_sites_own_day_is_over(world: World) -> None:
    with world.registry.database.write() as session:
        session.execute(update(Site).where(col(Site.id) == world.site_ids["A"]).values(timezone="Europe/Oslo"))
    late = datetime(2025, 3, 29, 22, 30, tzinfo=UTC)  # 23:30 in Oslo, on the day before the clocks change
    with patch("app.services.safety.safety_signals.now", return_value=late):
        signal = a_signal(world).json()
    assert signal["raised_at"] == "2025-03-29T22:30:00.000000Z"
    assert signal["due_at"] == "2025-03-29T23:00:00.000000Z"


def test_a_blood_pressure_is_due_within_the_hours_of_its_rule(world: World) -> None:
    session = a_session(world)
    answer = world.staff_a.post(path_of(session, "/vitals"), vitals(None, "10:15", SYSBP=170))
    (signal,) = answer.json()["holding"]
    raised, due = (datetime.fromisoformat(signal[name]) for name in ("raised_at", "due_at"))
    assert due - raised == timedelta(hours=1)


def test_overdue_means_open_after_its_time(world: World) -> None:
    late, fresh, reviewed = (a_signal(world).json() for _ in range(3))
    with world.registry.database.write() as session:
        for signal in (late, reviewed):
            past = datetime(2025, 3, 1, tzinfo=UTC)
            mine = col(SafetySignal.id) == UUID(signal["id"])
            session.execute(update(SafetySignal).where(mine).values(due_at=past))
    assert world.staff_a.post(f"{SIGNALS}/{reviewed['id']}/review", REVIEW).status_code == 201

    def listed(**asked: str) -> set[str]:
        return {item["id"] for item in world.monitor.get(SIGNALS, study=world.study, **asked).json()["items"]}

    assert listed(overdue="true") == {late["id"]}
    assert listed(overdue="false") == {fresh["id"], reviewed["id"]}
    assert listed(state="reviewed") == {reviewed["id"]}
    assert listed(rule="MADRS-10", site="A") == {late["id"], fresh["id"], reviewed["id"]}
    assert listed(rule="PHQ9-9") == listed(site="B") == set()
    assert world.staff_b.get(SIGNALS).json()["items"] == []


def test_a_review_is_given_once_by_the_site_and_is_remembered(world: World) -> None:
    signal = a_signal(world).json()
    path, key = f"{SIGNALS}/{signal['id']}/review", str(uuid4())
    done = world.staff_a.post(path, REVIEW, key)
    assert done.status_code == 201
    read = done.json()
    assert (read["state"], read["decision"], read["assessment"]) == ("reviewed", *REVIEW.values())
    assert read["reviewed_by"] is not None
    assert read["reviewed_at"] >= read["raised_at"]
    assert not read["overdue"]
    assert world.staff_a.post(path, REVIEW, key).headers["Idempotent-Replayed"] == "true"
    again = world.staff_a.post(path, {**REVIEW, "decision": "no_risk"})
    assert (again.status_code, again.json()["code"]) == (409, "signal_already_reviewed")
    trail = world.monitor.get("/v1/audit-entries", action="safety-signal:reviewed").json()["items"]
    assert signal["id"] in {entry["subject_id"] for entry in trail}


def test_a_harmless_outcome_raises_nothing(world: World) -> None:
    pid = world.enrolled()
    held(world.staff_a, pid, "BL", "2025-02-10", outcomes=[madrs(3), cssrs(1, 2, 3)])
    assert signals(world, pid) == []


def test_a_signal_is_reviewed_by_a_person_and_not_by_the_sites_app_itself(world: World) -> None:
    signal = a_signal(world).json()
    path = f"{SIGNALS}/{signal['id']}"
    app = Caller(world.registry.client, world.token(world.account((Role.site_staff, "A"), kind=AccountKind.client)))
    refused = app.post(f"{path}/review", REVIEW)
    assert (refused.status_code, refused.json()["code"]) == (403, "permission_missing")
    assert (app.get(path).json()["state"], app.get("/v1/me").status_code) == ("open", 200)
    assert world.staff_a.post(f"{path}/review", REVIEW).status_code == 201


def stricter(world: World, version: str = "stricter", at_least: int = 3) -> str:
    """A version of the study for which a lower answer to MADRS item 10, and a lower pulse, is a signal."""
    definition = {**protocol_definition(), "version": version}
    rules = {rule["code"]: rule["when"][0] for rule in definition["safety_rules"]}
    rules["MADRS-10"]["at_least"], rules["PULSE"]["above"] = at_least, 90
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", definition).status_code == 201
    return version


def move(world: World, pid: str, version: str) -> None:
    body = {"version": version, "reason": "urgent safety measure"}
    answer = world.staff_a.post(f"/v1/participants/{pid}/protocol-version", body)
    assert answer.status_code == 200, answer.text


def test_a_stricter_version_raises_once_what_it_finds_in_the_last_answers(world: World) -> None:
    pid = world.enrolled(protocol_version="1")
    held(world.staff_a, pid, "BL", "2025-02-10", outcomes=[suicidal(3)])
    last = held(world.staff_a, pid, "UNS", "2025-02-20", outcomes=[suicidal(3)])["outcomes"][0]
    assert signals(world, pid) == []
    move(world, pid, stricter(world))
    (signal,) = signals(world, pid)
    assert (signal["rule"], signal["protocol_version"], signal["because"]) == ("MADRS-10", "stricter", ["MADRS_10"])
    assert signal["source"] == {"kind": "outcome", "id": last["id"], "version": 1}
    assert (signal["state"], signal["holds_dosing"]) == ("open", True)
    for version in ("1", "stricter"):
        move(world, pid, version)
    assert signals(world, pid) == [signal]


@pytest.mark.parametrize("reviewed", [False, True], ids=["open", "reviewed"])
def test_what_a_clinician_was_shown_by_the_former_version_is_not_shown_again(world: World, reviewed: bool) -> None:
    pid = world.enrolled(protocol_version="1")
    held(world.staff_a, pid, "BL", "2025-02-10", outcomes=[suicidal(4)])
    (signal,) = signals(world, pid)
    if reviewed:
        assert world.staff_a.post(f"{SIGNALS}/{signal['id']}/review", REVIEW).status_code == 201
    move(world, pid, stricter(world))
    (still,) = signals(world, pid)
    assert (still["id"], still["protocol_version"]) == (signal["id"], "1")


def test_an_answer_that_a_later_one_has_taken_the_place_of_is_history(world: World) -> None:
    """A form without an answer takes no place."""
    pid, other = world.enrolled(protocol_version="1"), world.enrolled(protocol_version="1")
    blank = {**suicidal(0), "items": dict.fromkeys(suicidal(0)["items"])}
    for who, later in ((pid, suicidal(0)), (other, blank)):
        held(world.staff_a, who, "UNS", "2025-02-20", outcomes=[later])
        held(world.staff_a, who, "BL", "2025-02-10", outcomes=[suicidal(3)])  # told after it
    version = stricter(world)
    for who, rules in ((pid, []), (other, ["MADRS-10"])):
        move(world, who, version)
        assert [one["rule"] for one in signals(world, who)] == rules


def test_a_stricter_version_looks_at_the_vital_signs_of_a_session_that_is_open(world: World) -> None:
    told = []
    for session in (a_session(world), a_session_to_close(world)):
        pid, path = session.json()["participant"], session.headers.get("Location") or path_of(session)
        assert world.staff_a.post(f"{path}/vitals", vitals(None, "10:15", PULSE=100)).status_code == 201
        if session.json()["doses"]:
            assert world.staff_a.post(f"{path}/close", closing()).status_code == 201
        told.append(pid)
    version = stricter(world)
    for pid, rules in zip(told, (["PULSE"], []), strict=True):
        move(world, pid, version)
        assert [one["rule"] for one in signals(world, pid)] == rules


def test_no_participant_who_left_the_study_is_judged_again(world: World) -> None:
    pid = world.enrolled(protocol_version="1")
    held(world.staff_a, pid, "BL", "2025-02-10", outcomes=[suicidal(3)])
    left = {"status": "withdrawn", "effective_on": "2025-03-01", "reason": "moved away"}
    assert world.staff_a.post(f"/v1/participants/{pid}/status", left).status_code == 201
    move(world, pid, stricter(world))
    assert signals(world, pid) == []


def test_scoring_again_waits_for_a_dosing_session_that_is_being_started(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the rules of today it may raise a signal that holds dosing."""
    visit = prepared(world.staff_a, world.enrolled())
    older = {"participant": visit["participant"], "visit": visit["id"], "instrument_version": "1", **cssrs()}
    path = f"{made(world, 'A', '/v1/outcomes', older).headers['Location']}/rescoring"
    answers: list[int] = []
    waited: list[bool] = []
    rescoring = Thread(target=lambda: answers.append(world.staff_a.post(path, {"reason": "new rules"}).status_code))
    look = dosing_sessions._facts

    def meanwhile(*given: Any) -> Any:
        facts = look(*given)
        rescoring.start()
        rescoring.join(1)
        waited.append(rescoring.is_alive())
        return facts

    monkeypatch.setattr(dosing_sessions, "_facts", meanwhile)
    assert world.staff_a.post(SESSIONS, start(visit["id"])).status_code == 201
    rescoring.join()
    assert (waited, answers) == ([True], [200])
