"""A participant's course: schedule, consent and withdrawals, screening, amendments, history."""

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from httpx2 import Response

from app.models.base import now
from app.models.study import Site
from tests.course_cases import open_screening, screen_failed, under_amendment
from tests.courses import at, given, held, planned, withdraw
from tests.dosing_cases import SESSIONS, prepared, start
from tests.route_cases import UNDER_AGREEMENT
from tests.world import World, madrs, protocol_definition

DAY = "2025-01-02"
Form = tuple[str | None, list[str]]
"""The day of a consent, and what it allows."""


def window(item: dict[str, Any]) -> tuple[str, str, str]:
    return item["window"]["start"], item["window"]["planned"], item["window"]["end"]


def test_windows_open_as_their_anchors_take_place(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: baseline on 29 January 2024, dosing 1 on 29 February, a leap day; integration a day later."""
    at(monkeypatch, datetime(2024, 3, 1, 12, tzinfo=UTC))
    pid = world.enrolled(screened_on="2024-01-02", enrolled_on="2024-01-29", consent=given("2024-01-02"))
    before = planned(world, pid)
    assert (before["INT1A"]["state"], before["INT1A"]["waits_for"]) == ("waiting", "DOS1")
    held(world, pid, "BL", "2024-01-29")
    held(world, pid, "DOS1", "2024-02-29")
    after = planned(world, pid)
    assert window(after["INT1A"]) == ("2024-03-01", "2024-03-01", "2024-03-03")
    assert window(after["FU7M"]) == ("2024-08-01", "2024-08-29", "2024-09-26")  # 29 January + 213 days, 28 either way
    assert (after["INT1A"]["state"], after["DOS1"]["state"], after["FU7M"]["state"]) == ("due", "done", "upcoming")
    assert after["INT1A"]["missing_instruments"] == ["CSSRS_SLV"]


def test_a_corrected_anchor_moves_the_windows_that_hang_on_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, datetime(2025, 3, 20, 12, tzinfo=UTC))
    pid = world.enrolled()
    held(world, pid, "BL", "2025-01-25")
    dosing = held(world, pid, "DOS1", "2025-03-03")
    assert window(planned(world, pid)["INT1B"]) == ("2025-03-07", "2025-03-10", "2025-03-13")
    path, body = dosing.headers["Location"], {"occurred_on": "2025-03-08", "reason": "misread the sheet"}
    assert world.staff_a.patch(path, body, dosing.headers["ETag"]).is_success
    assert window(planned(world, pid)["INT1B"]) == ("2025-03-12", "2025-03-15", "2025-03-18")


def test_today_is_the_sites_own_day_also_where_clocks_change(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Berlin 29 March 2026 ends at 22:00 UTC, since summer time began that morning."""
    with world.registry.database.write() as session:
        session.get_one(Site, world.site_ids["A"]).timezone = "Europe/Berlin"
    pid = world.enrolled()
    for hour, minute, day in ((21, 59, "2026-03-29"), (22, 0, "2026-03-30")):
        at(monkeypatch, datetime(2026, 3, 29, hour, minute, tzinfo=UTC))
        assert world.staff_a.get(f"/v1/participants/{pid}/schedule").json()["today"] == day


def test_no_data_are_accepted_after_the_withdrawal_of_collection_except_adverse_events(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "collection", "2025-02-01")
    after = world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-02-01"))
    assert (after.status_code, after.json()["code"]) == (409, "collection_withdrawn")
    assert world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-01-31")).status_code == 201
    assert world.staff_a.post("/v1/adverse-events", world.event(pid, onset="2025-02-03")).status_code == 201


def test_a_visit_of_before_takes_no_outcome_of_after_the_withdrawal(world: World) -> None:
    pid = world.enrolled()
    visit = world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-01-31")).json()
    withdraw(world, pid, "collection", "2025-02-01")
    outcome = {"participant": pid, "visit": visit["id"], **madrs(1)}
    after = world.staff_a.post("/v1/outcomes", {**outcome, "collected_on": "2025-02-01"})
    assert (after.status_code, after.json()["code"]) == (409, "collection_withdrawn")
    assert world.staff_a.post("/v1/outcomes", outcome).status_code == 201


def test_what_was_recorded_before_a_withdrawal_was_known_is_corrected_but_not_extended(world: World) -> None:
    pid = world.enrolled()
    visit = world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-02-03"))
    withdraw(world, pid, "collection", "2025-02-01")

    def amended(etag: str, **changes: Any) -> Response:
        return world.staff_a.patch(visit.headers["Location"], {**changes, "reason": "typed wrongly"}, etag)

    corrected = amended(visit.headers["ETag"], deviation_reason="Asked for by telephone")
    assert corrected.status_code == 200, corrected.text
    moved = amended(corrected.headers["ETag"], occurred_on="2025-02-02")
    assert (moved.status_code, moved.json()["code"]) == (409, "collection_withdrawn")
    assert amended(corrected.headers["ETag"], occurred_on="2025-01-31").status_code == 200


def test_no_outcome_is_moved_behind_the_withdrawal(world: World) -> None:
    pid = world.enrolled()
    visit = world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-01-31", outcomes=[madrs(1)])).json()
    withdraw(world, pid, "collection", "2025-02-01")
    path = f"/v1/outcomes/{visit['outcomes'][0]['id']}"

    def amended(**changes: Any) -> Response:
        etag = world.staff_a.get(path).headers["ETag"]
        return world.staff_a.patch(path, {**changes, "reason": "typed wrongly"}, etag)

    moved = amended(collected_on="2025-02-01")
    assert (moved.status_code, moved.json()["code"]) == (409, "collection_withdrawn")
    assert amended(items={"MADRS_02": 2}).status_code == 200
    assert amended(collected_on="2025-01-30").status_code == 200


@pytest.mark.parametrize("scope", ["dosing", "collection"])
def test_no_dose_is_given_after_the_withdrawal_of_dosing(world: World, scope: str) -> None:
    pid = world.enrolled()
    visit = prepared(world.staff_a, pid)
    withdraw(world, pid, scope, "2025-03-03")
    refused = world.staff_a.post(SESSIONS, start(visit["id"]))
    assert (refused.status_code, refused.json()["code"]) == (409, "dosing_not_allowed")
    assert "DOSE-CONSENT" in refused.text


def subjects(world: World) -> int:
    asked = world.analyst.post("/v1/extracts", {**UNDER_AGREEMENT, "study": world.study})
    path = asked.headers["Location"]
    decided = world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed use"})
    if not decided.is_success:
        assert decided.json()["code"] == "cohort_empty"
        return 0
    return int(world.analyst.get(f"{path}/files/manifest.json").json()["subjects"])


def test_no_participant_is_in_an_extract_after_the_withdrawal_of_sharing(world: World) -> None:
    kept, left = world.enrolled(), world.enrolled()
    assert subjects(world) == 2
    withdraw(world, left, "sharing", "2025-02-01")
    assert subjects(world) == 1
    withdraw(world, kept, "sharing", "2025-02-01")
    assert subjects(world) == 0


def test_a_withdrawal_of_sharing_today_at_the_site_counts_where_it_is_still_yesterday(world: World) -> None:
    pid, tomorrow = world.enrolled(), now() + timedelta(days=1)
    with patch("app.models.base.now", lambda: tomorrow):
        withdraw(world, pid, "sharing", tomorrow.date().isoformat())
    assert subjects(world) == 0


@pytest.mark.parametrize(
    ("first", "second", "sharing"),
    [
        ((DAY, ["data_sharing", "main"]), (DAY, ["main"]), False),
        ((DAY, ["main"]), (DAY, ["data_sharing", "main"]), False),
        ((DAY, ["data_sharing", "main"]), (DAY, ["data_sharing", "main"]), True),
        ((None, ["data_sharing", "main"]), (DAY, ["main"]), False),
        ((None, ["main"]), (DAY, ["data_sharing", "main"]), True),
    ],
)
def test_data_are_shared_as_the_newest_consent_says_and_of_one_day_as_all_of_them_say(
    world: World, first: Form, second: Form, sharing: bool
) -> None:
    given = {"version": "1", "given_on": first[0], "scopes": first[1]}
    pid = under_amendment(world, consent=given)
    body = {"version": "2", "given_on": second[0], "scopes": second[1], "reason": "a further form"}
    answer = world.staff_a.post(f"/v1/participants/{pid}/consents", body)
    assert answer.status_code == 201, answer.text
    assert ("data_sharing" in answer.json()["scopes_today"], subjects(world)) == (sharing, int(sharing))


@pytest.mark.parametrize("second", [["main"], ["long_follow_up", "main"]], ids=["refused", "agreed"])
def test_of_several_consents_of_one_day_only_what_all_of_them_say_holds(world: World, second: list[str]) -> None:
    pid = under_amendment(world, consent=given(DAY))
    body = {"version": "2", "given_on": DAY, "scopes": second, "reason": "a further form"}
    answer = world.staff_a.post(f"/v1/participants/{pid}/consents", body)
    assert answer.json()["scopes_today"] == second


def test_a_later_consent_restores_what_was_withdrawn(world: World) -> None:
    pid = under_amendment(world)
    withdraw(world, pid, "sharing", "2025-02-01")
    state = world.monitor.get(f"/v1/participants/{pid}/consents").json()
    assert (state["scopes_today"], state["withdrawn_today"]) == (["main"], ["sharing"])
    assert subjects(world) == 0
    body = {"version": "2", "given_on": "2025-06-01", "scopes": ["main", "data_sharing"], "reason": "asked again"}
    again = world.staff_a.post(f"/v1/participants/{pid}/consents", body)
    assert (again.status_code, again.json()["scopes_today"]) == (201, ["data_sharing", "main"])
    assert subjects(world) == 1
    twice = world.staff_a.post(f"/v1/participants/{pid}/consents", body)
    assert (twice.status_code, twice.json()["code"]) == (409, "consent_already_recorded")


def test_an_earlier_form_recorded_late_does_not_restore_a_withdrawn_consent(world: World) -> None:
    pid = under_amendment(world)
    withdraw(world, pid, "sharing", "2025-02-01")
    body = {"version": "2", "given_on": "2025-01-20", "scopes": ["main", "data_sharing"], "reason": "found later"}
    late = world.staff_a.post(f"/v1/participants/{pid}/consents", body).json()
    assert (late["scopes_today"], late["withdrawn_today"], subjects(world)) == (["main"], ["sharing"], 0)


def test_the_consent_in_force_today_is_that_of_the_sites_day(world: World) -> None:
    pid = world.enrolled()
    with world.registry.database.write() as session:
        session.get_one(Site, world.site_ids["A"]).timezone = "Europe/Berlin"
    withdraw(world, pid, "sharing", "2025-02-02")
    held = []
    for instant in ("2025-02-01T22:59Z", "2025-02-01T23:01Z"):  # midnight there is 23:00 UTC
        with patch("app.services.participation.consents.now", lambda at=instant: datetime.fromisoformat(at)):
            held.append(world.monitor.get(f"/v1/participants/{pid}/consents").json()["scopes_today"])
    assert held == [["data_sharing", "main"], ["main"]]


def test_taking_back_the_identity_erases_the_sites_label_for_good(world: World) -> None:
    body = world.enrolment()
    pid = world.staff_a.post("/v1/participants", body).json()["pid"]
    asked = {name: body[name] for name in ("study", "site", "site_local_id")}
    assert world.staff_a.post("/v1/participants/lookup", asked).json()["pid"] == pid
    withdraw(world, pid, "identity", "2025-03-01")
    assert world.staff_a.post("/v1/participants/lookup", asked).status_code == 404
    assert world.staff_a.get(f"/v1/participants/{pid}").status_code == 200


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"version": "9"}, "/version"),
        ({"scopes": ["photography"]}, "/scopes"),
        ({"scopes": ["data_sharing"]}, "/scopes"),
    ],
)
def test_a_consent_that_the_protocol_does_not_know_is_refused(
    world: World, change: dict[str, Any], pointer: str
) -> None:
    pid = under_amendment(world)
    body = {"version": "2", "given_on": "2025-06-01", "scopes": ["main"], "reason": "amendment", **change}
    answer = world.staff_a.post(f"/v1/participants/{pid}/consents", body)
    assert (answer.status_code, answer.json()["code"]) == (422, "consent_unknown")
    assert answer.json()["errors"][0]["pointer"] == pointer


def test_an_amendment_names_who_must_consent_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, datetime(2025, 6, 1, 12, tzinfo=UTC))
    pid = under_amendment(world)
    schedule = f"/v1/participants/{pid}/schedule"
    assert world.monitor.get(schedule).json()["reconsent_to"] == ["2"]
    body = {"version": "2", "given_on": "2025-06-01", "scopes": ["main"], "reason": "amendment"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", body).status_code == 201
    assert world.monitor.get(schedule).json()["reconsent_to"] == []


def test_a_participant_who_moves_on_keeps_the_windows_of_past_visits(world: World) -> None:
    pid = world.enrolled(protocol_version="1")
    held(world, pid, "BL", "2025-01-25")
    held(world, pid, "DOS1", "2025-03-03")
    visit = held(world, pid, "INT1B", "2025-03-10").json()
    definition = {**protocol_definition(), "version": "moved"}
    for one in definition["visits"]:
        if one["code"] in ("INT1A", "INT1B"):
            one["offset_days"] = {"INT1A": 6, "INT1B": 21}[one["code"]]
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", definition).status_code == 201
    path = f"/v1/participants/{pid}/protocol-version"
    moved = world.staff_a.post(path, {"version": "moved", "reason": "amendment in force"})
    assert (moved.status_code, moved.json()["protocol_version"]) == (200, "moved")
    assert world.staff_a.get(f"/v1/visits/{visit['id']}").json()["window"] == visit["window"]
    planned = {one["visit_code"]: one for one in world.staff_a.get(f"/v1/participants/{pid}/schedule").json()["items"]}
    assert (planned["INT1B"]["window"], planned["INT1B"]["deviation_days"]) == (visit["window"], 0)
    assert planned["INT1A"]["window"]["planned"] == "2025-03-09", "what is open goes by the new one"
    counted = world.monitor.get("/v1/monitoring/sites", study=world.study).json()["sites"][0]["visits"]
    assert (counted["with_window"], counted["in_window"]) == (1, 1)
    again = world.staff_a.post(path, {"version": "moved", "reason": "amendment in force"})
    assert (again.status_code, again.json()["code"]) == (409, "protocol_version_the_same")
    unknown = world.staff_a.post(path, {"version": "none", "reason": "amendment in force"})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "protocol_version_unknown")
    told = world.monitor.get(f"/v1/participants/{pid}/history").json()["items"]
    assert ("participant:moved", "amendment in force") in [(item["action"], item["reason"]) for item in told]


def criteria() -> list[str]:
    return [one["code"] for one in protocol_definition()["eligibility"]]


def answers(world: World, pid: str, **given: str) -> Response:
    return world.staff_a.post(f"/v1/participants/{pid}/eligibility", {"answers": given, "reason": "seen in the file"})


def enrol(world: World, pid: str, on: str = "2025-02-01") -> Response:
    body = {"status": "enrolled", "effective_on": on, "reason": "all criteria met"}
    return world.staff_a.post(f"/v1/participants/{pid}/status", body)


def test_nobody_is_enrolled_before_every_criterion_is_answered_as_the_study_wants(world: World) -> None:
    pid, codes = open_screening(world), criteria()
    early = enrol(world, pid)
    assert (early.status_code, early.json()["code"]) == (409, "not_eligible")
    part = answers(world, pid, **dict.fromkeys(codes[:-1], "met"))
    assert (part.status_code, part.json()["eligible"], part.json()["open"]) == (201, None, codes[-1:])
    whole = answers(world, pid, **{codes[-1]: "met"})
    assert (whole.json()["eligible"], whole.json()["open"]) == (True, [])
    assert enrol(world, pid).status_code == 201


def test_an_unmet_criterion_is_a_screen_failure_that_keeps_its_criterion(world: World) -> None:
    pid = open_screening(world)
    failed = answers(world, pid, EXCL02="not_met")
    assert (failed.json()["eligible"], failed.json()["unmet"]) == (False, ["EXCL02"])
    person = world.monitor.get(f"/v1/participants/{pid}").json()
    assert (person["status"], person["unmet_criteria"]) == ("screen_failed", ["EXCL02"])


def judged(world: World, pid: str) -> tuple[str, bool, list[str]]:
    person = world.monitor.get(f"/v1/participants/{pid}").json()
    return person["status"], person["eligible"], person["unmet_criteria"]


def test_an_exception_holds_until_its_own_criterion_is_answered_otherwise(world: World) -> None:
    pid = screen_failed(world)
    assert answers(world, pid, INCL01="met").json()["answers"] == {"EXCL02": "not_met", "INCL01": "met"}
    assert judged(world, pid) == ("screen_failed", False, ["EXCL02"])
    assert answers(world, pid, EXCL02="met").json()["eligible"] is None
    assert judged(world, pid) == ("screened", False, [])


@pytest.mark.parametrize(
    ("met", "before"), [(True, ("screened", True, [])), (False, ("screen_failed", False, []))], ids=["met", "not met"]
)
def test_an_overall_answer_holds_until_the_answers_decide(
    world: World, met: bool, before: tuple[str, bool, list[str]]
) -> None:
    pid, codes = world.enrolled(enrolled_on=None, eligibility={"met": met}), criteria()
    assert answers(world, pid, **dict.fromkeys(codes[1:], "met")).json()["eligible"] is met
    assert judged(world, pid) == before
    answers(world, pid, **{codes[0]: "not_met"})
    assert judged(world, pid) == ("screen_failed", False, codes[:1])
    answers(world, pid, **{codes[0]: "met"})
    assert judged(world, pid) == ("screened", True, [])


def test_somebody_who_failed_is_screened_again_under_the_same_pid(world: World) -> None:
    pid = screen_failed(world)
    body = {"screened_on": "2025-04-01", "reason": "taper completed", "answers": dict.fromkeys(criteria(), "met")}
    again = world.staff_a.post(f"/v1/participants/{pid}/screenings", body)
    assert (again.status_code, again.json()["number"], again.json()["eligible"]) == (201, 2, True)
    person = world.monitor.get(f"/v1/participants/{pid}").json()
    assert (person["status"], person["screened_on"], person["unmet_criteria"]) == ("screened", "2025-04-01", [])
    episodes = world.monitor.get(f"/v1/participants/{pid}/screenings").json()["items"]
    assert [(one["number"], one["unmet"]) for one in episodes] == [(1, ["EXCL02"]), (2, [])]
    other = world.staff_a.post(f"/v1/participants/{pid}/screenings", body)
    assert (other.status_code, other.json()["code"]) == (409, "not_screen_failed")
    assert enrol(world, pid, "2025-04-02").status_code == 201


@pytest.mark.parametrize("form", [{}, {"met": True, "answers": {}}, {"answers": {}, "unmet": ["EXCL02"]}])
def test_eligibility_is_given_in_one_of_its_two_forms(world: World, form: dict[str, Any]) -> None:
    answer = world.staff_a.post("/v1/participants", world.enrolment(enrolled_on=None, eligibility=form))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "eligibility_form")


def test_an_unknown_criterion_is_refused(world: World) -> None:
    answer = answers(world, open_screening(world), EXCL99="met")
    assert (answer.status_code, answer.json()["code"]) == (422, "criterion_unknown")


def test_an_outcome_shows_in_the_schedule_as_given(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, datetime(2025, 1, 26, 12, tzinfo=UTC))
    pid = world.enrolled()
    held(world, pid, "BL", "2025-01-25", outcomes=[madrs(2)])
    missing = planned(world, pid)["BL"]["missing_instruments"]
    assert "MADRS" not in missing
    assert "SHEEHAN_SDS" in missing
