"""A dosing day over HTTP as the site lives it: each refusal names its rule, and what was given is kept."""

from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response

from tests.courses import left
from tests.dosing_cases import (
    CALM,
    DAY,
    REVIEW,
    SESSIONS,
    SIGNALS,
    YES,
    a_session,
    a_session_to_close,
    after_dose,
    at,
    closing,
    dose,
    held,
    path_of,
    prepared,
    start,
    suicidal,
    vitals,
)
from tests.world import World, protocol_definition


def refusal(answer: Response) -> tuple[int, str, list[str]]:
    problem = answer.json()
    return answer.status_code, problem["code"], [error["code"] for error in problem["errors"]]


def test_a_whole_dosing_day(world: World) -> None:
    staff, pid = world.staff_a, world.enrolled()
    visit = prepared(staff, pid)
    session = staff.post(SESSIONS, start(visit["id"], medications=[{"atc": "N05BA06", "kind": "concomitant"}]))
    assert session.status_code == 201, session.text
    path = session.headers["Location"]
    assert session.json()["state"] == "open"
    assert session.json()["open_vitals"] == []

    read = staff.post(f"{path}/doses", dose()).json()
    assert read["doses"][0]["findings"] == []
    due = {(one["timepoint"], one["due_at"]) for one in read["open_vitals"]}
    assert ("M60", "2025-03-03T10:15:00.000000Z") in due
    assert {point for point, _ in due} == {"M60", "M180", "M240", "M300"}

    staff.post(f"{path}/vitals", vitals("M60", "10:14"))
    staff.post(f"{path}/vitals", vitals("PRESUPP", "11:00"))
    second = staff.post(f"{path}/doses", dose("supplemental", 40, "11:05"))
    assert second.status_code == 201, second.text
    assert second.json()["doses"][1]["findings"] == []

    refused = staff.post(f"{path}/close", {"ended_at": at("17:00")})
    assert refusal(refused) == (
        *(409, "discharge_incomplete"),
        [item["rule"] for item in second.json()["lacking"]],
    )
    assert len(refused.json()["errors"]) == 6
    for point, hour in (("M180", "12:15"), ("M240", "13:20"), ("END", "16:55")):
        staff.post(f"{path}/vitals", vitals(point, hour))
    staff.post("/v1/outcomes", {"participant": pid, "visit": visit["id"], **after_dose()})
    given = {"atc": "C07AB02", "kind": "as_needed", "amount_mg": 25, "given_at": at("13:00")}
    closed = staff.post(f"{path}/close", closing(medications=[given]))
    assert closed.status_code == 201, closed.text
    read = closed.json()
    assert (read["state"], read["lacking"], len(read["medications"])) == ("closed", [], 2)
    assert {one["timepoint"] for one in read["open_vitals"]} == {"M300"}, "a missing timed vital stays an open item"
    assert world.monitor.get(path).json() == read
    assert [one["id"] for one in world.monitor.get(SESSIONS, participant=pid).json()["items"]] == [read["id"]]
    listed = {"study": world.study, "state": "closed", "visit_code": "DOS1", "site": "A"}
    assert [one["id"] for one in world.monitor.get(SESSIONS, **listed).json()["items"]] == [read["id"]]

    for below, body in (("doses", dose()), ("vitals", vitals(None, "17:30")), ("close", closing())):
        assert refusal(staff.post(f"{path}/{below}", body)) == (409, "dosing_session_closed", []), below


NOT_STARTED: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "one member of staff": ({}, {"staff": ["T01"]}, ["DOSE-STAFF"]),
    "nothing confirmed": ({}, {"confirmations": {}}, ["DOSE-PREGNANCY", "DOSE-TAPER", "DOSE-DRUG-SCREEN"]),
    "a positive drug screen": ({}, {"confirmations": {**YES, "DOSE-DRUG-SCREEN": "no"}}, ["DOSE-DRUG-SCREEN"]),
    "a taper that cannot be inapplicable": (
        {},
        {"confirmations": {**YES, "DOSE-TAPER": "not_applicable"}},
        ["DOSE-TAPER"],
    ),
    "high blood pressure": ({}, {"vitals": vitals("PRE", "08:45", SYSBP=161)}, ["DOSE-SIGNAL", "DOSE-SYSBP"]),
    "a fast pulse": ({}, {"vitals": vitals("PRE", "08:45", PULSE=111)}, ["DOSE-SIGNAL"]),
    "no vital signs": ({}, {"vitals": None}, ["DOSE-SYSBP", "DOSE-DIABP"]),
    "a pressure not taken": ({}, {"vitals": {"taken_at": at("08:45"), "values": {"SYSBP": 120}}}, ["DOSE-DIABP"]),
}


@pytest.mark.by_turns  # the protocol's rules decide, and know no database
@pytest.mark.parametrize("why", NOT_STARTED)
def test_a_session_does_not_start_against_a_rule_of_the_protocol(world: World, why: str) -> None:
    person, change, rules = NOT_STARTED[why]
    visit = prepared(world.staff_a, world.enrolled(**person))
    answer = world.staff_a.post(SESSIONS, start(visit["id"], **change))
    assert refusal(answer) == (409, "dosing_not_allowed", rules)
    assert world.staff_a.get(SESSIONS, participant=visit["participant"]).json()["items"] == []


def test_a_session_does_not_start_before_the_visits_that_prepare_it(world: World) -> None:
    visit = held(world.staff_a, world.enrolled(), "DOS1", DAY)
    answer = world.staff_a.post(SESSIONS, start(visit["id"]))
    assert refusal(answer) == (409, "dosing_not_allowed", ["DOSE-PREPARED"])


@pytest.mark.parametrize("status", ["screened", "withdrawn", "withdrawn, then died"])
def test_a_session_does_not_start_without_confirmed_eligibility(world: World, status: str) -> None:
    pid = world.enrolled(**({"enrolled_on": None} if status == "screened" else {}))
    visit = prepared(world.staff_a, pid)
    rules = ["DOSE-ELIGIBLE"]
    if status != "screened":
        left(world, pid, "withdrawn", DAY)
        if status.endswith("died"):
            left(world, pid, "died", "2025-09-30")
        rules = ["DOSE-CONSENT", "DOSE-ELIGIBLE"]
    assert refusal(world.staff_a.post(SESSIONS, start(visit["id"]))) == (409, "dosing_not_allowed", rules)


def test_a_second_dose_keeps_its_distance_from_the_first(world: World) -> None:
    first = a_session_to_close(world)
    pid = first.json()["participant"]
    early, late = "2025-03-23", "2025-03-24"  # 20 and 21 days after DAY
    visit = held(world.staff_a, pid, "DOS2", early, ended_on=late, deviation_reason="Holidays of the team")
    open_still = world.staff_a.post(SESSIONS, start(visit["id"], late))
    assert refusal(open_still) == (409, "dosing_session_open", [])
    assert world.staff_a.post(path_of(first, "/close"), closing()).status_code == 201
    answer = world.staff_a.post(SESSIONS, start(visit["id"], early))
    assert refusal(answer) == (409, "dosing_not_allowed", ["DOSE-INTERVAL"])
    assert world.staff_a.post(SESSIONS, start(visit["id"], late)).status_code == 201
    assert refusal(world.staff_a.post(SESSIONS, start(visit["id"], late))) == (409, "dosing_session_exists", [])


def test_the_distance_counts_from_a_dosing_visit_of_which_no_session_was_recorded_too(world: World) -> None:
    pid, early = world.enrolled(), "2025-03-23"
    first = prepared(world.staff_a, pid)
    second = held(world.staff_a, pid, "DOS2", early, deviation_reason="Holidays of the team")
    answer = world.staff_a.post(SESSIONS, start(second["id"], early))
    assert refusal(answer) == (409, "dosing_not_allowed", ["DOSE-INTERVAL"])
    assert world.staff_a.post(SESSIONS, start(first["id"])).status_code == 201, "its own session may be told late"


def test_an_open_signal_holds_the_session_until_its_review(world: World) -> None:
    pid = world.enrolled()
    visit = prepared(world.staff_a, pid)
    held(world.staff_a, pid, "UNS", DAY, outcomes=[suicidal()])
    refused = world.staff_a.post(SESSIONS, start(visit["id"]))
    assert refusal(refused) == (409, "dosing_not_allowed", ["DOSE-SIGNAL"])
    (signal,) = world.staff_a.get(SIGNALS, participant=pid).json()["items"]
    assert world.staff_a.post(f"{SIGNALS}/{signal['id']}/review", REVIEW).status_code == 201
    assert world.staff_a.post(SESSIONS, start(visit["id"])).status_code == 201


def test_a_signal_of_the_day_holds_the_doses_until_its_review(world: World) -> None:
    session = a_session(world)
    path, staff = session.headers["Location"], world.staff_a
    (signal,) = staff.post(f"{path}/vitals", vitals(None, "09:10", SYSBP=165)).json()["holding"]
    assert refusal(staff.post(f"{path}/doses", dose())) == (409, "dose_refused", ["DOSE-SIGNAL"])
    staff.post(f"{SIGNALS}/{signal['id']}/review", REVIEW)
    assert staff.post(f"{path}/doses", dose()).status_code == 201
    (signal,) = staff.post(f"{path}/vitals", vitals("PRESUPP", "10:50", DIABP=111)).json()["holding"]
    second = dose("supplemental", 40, "11:00")
    assert refusal(staff.post(f"{path}/doses", second)) == (409, "dose_refused", ["SUPPLEMENTAL-1"])
    not_given = {"kind": "supplemental", "planned_mg": 40, "deviation_reason": "Blood pressure"}
    assert staff.post(f"{path}/doses", not_given).status_code == 201


@pytest.mark.parametrize("kind", ["initial", "supplemental"])
def test_no_dose_is_refused_for_what_was_measured_after_it_was_given(world: World, kind: str) -> None:
    path, staff = a_session(world).headers["Location"], world.staff_a
    given = dose() if kind == "initial" else dose("supplemental", 40, "11:00")
    if kind == "supplemental":
        assert staff.post(f"{path}/doses", dose()).status_code == 201
        assert staff.post(f"{path}/vitals", vitals("PRESUPP", "10:50")).status_code == 201
    late = staff.post(f"{path}/vitals", vitals(None, "11:01", SYSBP=215))
    assert [signal["rule"] for signal in late.json()["holding"]] == ["BLOOD-PRESSURE"]
    assert refusal(staff.post(f"{path}/doses", {**given, "given_at": at("11:01")}))[1] == "dose_refused"
    kept = staff.post(f"{path}/doses", given)
    assert (kept.status_code, len(kept.json()["holding"])) == (201, 1), kept.text


def test_a_session_is_held_by_the_signals_of_its_day_and_of_the_days_before_only(world: World) -> None:
    pid, staff = world.enrolled(), world.staff_a
    visit = prepared(staff, pid)
    held(staff, pid, "UNS", "2025-03-04", outcomes=[suicidal()])
    assert staff.post(SESSIONS, start(visit["id"])).status_code == 201
    held(staff, pid, "UNS", "2025-03-04", occurrence=2, outcomes=[{**suicidal(), "collected_on": DAY}])
    path = staff.get(SESSIONS, participant=pid).json()["items"][0]["id"]
    assert refusal(staff.post(f"{SESSIONS}/{path}/doses", dose()))[1] == "dose_refused"


OFF_PLAN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "too much": (dose("supplemental", 41, "11:05"), ["SUPPLEMENTAL-1"]),
    "too early": (dose("supplemental", 40, "10:14"), ["SUPPLEMENTAL-1", "SUPPLEMENTAL-1"]),
    "too late": (dose("supplemental", 40, "12:16"), ["SUPPLEMENTAL-1"]),
    "not what was planned": (dose("supplemental", 40, "11:05", planned_mg=30), ["PLANNED-DOSE"]),
}


@pytest.mark.by_turns
@pytest.mark.parametrize("why", OFF_PLAN)
def test_a_dose_off_the_plan_is_kept_with_its_reason_and_flagged(world: World, why: str) -> None:
    given, rules = OFF_PLAN[why]
    path, staff = a_session(world).headers["Location"], world.staff_a
    assert staff.post(f"{path}/doses", dose()).status_code == 201
    staff.post(f"{path}/vitals", vitals("PRESUPP", "10:20"))
    assert refusal(staff.post(f"{path}/doses", given)) == (409, "dose_off_plan", rules)
    kept = staff.post(f"{path}/doses", {**given, "deviation_reason": "Decided by the lead"})
    assert kept.status_code == 201, kept.text
    assert [one["message"].partition(":")[0] for one in kept.json()["doses"][1]["findings"]] == rules


def test_an_initial_dose_outside_the_range_is_flagged_and_comes_first_and_once(world: World) -> None:
    path, staff = a_session(world).headers["Location"], world.staff_a
    assert refusal(staff.post(f"{path}/doses", dose("supplemental", 40, "11:05")))[1] == "initial_dose_missing"
    assert refusal(staff.post(f"{path}/doses", dose(mg=121))) == (409, "dose_off_plan", ["INITIAL-DOSE"])
    assert staff.post(f"{path}/doses", dose(mg=121, deviation_reason="Two capsules")).status_code == 201
    assert refusal(staff.post(f"{path}/doses", dose())) == (409, "dose_already_recorded", ["already_recorded"])


def test_a_supplemental_dose_is_judged_again_when_what_it_hangs_on_is_corrected(world: World) -> None:
    path, staff = a_session(world).headers["Location"], world.staff_a
    staff.post(f"{path}/doses", dose())
    late = staff.post(f"{path}/doses", dose("supplemental", 40, "11:05", deviation_reason="Forgot the cuff"))
    assert len(late.json()["doses"][1]["findings"]) == 1
    entered = staff.post(f"{path}/vitals", vitals("PRESUPP", "11:00"))
    initial, second = entered.json()["doses"]
    assert second["findings"] == []
    change = {"reason": "typed wrongly", "given_at": at("10:30")}
    corrected = staff.patch(f"{path}/doses/{initial['id']}", change, entered.headers["ETag"])
    assert corrected.status_code == 200, corrected.text
    assert [one["message"] for one in corrected.json()["doses"][1]["findings"]] == [
        "SUPPLEMENTAL-1: From 60 to 180 minutes after the initial dose"
    ]


IMPOSSIBLE: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "a pulse of 251": (vitals("M60", "10:15", PULSE=251), [("/values/PULSE", "outside_limits")]),
    "diastolic above systolic": (
        vitals("M60", "10:15", SYSBP=100, DIABP=100),
        [("/values/SYSBP", "not_above")],
    ),
    "an unknown measure": (vitals("M60", "10:15", MOOD=3), [("/values/?", "unknown_measure")]),
    "an unknown time point": (vitals("M61", "10:15"), [("/timepoint", "unknown_timepoint")]),
    "two at once": (
        vitals("M60", "10:15", TEMP=29.9, PULSE=19),
        [("/values/PULSE", "outside_limits"), ("/values/TEMP", "outside_limits")],
    ),
}


@pytest.mark.by_turns
@pytest.mark.parametrize("why", IMPOSSIBLE)
def test_vital_signs_beyond_the_hard_limits_are_refused_at_their_field(world: World, why: str) -> None:
    body, faults = IMPOSSIBLE[why]
    session = a_session(world)
    answer = world.staff_a.post(path_of(session, "/vitals"), body)
    assert (answer.status_code, answer.json()["code"]) == (422, "vitals_refused")
    assert [(error["pointer"], error["code"]) for error in answer.json()["errors"]] == faults
    assert world.staff_a.get(path_of(session)).json()["vitals"] == session.json()["vitals"]


def test_vital_signs_at_a_limit_are_inside_it(world: World) -> None:
    edge = {"SYSBP": 160, "DIABP": 110, "PULSE": 110, "TEMP": 38}
    read = world.staff_a.post(path_of(a_session(world), "/vitals"), vitals("M60", "10:15", **edge)).json()
    assert read["vitals"][1]["findings"] == read["holding"] == []
    assert read["vitals"][1]["values"] == {**edge, "TEMP": 38}


WRONG_TIMES: dict[str, tuple[str, dict[str, Any], str]] = {
    "a start on another day": ("start", {"started_at": at("09:00", "2025-03-04")}, "/started_at"),
    "vitals after the start": ("start", {"vitals": vitals("PRE", "09:01")}, "/vitals/taken_at"),
    "a dose before the start": ("doses", dose(hour="08:59"), "/given_at"),
    "a dose two days later": ("doses", {**dose(), "given_at": at("09:15", "2025-03-05")}, "/given_at"),
    "a dose once the night is over": ("doses", {**dose(), "given_at": at("12:00", "2025-03-04")}, "/given_at"),
    "vitals of another day": ("vitals", {"taken_at": at("09:15", "2025-03-01"), "values": CALM}, "/taken_at"),
    "a release of another day": ("close", closing(released_at=at("18:00", "2025-03-05")), "/released_at"),
    "an end before the dose": ("close", closing(ended_at=at("09:10")), "/ended_at"),
}


@pytest.mark.by_turns
@pytest.mark.parametrize("why", WRONG_TIMES)
def test_the_moments_of_a_session_lie_in_its_day_and_order(world: World, why: str) -> None:
    where, body, pointer = WRONG_TIMES[why]
    if where == "start":
        visit = prepared(world.staff_a, world.enrolled())
        answer = world.staff_a.post(SESSIONS, start(visit["id"], **body))
    else:
        session = a_session_to_close(world) if where == "close" else a_session(world)
        answer = world.staff_a.post(path_of(session, f"/{where}"), body)
    assert (answer.status_code, answer.json()["code"]) == (422, "moment_outside_visit")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


def test_a_night_at_the_site_is_part_of_the_day(world: World) -> None:
    session = a_session_to_close(world)
    night = {"ended_at": at("11:59", "2025-03-04"), "released_at": at("18:00", "2025-03-04")}
    answer = world.staff_a.post(path_of(session, "/close"), closing(**night))
    assert answer.status_code == 201, answer.text


def test_only_a_dosing_visit_that_took_place_has_a_session(world: World) -> None:
    pid, staff = world.enrolled(), world.staff_a
    baseline = held(staff, pid, "BL", "2025-02-10")
    assert refusal(staff.post(SESSIONS, start(baseline["id"], "2025-02-10"))) == (
        *(422, "not_a_dosing_visit"),
        ["no_dose"],
    )
    missed = {"participant": pid, "visit_code": "DOS1", "status": "missed", "deviation_reason": "Ill that day"}
    visit = staff.post("/v1/visits", missed).json()
    assert refusal(staff.post(SESSIONS, start(visit["id"]))) == (409, "visit_not_held", [])


@pytest.mark.parametrize(
    "change", [{"occurred_on": "2025-03-02"}, {"status": "missed", "occurred_on": None, "deviation_reason": "No"}]
)
def test_a_visit_is_not_corrected_away_from_its_session(world: World, change: dict[str, Any]) -> None:
    session = a_session(world).json()
    path = f"/v1/visits/{session['visit']}"
    body = {"reason": "typed wrongly", **change}
    if "deviation_reason" in body:
        body["deviation_reason"] = "Ill that day"
    answer = world.staff_a.patch(path, body, world.staff_a.get(path).headers["ETag"])
    assert refusal(answer) == (409, "visit_has_dosing_session", [])


def test_a_session_is_not_closed_before_it_says_what_became_of_the_dose(world: World) -> None:
    path, staff = a_session(world).headers["Location"], world.staff_a
    assert staff.get(path).json()["lacking"][0]["rule"] == "INITIAL-DOSE"
    assert refusal(staff.post(f"{path}/close", closing()))[2] == ["INITIAL-DOSE", "DISCHARGE-VITALS", "DISCHARGE-CSSRS"]
    not_given = {"kind": "initial", "planned_mg": 80, "deviation_reason": "Went home"}
    left = staff.post(f"{path}/doses", not_given).json()["lacking"]
    assert "INITIAL-DOSE" not in {one["rule"] for one in left}


def test_confirmations_that_nobody_asks_for_are_refused(world: World) -> None:
    visit = prepared(world.staff_a, world.enrolled())
    answer = world.staff_a.post(SESSIONS, start(visit["id"], confirmations={**YES, "DOSE-LUCKY": "yes"}))
    assert refusal(answer) == (422, "confirmation_unknown", ["unknown_confirmation"])
    session = a_session_to_close(world)
    answer = world.staff_a.post(path_of(session, "/close"), closing(discharge=["DISCHARGE-HAPPY"]))
    assert refusal(answer) == (422, "confirmation_unknown", ["unknown_item"])
    assert world.staff_a.get(path_of(session)).json()["state"] == "open"


def of_another_version(world: World, **changes: Any) -> str:
    """A participant of a protocol version of their own."""
    version = {**protocol_definition(), "version": uuid4().hex, **changes}
    answer = world.admin.post(f"/v1/studies/{world.study}/protocols", version)
    assert answer.status_code == 201, answer.text
    return world.enrolled(protocol_version=version["version"])


@pytest.mark.parametrize(("valid_from", "status"), [("2025-03-03", 409), ("2025-03-04", 201)])
def test_a_consent_of_an_older_version_does_not_do_once_the_newer_one_holds(
    world: World, valid_from: str, status: int
) -> None:
    (first,) = protocol_definition()["consents"]
    pid = of_another_version(world, consents=[first, {**first, "version": "2", "valid_from": valid_from}])
    answer = world.staff_a.post(SESSIONS, start(prepared(world.staff_a, pid)["id"]))
    assert answer.status_code == status
    if status == 409:
        assert refusal(answer) == (409, "dosing_not_allowed", ["DOSE-CONSENT"])


def test_a_protocol_may_refuse_a_supplemental_dose_off_its_plan(world: World) -> None:
    plan = protocol_definition()["dosing"]
    first, *rest = plan["doses"]
    strict = {**first, "supplemental": {**first["supplemental"], "otherwise": "refuse"}}
    pid = of_another_version(world, dosing={**plan, "doses": [strict, *rest]})
    path = world.staff_a.post(SESSIONS, start(prepared(world.staff_a, pid)["id"])).headers["Location"]
    assert world.staff_a.post(f"{path}/doses", dose()).status_code == 201
    assert world.staff_a.post(f"{path}/vitals", vitals("PRESUPP", "11:00")).status_code == 201
    late = dose("supplemental", 40, "12:30", deviation_reason="Asked for it late")
    assert refusal(world.staff_a.post(f"{path}/doses", late)) == (409, "dose_refused", ["SUPPLEMENTAL-1"])


def test_the_rules_of_the_participants_own_version_decide(world: World) -> None:
    """A study that does not hold dosing for a signal, and has no rule about its vital signs."""
    plan = protocol_definition()["dosing"]
    rules = [rule for rule in plan["preconditions"] if rule["code"] not in {"DOSE-SIGNAL", "DOSE-SYSBP"}]
    pid = of_another_version(world, dosing={**plan, "preconditions": rules})
    high = start(prepared(world.staff_a, pid)["id"], vitals=vitals("PRE", "08:45", SYSBP=165))
    answer = world.staff_a.post(SESSIONS, high)
    assert answer.status_code == 201, answer.text
    assert [signal["rule"] for signal in answer.json()["holding"]] == ["BLOOD-PRESSURE"]
    assert world.staff_a.post(f"{answer.headers['Location']}/doses", dose()).status_code == 201
