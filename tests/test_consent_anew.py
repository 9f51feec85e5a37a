"""Participants change their minds: a withdrawn consent can be given again on the same form, but a form sent twice is
refused."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from itertools import permutations
from typing import Any

import pytest
from httpx2 import Response

from app import audit
from app.models.consent import Consent
from tests.course_cases import under_amendment
from tests.courses import at, given, held, planned, withdraw
from tests.dosing_cases import SESSIONS, a_session_to_close, path_of, prepared, start
from tests.test_audit_entries import rows
from tests.test_changes import feed
from tests.test_data_cuts import cut, extract, tables, verdict
from tests.test_dosing_corrections import corrected
from tests.test_rule_queries import queries
from tests.test_signatures import content, signed_record, state
from tests.test_sync import act, sync
from tests.test_voiding import voided
from tests.test_withdrawals import NOTHING, WITHOUT_CONSENT, consents, refusal, said
from tests.world import World

FIRST, TAKEN, ANEW = "2025-01-02", "2025-02-20", "2025-03-01"
FIRST_OF_2024 = "2024-01-02"
SHARED = ["data_sharing", "main"]


def form(given_on: str = ANEW, **changes: Any) -> dict[str, Any]:
    """Version 1, which everybody gave at the enrolment."""
    return {"version": "1", "given_on": given_on, "scopes": SHARED, "reason": "changed their mind", **changes}


def signed(world: World, pid: str, given_on: str = ANEW, **changes: Any) -> Response:
    return world.staff_a.post(f"/v1/participants/{pid}/consents", form(given_on, **changes))


def anew(world: World, scope: str = "sharing", **enrolment: Any) -> str:
    """Somebody who took back a scope and gave it anew."""
    pid = world.enrolled(**enrolment)
    withdraw(world, pid, scope, TAKEN)
    answer = signed(world, pid)
    assert answer.status_code == 201, answer.text
    return pid


def outcome(answer: Response) -> tuple[int, str | None]:
    return answer.status_code, answer.json().get("code")


ALREADY = (409, "consent_already_recorded")


@pytest.mark.parametrize("scope", ["collection", "contact", "dosing", "sharing"])
def test_a_withdrawn_consent_is_given_again_on_the_same_form(world: World, scope: str) -> None:
    told = consents(world, anew(world, scope))
    assert (told["scopes_today"], told["withdrawn_today"]) == (SHARED, [])
    same = {"version": "1", "scopes": SHARED, "voided_at": None, "voiding_reason": None}
    assert told["consents"] == [
        {**same, "number": 1, "given_on": FIRST},
        {**same, "number": 2, "given_on": ANEW},
    ]


def test_a_form_that_is_sent_twice_is_one_consent(world: World) -> None:
    pid = world.enrolled()
    assert outcome(signed(world, pid)) == ALREADY, "nothing was taken back"
    withdraw(world, pid, "sharing", TAKEN)
    assert signed(world, pid).status_code == 201
    for on in (ANEW, "2025-03-02", "2025-01-10"):
        assert outcome(signed(world, pid, on)) == ALREADY, on
    assert len(consents(world, pid)["consents"]) == 2


def test_a_consent_can_be_given_again_after_each_withdrawal(world: World) -> None:
    pid = anew(world)
    withdraw(world, pid, "contact", "2025-04-01")
    again = signed(world, pid, "2025-05-01").json()
    assert ([one["number"] for one in again["consents"]], again["withdrawn_today"]) == ([1, 2, 3], [])


@pytest.mark.parametrize(
    ("taken", "again", "told"),
    [
        (FIRST, "2025-01-03", (201, None)),
        (FIRST, FIRST, ALREADY),
        (TAKEN, TAKEN, (201, None)),
        (TAKEN, "2025-02-19", ALREADY),
    ],
)
def test_a_withdrawal_lies_between_the_two_or_on_the_day_of_one(
    world: World, taken: str, again: str, told: tuple[int, str | None]
) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "sharing", taken)
    assert outcome(signed(world, pid, again)) == told


def test_an_earlier_consent_recorded_later_is_a_consent_of_its_own(world: World) -> None:
    pid = anew(world, "contact")
    withdraw(world, pid, "contact", "2025-04-01")
    assert outcome(signed(world, pid, "2025-06-01")) == (201, None)
    for on in (ANEW, "2025-03-31", "2025-05-31"):
        assert outcome(signed(world, pid, on)) == ALREADY, on
    withdraw(world, pid, "sharing", "2025-05-01")
    assert outcome(signed(world, pid, "2025-04-02")) == (201, None)
    told = [(one["number"], one["given_on"]) for one in consents(world, pid)["consents"]]
    assert told == [(1, FIRST), (2, ANEW), (4, "2025-04-02"), (3, "2025-06-01")]


def test_a_voided_withdrawal_separates_no_two_consents(world: World) -> None:
    pid = world.enrolled()
    for day in ("2025-04-01", TAKEN):
        withdraw(world, pid, "contact", day)
    assert outcome(signed(world, pid, "2025-05-01")) == (201, None)
    voided(world, pid)
    assert outcome(signed(world, pid)) == ALREADY


def test_a_consent_of_the_withdrawals_own_day_leaves_it_and_one_of_the_next_day_does_not(world: World) -> None:
    """Which of the two came last that day cannot be shown."""
    pid = world.enrolled()
    withdraw(world, pid, "sharing", TAKEN)
    for on, withdrawn in ((TAKEN, ["sharing"]), ("2025-02-21", [])):
        assert signed(world, pid, on).json()["withdrawn_today"] == withdrawn


def test_a_withdrawal_that_was_voided_lets_nothing_be_given_anew(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "sharing", TAKEN)
    voided(world, pid)
    assert outcome(signed(world, pid)) == ALREADY


def test_the_identity_never_comes_back(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "identity", TAKEN)
    assert outcome(signed(world, pid)) == ALREADY
    withdraw(world, pid, "contact", TAKEN)
    assert signed(world, pid).json()["withdrawn_today"] == ["identity"]


def test_a_consent_of_an_unknown_day_is_given_anew_too_and_comes_first(world: World) -> None:
    pid = anew(world, consent={"version": "1", "given_on": None, "scopes": SHARED})
    told = consents(world, pid)
    assert [(one["number"], one["given_on"]) for one in told["consents"]] == [(1, None), (2, ANEW)]
    assert told["withdrawn_today"] == []


def test_data_are_collected_again_from_the_day_of_the_new_consent_on(world: World) -> None:
    pid = anew(world, "collection")
    for number, (on, status) in enumerate((("2025-02-19", 201), (TAKEN, 409), ("2025-02-28", 409), (ANEW, 201)), 1):
        visit = world.visit(pid, "UNS", on, occurrence=number)
        assert world.staff_a.post("/v1/visits", visit).status_code == status, on


def test_what_was_given_anew_is_planned_and_due_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, datetime(2024, 8, 15, 12, tzinfo=UTC))
    pid = world.enrolled(screened_on=FIRST_OF_2024, enrolled_on="2024-01-29", consent=given(FIRST_OF_2024))
    held(world, pid, "BL", "2024-01-29")
    withdraw(world, pid, "contact", "2024-08-02")
    assert planned(world, pid)["FU7M"]["state"] == "not_applicable"
    assert signed(world, pid, **given("2024-08-10")).status_code == 201
    assert planned(world, pid)["FU7M"]["state"] == "due"
    listed = world.staff_a.get(f"/v1/studies/{world.study}/due").json()["items"]
    assert "FU7M" in {one["visit_code"] for one in listed}


def test_a_dosing_day_begins_once_dosing_is_given_anew(world: World) -> None:
    pid = world.enrolled()
    visit = prepared(world.staff_a, pid)
    withdraw(world, pid, "dosing", TAKEN)
    assert outcome(world.staff_a.post(SESSIONS, start(visit["id"]))) == (409, "dosing_not_allowed")
    assert signed(world, pid).status_code == 201
    assert world.staff_a.post(SESSIONS, start(visit["id"])).status_code == 201


def redated(world: World, pid: str, on: str, **which: Any) -> Response:
    return corrected(world, f"/v1/participants/{pid}", consent={"version": "1", "given_on": on, **which})


def test_a_dose_between_the_two_was_given_without_consent_until_the_day_of_the_second_is_put_right(
    world: World,
) -> None:
    session = a_session_to_close(world)
    path, pid = path_of(session), session.json()["participant"]
    withdraw(world, pid, "dosing", TAKEN)
    assert signed(world, pid, "2025-03-04").status_code == 201
    assert said(world, path) == WITHOUT_CONSENT
    assert redated(world, pid, ANEW, number=2).status_code == 200
    assert said(world, path) == NOTHING
    assert [one["given_on"] for one in consents(world, pid)["consents"]] == [FIRST, ANEW]


def test_a_dose_is_not_without_consent_once_an_earlier_consent_is_recorded(world: World) -> None:
    session = a_session_to_close(world)
    path, pid = path_of(session), session.json()["participant"]
    for day in (TAKEN, "2025-04-01"):
        withdraw(world, pid, "dosing", day)
    assert signed(world, pid, "2025-05-01").status_code == 201
    assert said(world, path) == WITHOUT_CONSENT
    assert signed(world, pid).status_code == 201
    assert said(world, path) == NOTHING


def test_the_day_of_the_first_consent_is_corrected_unless_a_number_is_said(world: World) -> None:
    pid = anew(world)
    assert redated(world, pid, "2025-01-03").status_code == 200
    assert [one["given_on"] for one in consents(world, pid)["consents"]] == ["2025-01-03", ANEW]
    assert refusal(redated(world, pid, "2025-02-21")) == (422, "withdrawal_before_consent", ["/consent/given_on"])


@pytest.mark.parametrize(
    ("which", "pointer"),
    [({"version": "7"}, "/consent/version"), ({"number": 3}, "/consent/number"), ({"number": 0}, "/consent/number")],
)
def test_only_a_consent_that_was_given_has_a_day(world: World, which: dict[str, Any], pointer: str) -> None:
    answer = redated(world, anew(world), ANEW, **which)
    assert (answer.status_code, [one["pointer"] for one in answer.json()["errors"]]) == (422, [pointer])


def test_the_enrolment_rests_on_the_first_of_the_two(world: World) -> None:
    pid = anew(world)
    person = corrected(world, f"/v1/participants/{pid}", age_at_consent=52)
    assert (person.status_code, person.json()["findings"], queries(world, participant=pid)) == (200, [], [])


def test_an_unknown_day_stays_doubtful_while_a_later_one_is_known(world: World) -> None:
    pid = anew(world, consent={"version": "1", "given_on": None, "scopes": SHARED})
    person = corrected(world, f"/v1/participants/{pid}", age_at_consent=52)
    assert [one["code"] for one in person.json()["findings"]] == ["consent_date_missing"]
    assert redated(world, pid, FIRST).json()["findings"] == []


def test_the_form_of_an_amendment_is_signed_once_however_often_it_is_given(world: World) -> None:
    pid = under_amendment(world)
    withdraw(world, pid, "contact", TAKEN)
    assert signed(world, pid).json()["reconsent_to"] == ["2"]
    assert signed(world, pid, "2025-05-02", version="2").json()["reconsent_to"] == []
    withdraw(world, pid, "contact", "2025-05-03")
    told = signed(world, pid, "2025-05-04", version="2").json()
    assert (told["reconsent_to"], told["withdrawn_today"]) == ([], [])
    assert [(one["version"], one["number"]) for one in told["consents"]] == [("1", 1), ("1", 2), ("2", 1), ("2", 2)]


def test_a_record_is_signed_with_both_consents_and_a_signature_of_before_is_broken(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "sharing", TAKEN)
    before = signed_record(world, pid)
    assert signed(world, pid, scopes=["main"]).status_code == 201
    covered = json.loads(content(world, pid)["content"])
    assert (state(world, before), covered["form"]) == ("broken", 1)
    assert covered["consents"] == [
        {"version": "1", "given_on": FIRST, "scopes": SHARED},
        {"version": "1", "given_on": ANEW, "scopes": ["main"]},
    ]
    assert state(world, signed_record(world, pid)) == "valid"


def test_the_trail_separates_the_two_consents_and_the_feed_has_both(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "sharing", TAKEN)
    _, place = feed(world.staff_a)
    assert signed(world, pid).status_code == 201
    assert redated(world, pid, "2025-03-02", number=2).status_code == 200
    name = pid.replace("-", "")
    changes, _ = feed(world.staff_a, place)
    told = [(one["action"], one["subject_id"]) for one in changes if one["subject_type"] == "consent"]
    assert told == [("consent:recorded", f"{name}/1/2"), ("consent:amended", f"{name}/1/2")]
    mine = rows(world.monitor, participant=pid, subject_type="consent")
    assert {one["subject_id"] for one in mine} == {f"{name}/1", f"{name}/1/2"}
    assert rows(world.monitor, subject_type="consent", subject_id=f"{pid}/1/2", action="consent:amended") != []


def test_earlier_extracts_keep_their_rows_and_later_ones_have_the_participant_again(world: World) -> None:
    world.enrolled()
    pid = world.enrolled()
    whole = extract(world)
    withdraw(world, pid, "sharing", TAKEN)
    without = extract(world)
    assert signed(world, pid).status_code == 201
    assert [verdict(world, one) for one in (whole, without)] == ["the same rows"] * 2
    people = [len(tables(world, one)["participants.csv"]) for one in (whole, without, extract(world))]
    assert people == [2, 1, 2]


def test_a_consent_given_anew_after_a_cut_brings_nobody_into_it_and_puts_nobody_out(world: World) -> None:
    world.enrolled()
    back, mistaken = world.enrolled(), world.enrolled()
    name = cut(world)
    for pid in (back, mistaken):
        withdraw(world, pid, "sharing", TAKEN)
        assert signed(world, pid).status_code == 201
    voided(world, mistaken)
    people = [len(tables(world, extract(world, **asked))["participants.csv"]) for asked in ({"cut": name}, {})]
    assert people == [2, 3]


def test_a_consent_recorded_after_a_cut_is_known_by_an_entry_of_before_consents_had_numbers(world: World) -> None:
    world.enrolled()
    pid = world.enrolled(consent={"version": "1", "given_on": FIRST, "scopes": ["main"]}).replace("-", "")
    name, site_id = cut(world), world.site_ids["A"]
    row = Consent(site_id=site_id, pid=pid, version="2", given_on=date(2025, 3, 1), scopes="[]", data_sharing=True)
    told = audit.created("consent:recorded", row, f"{pid}/2")
    changes = [one for one in told.changes if one["field"] != "number"]
    with world.registry.database.write() as session:
        session.add(row)
        audit.append(session, audit.SYSTEM, site_id, [replace(told, changes=changes)])
    people = [len(tables(world, extract(world, **asked))["participants.csv"]) for asked in ({"cut": name}, {})]
    assert people == [1, 2]


def test_a_question_is_asked_about_the_second_of_the_two(world: World) -> None:
    asked = {"participant": anew(world), "subject_type": "participant", "text": "Please check"}
    for place, status in ((1, 201), (2, 422)):
        question = {**asked, "field": f"/consents/{place}/given_on"}
        assert world.monitor.post("/v1/data-queries", question).status_code == status


def test_of_two_records_at_once_one_is_stored(world: World) -> None:
    pid = world.enrolled()
    withdraw(world, pid, "sharing", TAKEN)
    with ThreadPoolExecutor(2) as both:
        told = list(both.map(lambda _: outcome(signed(world, pid)), range(2)))
    assert sorted(told) == [(201, None), ALREADY]
    assert len(consents(world, pid)["consents"]) == 2


def test_a_tablet_may_send_the_new_consent_before_the_withdrawal(world: World) -> None:
    pid = world.enrolled()
    results = sync(world.staff_a, given_on(pid, ANEW), taken_on(pid, TAKEN))
    assert {one["result"] for one in results.values()} == {"created"}
    told = consents(world, pid)
    assert (len(told["consents"]), told["withdrawn_today"]) == (2, [])


def test_a_tablet_may_send_two_new_consents_in_any_order(world: World) -> None:
    for order in list(permutations(range(4)))[world.on_sqlite :: 2]:  # the same code orders them on either engine
        pid = world.enrolled()
        told = [taken_on(pid, TAKEN), given_on(pid, ANEW), taken_on(pid, "2025-04-01"), given_on(pid, "2025-05-01")]
        visit = act("/v1/visits", world.visit(pid, "UNS", "2025-03-15"))
        results = sync(world.staff_a, *(told[place] for place in order), visit)
        assert {one["result"] for one in results.values()} == {"created"}, order
        days = [one["given_on"] for one in consents(world, pid)["consents"]]
        assert days == [FIRST, ANEW, "2025-05-01"], order


def taken_on(pid: str, day: str) -> dict[str, Any]:
    withdrawal = {"scope": "collection", "effective_on": day, "reason": "told us by telephone"}
    return act(f"/v1/participants/{pid}/withdrawals", withdrawal)


def given_on(pid: str, day: str) -> dict[str, Any]:
    return act(f"/v1/participants/{pid}/consents", form(day))
