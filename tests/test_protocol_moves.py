"""Participants who are moved to another protocol version follow its safety rules from then on, and not before."""

from datetime import datetime
from typing import Any
from unittest.mock import patch

import pytest

from tests.courses import left
from tests.dosing_cases import DAY, REVIEW, SESSIONS, SIGNALS, at, cssrs, dose, held, start, suicidal, vitals
from tests.test_safety_signals import move, signals, stricter
from tests.test_sync import act, sync
from tests.world import World, protocol_definition


def version_of(world: World, name: str, **changes: Any) -> str:
    """A version of the study whose rule on MADRS item 10 is another; `at_least` is of its condition."""
    definition = {**protocol_definition(), "version": name}
    (rule,) = (one for one in definition["safety_rules"] if one["code"] == "MADRS-10")
    rule["when"][0]["at_least"] = changes.pop("at_least", 4)
    rule.update(changes)
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", definition).status_code == 201
    return name


def answered(world: World, pid: str, value: int) -> str:
    """The path of the answer to MADRS item 10."""
    outcome = held(world.staff_a, pid, "BL", "2025-02-10", outcomes=[suicidal(value)])["outcomes"][0]
    return f"/v1/outcomes/{outcome['id']}"


def corrected(world: World, path: str, value: int) -> None:
    change = {"reason": "Read from the wrong line", "items": {"MADRS_10": value}}
    assert world.staff_a.patch(path, change, world.staff_a.get(path).headers["ETag"]).status_code == 200


def reviewed(world: World, pid: str) -> None:
    (waiting,) = signals(world, pid, state="open")
    assert world.staff_a.post(f"{SIGNALS}/{waiting['id']}/review", REVIEW).status_code == 201


@pytest.mark.parametrize("way", ["move", "correction"])
def test_an_open_signal_holds_dosing_once_the_rule_in_force_does(world: World, way: str) -> None:
    soft = version_of(world, "soft", holds_dosing=False, due_hours=1)
    hard = version_of(world, "hard", version="2", due_hours=2, at_least=3 if way == "move" else 5)
    pid = world.enrolled(protocol_version=soft)
    path = answered(world, pid, 4)
    (before,) = signals(world, pid)
    move(world, pid, hard)
    if way == "correction":
        assert signals(world, pid) == [before]
        corrected(world, path, 5)
    (signal,) = signals(world, pid)
    assert (signal["id"], signal["holds_dosing"], signal["state"]) == (before["id"], True, "open")
    assert (signal["protocol_version"], signal["rule_version"]) == ("hard", "2")
    assert signal["raised_at"] > before["raised_at"]
    assert signal["due_at"] == before["due_at"], "due no later than it was"
    assert world.staff_a.post(f"{SIGNALS}/{signal['id']}/review", REVIEW).status_code == 201
    move(world, pid, soft)
    move(world, pid, hard)
    assert [one["state"] for one in signals(world, pid)] == ["reviewed"]


def test_answers_that_were_corrected_after_a_review_are_looked_at_again(world: World) -> None:
    pid = world.enrolled(protocol_version="1")
    path = answered(world, pid, 4)
    corrected(world, path, 0)
    reviewed(world, pid)
    corrected(world, path, 3)
    for version in (stricter(world), "1", "stricter"):
        move(world, pid, version)
        assert [(one["state"], one["source"]["version"]) for one in signals(world, pid)] == [
            ("open", 3),
            ("reviewed", 1),
        ]
    reviewed(world, pid)
    for version in ("1", "stricter"):
        move(world, pid, version)
        assert signals(world, pid, state="open") == []


def test_the_trigger_of_an_open_signal_is_there_again_if_the_rule_in_force_is_true_of_it(world: World) -> None:
    pid = world.enrolled(protocol_version="1")
    path = answered(world, pid, 4)
    corrected(world, path, 3)
    (signal,) = signals(world, pid)
    assert signal["trigger_corrected_at"] is not None
    move(world, pid, stricter(world))
    (signal,) = signals(world, pid)
    assert (signal["trigger_corrected_at"], signal["protocol_version"]) == (None, "1")
    change = {"reason": "Read from the wrong line", "items": {"MADRS_01": 1}}
    assert world.staff_a.patch(path, change, world.staff_a.get(path).headers["ETag"]).status_code == 200
    assert signals(world, pid)[0]["trigger_corrected_at"] is None
    corrected(world, path, 2)
    assert signals(world, pid)[0]["trigger_corrected_at"] is not None


def visit_of(world: World, value: int) -> tuple[str, str]:
    """Somebody of version 1 with this answer to MADRS item 10, and their first dosing visit, recorded by it."""
    pid = world.enrolled(protocol_version="1")
    for number, code in enumerate(("BL", "PREP1", "PREP2")):
        held(world.staff_a, pid, code, f"2025-02-1{number}")
    held(world.staff_a, pid, "PREP3", "2025-02-13", outcomes=[suicidal(value)])
    return pid, held(world.staff_a, pid, "DOS1", DAY)["id"]


def moved_at(world: World, pid: str, hour: str) -> None:
    with patch("app.services.safety.safety_signals.now", return_value=datetime.fromisoformat(at(hour))):
        move(world, pid, "stricter")


@pytest.mark.parametrize(
    ("value", "hour", "held_by"),
    [(3, "08:30", "session"), (3, "09:05", "dose"), (3, "10:00", None), (4, "10:00", "session")],
)
def test_a_session_recorded_after_a_move_is_held_by_the_signals_known_by_then(
    world: World, value: int, hour: str, held_by: str | None
) -> None:
    """It is held by what the version of its visit finds, and by what another one had found by then."""
    stricter(world)
    pid, visit = visit_of(world, value)
    moved_at(world, pid, hour)
    assert len(signals(world, pid)) == 1
    session = world.staff_a.post(SESSIONS, start(visit))
    assert session.status_code == (409 if held_by == "session" else 201), session.text
    if held_by != "session":
        given = world.staff_a.post(f"{session.headers['Location']}/doses", dose())
        assert given.status_code == (409 if held_by == "dose" else 201), given.text


def test_an_answer_recorded_after_the_move_counts_by_the_version_of_the_visit(world: World) -> None:
    """In whatever order a move, an answer and a session are told."""
    for value, status in ((3, 201), (4, 409)):
        pid, visit = visit_of(world, 0)
        move(world, pid, stricter(world, version=f"stricter-{value}"))
        held(world.staff_a, pid, "UNS", "2025-02-20", outcomes=[suicidal(value)])
        assert len(signals(world, pid, state="open")) == 1
        assert world.staff_a.post(SESSIONS, start(visit)).status_code == status


def test_vital_signs_before_a_start_are_judged_by_the_version_of_the_visit(world: World) -> None:
    stricter(world)
    pid, visit = visit_of(world, 0)
    move(world, pid, "stricter")
    before = {"taken_at": at("08:45"), "values": vitals(None, "08:45", PULSE=100)["values"]}
    session = world.staff_a.post(SESSIONS, start(visit, vitals={"timepoint": "PRE", **before}))
    assert session.status_code == 201, session.text
    assert [one["rule"] for one in session.json()["holding"]] == ["PULSE"]
    assert world.staff_a.post(f"{session.headers['Location']}/doses", dose()).status_code == 201


def test_a_day_sent_by_sync_in_the_order_done_keeps_its_dose(world: World) -> None:
    version = stricter(world)
    pid, visit = visit_of(world, 3)
    session = act(SESSIONS, start(visit))
    given = act(f"{SESSIONS}/@{session['id']}/doses", dose())
    moved = act(f"/v1/participants/{pid}/protocol-version", {"version": version, "reason": "urgent safety measure"})
    told = sync(world.staff_a, session, given, moved)
    assert [told[one["id"]]["result"] for one in (session, given, moved)] == ["created"] * 3


@pytest.mark.parametrize(
    ("begun", "rules"),
    [
        ({"MADRS_01": 1}, ["MADRS-10"]),
        ({"MADRS_01": 1, "MADRS_10": 0}, []),
        ({"MADRS_01": 1, "MADRS_10": 4}, ["MADRS-10"]),
    ],
    ids=["left out", "answered", "a signal itself"],
)
def test_a_form_that_was_only_begun_is_the_last_of_what_it_answers(
    world: World, begun: dict[str, int], rules: list[str]
) -> None:
    pid = world.enrolled(protocol_version="1")
    answered(world, pid, 3)
    form = {**suicidal(), "items": {**dict.fromkeys(suicidal()["items"]), **begun}}
    held(world.staff_a, pid, "UNS", "2025-02-20", outcomes=[form])
    move(world, pid, stricter(world))
    assert [one["rule"] for one in signals(world, pid)] == rules


def test_a_question_that_a_form_skips_after_a_no_is_answered_by_it(world: World) -> None:
    definition = {**protocol_definition(), "version": "without"}
    definition["safety_rules"] = [one for one in definition["safety_rules"] if one["code"] != "CSSRS-IDEATION"]
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", definition).status_code == 201
    pid, other = world.enrolled(protocol_version="without"), world.enrolled(protocol_version="without")
    later = {f"CSSRS_SLV_{number:02d}": 0 for number in (1, 2, 6, 7, 8, 9, 10)}
    for who, items in ((pid, later), (other, {"CSSRS_SLV_01": 0})):
        held(world.staff_a, who, "BL", "2025-02-10", outcomes=[cssrs(2, 4)])
        held(world.staff_a, who, "UNS", "2025-02-20", outcomes=[{**cssrs(), "items": items}])
        move(world, who, "1")
    assert signals(world, pid) == []
    assert [one["rule"] for one in signals(world, other)] == ["CSSRS-IDEATION"]


@pytest.mark.parametrize("more", [{}, {"correction": True}], ids=["returned", "never gone"])
def test_a_participant_moved_while_out_of_the_study_is_judged_on_coming_back(
    world: World, more: dict[str, Any]
) -> None:
    pid = world.enrolled(protocol_version="1")
    answered(world, pid, 3)
    left(world, pid, "lost_to_follow_up", "2025-03-01")
    move(world, pid, stricter(world))
    assert signals(world, pid) == []
    left(world, pid, "active", "2025-03-01", **more)
    (signal,) = signals(world, pid)
    assert (signal["rule"], signal["protocol_version"]) == ("MADRS-10", "stricter")
    left(world, pid, "completed", "2025-03-02")
    left(world, pid, "active", "2025-03-02", correction=True)
    assert signals(world, pid) == [signal]
