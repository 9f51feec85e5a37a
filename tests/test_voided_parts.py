"""One reading of vital signs, or one earlier treatment, that was entered in error: voided by itself."""

from typing import Any

from httpx2 import Response

from tests.course_cases import TREATMENT, a_treatment
from tests.dosing_cases import (
    REVIEW,
    SESSIONS,
    SIGNALS,
    a_session,
    a_session_to_close,
    closing,
    dose,
    path_of,
    prepared,
    start,
    vitals,
)
from tests.test_dosing_corrections import asked, corrected, remarks
from tests.test_rule_queries import refresh_site
from tests.test_safety_signals import move, stricter
from tests.test_signatures import signed_record, state
from tests.test_sync import act, sync
from tests.test_treatments import listed
from tests.test_voided_sessions import posted, signals
from tests.voided_cases import WHY, void, voided
from tests.world import Caller, World


def take_out(world: World, session: str, place: int = -1, caller: Caller | None = None) -> Response:
    """The answer to the voiding of a reading, of those of the session in the order in which they were taken."""
    seen = world.staff_a.get(session)
    reading = seen.json()["vitals"][place]["id"]
    return void(caller or world.staff_a, f"{session}/vitals/{reading}", seen.headers["ETag"])


def taken_out(world: World, session: str, place: int = -1) -> dict[str, Any]:
    answer = take_out(world, session, place)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def asked_of(world: World, session: str) -> list[str]:
    """The rules of the open data queries on a session."""
    of_it = {"subject_type": "dosing_session", "subject": session.rpartition("/")[2], "state": "open"}
    return [query["rule"] for query in world.monitor.get("/v1/data-queries", **of_it).json()["items"]]


def test_a_reading_counts_no_more_and_is_still_shown_with_when_and_why(world: World) -> None:
    record = a_session_to_close(world)
    path = path_of(record)
    before = posted(world, f"{path}/vitals", vitals("M60", "10:15", PULSE=88)).json()
    gone = next(one for one in before["vitals"] if one["timepoint"] == "M60")
    told = taken_out(world, path, before["vitals"].index(gone))
    changed = ("voided_at", "voiding_reason", "version", "updated_at")
    [shown] = told["voided_vitals"]
    assert {**shown, **{name: gone[name] for name in changed}} == gone
    assert (shown["voiding_reason"], shown["version"]) == (WHY["reason"], 2)
    assert told["vitals"] == [one for one in before["vitals"] if one != gone]
    assert {"M60"} == {one["timepoint"] for one in told["open_vitals"]} - {
        one["timepoint"] for one in before["open_vitals"]
    }, "it is still to be measured"
    assert told["version"] == before["version"] + 1
    assert all(caller.get(path).json() == told for caller in (world.staff_a, world.monitor))
    again = posted(world, f"{path}/vitals", vitals("M60", "10:15", PULSE=77)).json()
    assert len(again["vitals"]) == len(before["vitals"])


def test_what_was_voided_is_not_changed_again_and_nobody_voids_what_they_have_not_seen(world: World) -> None:
    record = a_session(world)
    path, reading = path_of(record), path_of(record, "/vitals/{reading_id}")
    assert void(world.staff_b, reading, record.headers["ETag"]).status_code == 404
    assert world.staff_a.post(f"{reading}/voiding", WHY).json()["code"] == "if_match_missing"
    posted(world, f"{path}/doses", dose())
    stale = void(world.staff_a, reading, record.headers["ETag"])
    assert (stale.status_code, stale.json()["code"]) == (412, "version_stale")
    taken_out(world, path, 0)
    now = world.staff_a.get(path)
    seen = now.headers["ETag"]
    amend = world.staff_a.patch(reading, {"reason": "typed wrongly", "values": {"PULSE": 72}}, seen)
    for answer in (void(world.staff_a, reading, seen), amend):
        assert (answer.status_code, answer.json()["code"]) == (409, "record_voided")
    assert world.staff_a.get(path).json() == now.json()


def test_what_rules_asked_about_a_reading_is_closed(world: World) -> None:
    path = path_of(a_session(world))
    posted(world, f"{path}/vitals", vitals(None, "10:15", TEMP=38.5))
    assert asked_of(world, path) == ["vital_above_warning"]
    taken_out(world, path)
    assert asked_of(world, path) == []
    refresh_site(world)
    assert asked_of(world, path) == []


def test_a_signal_of_a_reading_waits_for_its_review_and_holds_dosing_until_then(world: World) -> None:
    record = a_session(world)
    path, pid = path_of(record), record.json()["participant"]
    posted(world, f"{path}/vitals", vitals("M60", "10:15", SYSBP=161))
    told = taken_out(world, path)
    [signal] = signals(world, pid)
    assert (signal["state"], signal["trigger_corrected_at"] is not None) == ("open", True)
    assert [one["id"] for one in told["holding"]] == [signal["id"]]
    posted(world, f"{SIGNALS}/{signal['id']}/review", REVIEW)
    assert world.staff_a.get(path).json()["holding"] == []


def test_stricter_rules_do_not_look_at_a_voided_reading(world: World) -> None:
    record = a_session(world)
    posted(world, path_of(record, "/vitals"), vitals(None, "10:15", PULSE=100))
    taken_out(world, path_of(record))
    pid = record.json()["participant"]
    move(world, pid, stricter(world))
    assert signals(world, pid) == []


def test_a_supplemental_dose_is_asked_about_once_the_reading_before_it_is_voided(world: World) -> None:
    path = path_of(a_session(world))
    posted(world, f"{path}/doses", dose())
    posted(world, f"{path}/vitals", vitals("M60", "10:15"))
    posted(world, f"{path}/doses", dose("supplemental", 40, "11:05"))
    assert remarks(world, path) == []
    taken_out(world, path)
    assert [one.split()[0] for one in remarks(world, path)] == ["dose_off_plan"]
    assert asked(world, path) == ["dose_off_plan"]


def test_a_reading_of_a_closed_session_is_voided_and_asked_about_where_its_checklist_lacks_it(world: World) -> None:
    path = path_of(a_session_to_close(world))
    posted(world, f"{path}/close", closing())
    told = taken_out(world, path)
    assert (told["state"], told["lacking"] != []) == ("closed", True)
    refresh_site(world)
    assert "vitals_missing" in asked_of(world, path)


def test_what_was_voided_of_a_checklist_keeps_nobody_from_correcting_the_rest(world: World) -> None:
    path = path_of(a_session_to_close(world))
    posted(world, f"{path}/close", closing())
    told = taken_out(world, path)
    of_a_reading = f"/vitals/{told['vitals'][0]['id']}"
    for part, change in (("", {"staff": ["T01", "T03"]}), (of_a_reading, {"values": {"PULSE": 72}})):
        answer = corrected(world, path, part, **change)
        assert (answer.status_code, answer.json()["lacking"]) == (200, told["lacking"]), answer.text
    refused = corrected(world, path, discharge=[])
    assert (refused.status_code, refused.json()["code"]) == (409, "discharge_incomplete")
    known = {one["rule"] for one in told["lacking"]}
    assert known.isdisjoint(error["code"] for error in refused.json()["errors"])


def test_closed_data_are_opened_first(world: World) -> None:
    session, treatment = a_session(world), a_treatment(world)
    people = session.json()["participant"], treatment.headers["Location"].split("/")[3]
    for pid in people:
        lock = {"kind": "freeze", "study": world.study, "site": "A", "participant": pid, "reason": "before the cut"}
        assert world.monitor.post("/v1/locks", lock).status_code == 201
    path = treatment.headers["Location"]
    for answer in (take_out(world, path_of(session)), void(world.staff_a, path, treatment.headers["ETag"])):
        assert (answer.status_code, answer.json()["code"]) == (423, "data_locked")


def test_a_treatment_of_somebody_else_makes_nobody_resistant(world: World) -> None:
    first = a_treatment(world)
    path = first.headers["Location"].rpartition("/")[0]
    second = world.staff_a.post(path, {**TREATMENT, "atc": "N06AX16"})
    assert listed(world, first)["treatment_resistant"] is True
    gone = voided(world.staff_a, second.headers["Location"]).json()
    told = listed(world, first)
    assert (told["items"], told["voided"]) == ([first.json()], [gone])
    assert (told["failed_adequate"], told["treatment_resistant"]) == (1, False)
    assert (gone["voiding_reason"], gone["version"]) == (WHY["reason"], 2)
    assert world.monitor.get(second.headers["Location"]).json() == gone


def test_a_voided_treatment_stays_as_it_is(world: World) -> None:
    record = a_treatment(world)
    path, seen = record.headers["Location"], record.headers["ETag"]
    assert void(world.staff_b, path, seen).status_code == 404
    assert void(world.staff_a, path, '"another"').json()["code"] == "version_stale"
    voided(world.staff_a, path)
    seen = world.staff_a.get(path).headers["ETag"]
    amended = world.staff_a.patch(path, {"reason": "misread", "weeks": 6}, seen)
    for answer in (void(world.staff_a, path, seen), amended):
        assert (answer.status_code, answer.json()["code"]) == (409, "record_voided")
    (row,) = {one["action"] for one in _trail(world, record) if one["action"] != "treatment:recorded"}
    assert row == "treatment:voided"


def _trail(world: World, record: Response) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = world.monitor.get(
        "/v1/audit-entries", study=world.study, subject_type="treatment_trial", subject_id=record.json()["id"]
    ).json()["items"]
    return items


def test_neither_is_part_of_what_is_signed(world: World) -> None:
    record = a_session(world)
    pid, path = record.json()["participant"], path_of(record)
    before = signed_record(world, pid)
    posted(world, f"{path}/vitals", vitals("M60", "10:15"))
    treatment = posted(world, f"/v1/participants/{pid}/treatments", TREATMENT)
    assert state(world, before) == "broken"
    taken_out(world, path)
    voided(world.staff_a, treatment.headers["Location"])
    assert state(world, before) == "valid"


def test_acts_of_voiding_are_carried_by_sync(world: World) -> None:
    session, treatment = a_session(world), a_treatment(world)
    records = ((path_of(session, "/vitals/{reading_id}"), session), (treatment.headers["Location"], treatment))
    acts = [{**act(f"{path}/voiding", WHY), "if_match": one.headers["ETag"]} for path, one in records]
    assert {one["result"] for one in sync(world.staff_a, *acts).values()} == {"created"}


def test_the_first_reading_of_a_session_is_voided_too(world: World) -> None:
    visit = prepared(world.staff_a, world.enrolled())
    session = world.staff_a.post(SESSIONS, start(visit["id"]))
    assert taken_out(world, path_of(session))["vitals"] == []
