"""A consent that the site recorded in error: voided, still to be read, and nothing rests on it any more."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

from httpx2 import Response

from app.services.quality import rule_queries, rules_over_time
from tests.course_cases import screen_failed, under_amendment
from tests.courses import held, withdraw
from tests.dosing_cases import SESSIONS, a_session_to_close, path_of, prepared, start
from tests.test_audit_entries import rows
from tests.test_changes import feed
from tests.test_data_cuts import cut, extract, tables, verdict
from tests.test_dosing_corrections import corrected
from tests.test_dosing_corrections import remarks as remarks_on_doses
from tests.test_signatures import signed_record, state
from tests.test_sync import act, sync
from tests.test_voiding import voided as voided_withdrawal
from tests.test_withdrawals import consents
from tests.voided_cases import WHY, void
from tests.world import World

ON = "2025-01-02"
SHARED = ["data_sharing", "main"]
FORM = {"version": "1", "given_on": ON, "scopes": SHARED, "reason": "The form of this participant"}


def give(world: World, pid: str, **form: Any) -> Response:
    return world.staff_a.post(f"/v1/participants/{pid}/consents", {**FORM, **form})


def take_out(world: World, pid: str, version: str = "1", number: int = 1, seen: str | None = None) -> Response:
    seen = seen or world.staff_a.get(f"/v1/participants/{pid}").headers["ETag"]
    return void(world.staff_a, f"/v1/participants/{pid}/consents/{version}/{number}", seen)


def taken_out(world: World, pid: str, version: str = "1", number: int = 1) -> dict[str, Any]:
    answer = take_out(world, pid, version, number)
    assert answer.status_code == 201, answer.text
    told: dict[str, Any] = answer.json()
    return told


def of_somebody_else(world: World, pid: str, **form: Any) -> None:
    """A further consent, which is then voided."""
    mistaken = {"version": "2", "given_on": "2025-06-01", **form}
    assert give(world, pid, **mistaken).status_code == 201
    taken_out(world, pid, mistaken["version"])


def asked(world: World, pid: str) -> set[str]:
    """The rules of a participant's open data queries."""
    found = world.monitor.get("/v1/data-queries", participant=pid, state="open", limit=500).json()["items"]
    return {one["rule"] for one in found}


def test_it_is_in_force_no_more_and_still_shown_with_when_and_why(world: World) -> None:
    pid = under_amendment(world)
    before = consents(world, pid)
    assert give(world, pid, version="2", given_on="2025-06-01", scopes=["main"]).json()["scopes_today"] == ["main"]
    told = taken_out(world, pid, "2")
    now = told["consents"].pop()
    assert told == before, "as if it had never been recorded"
    form = {"version": "2", "number": 1, "given_on": "2025-06-01", "scopes": ["main"]}
    assert now == {**form, "voided_at": now["voided_at"], "voiding_reason": WHY["reason"]}
    assert now["voided_at"] is not None
    assert consents(world, pid)["consents"][-1] == now


def test_what_was_voided_is_neither_voided_again_nor_corrected(world: World) -> None:
    pid = world.enrolled()
    first = taken_out(world, pid)
    again = corrected(world, f"/v1/participants/{pid}", consent={"version": "1", "given_on": "2025-01-03"})
    for answer in (take_out(world, pid), again):
        assert (answer.status_code, answer.json()["code"]) == (409, "record_voided")
    assert consents(world, pid) == first


def test_only_a_consent_that_is_there_and_was_seen_is_voided(world: World) -> None:
    pid = world.enrolled()
    seen = world.staff_a.get(f"/v1/participants/{pid}").headers["ETag"]
    path = f"/v1/participants/{pid}/consents/1/1"
    for answer in (take_out(world, pid, "2"), take_out(world, pid, "1", 2), take_out(world, pid, "1", 10**30)):
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert void(world.staff_b, path, seen).status_code == 404
    assert world.staff_a.post(f"{path}/voiding", WHY).json()["code"] == "if_match_missing"
    assert corrected(world, f"/v1/participants/{pid}", consent={"version": "1", "scopes": ["main"]}).status_code == 200
    stale = take_out(world, pid, seen=seen)
    assert (stale.status_code, stale.json()["code"]) == (412, "version_stale")
    lock = {"kind": "freeze", "study": world.study, "site": "A", "participant": pid, "reason": "before the cut"}
    assert world.monitor.post("/v1/locks", lock).status_code == 201
    assert take_out(world, pid).json()["code"] == "data_locked"
    assert [one["voided_at"] for one in consents(world, pid)["consents"]] == [None]


def test_nobody_is_dosed_on_the_form_of_somebody_else(world: World) -> None:
    pid = under_amendment(world)
    visit = prepared(world.staff_a, pid)
    withdraw(world, pid, "dosing", "2025-02-20")
    assert give(world, pid, version="2", given_on="2025-03-01").status_code == 201
    assert consents(world, pid)["withdrawn_today"] == []
    assert taken_out(world, pid, "2")["withdrawn_today"] == ["dosing"]
    assert world.staff_a.post(SESSIONS, start(visit["id"])).json()["code"] == "dosing_not_allowed"


def test_nobody_is_shared_on_the_form_of_somebody_else(world: World) -> None:
    """An extract that was built on it stays as it is; a later one, of an earlier cut too, is without them."""
    of_all = under_amendment(world, age_at_consent=30)
    pid = under_amendment(world, age_at_consent=60, consent={"version": "1", "given_on": ON, "scopes": ["main"]})
    assert give(world, pid, version="2", given_on="2025-06-01").status_code == 201
    name, before = cut(world), extract(world)
    taken_out(world, pid, "2")
    later = extract(world), extract(world, cut=name)
    ages = [[row["age_group"] for row in tables(world, path)["participants.csv"]] for path in (before, *later)]
    assert ages == [["30", "60"], ["30"], ["30"]]
    assert [verdict(world, path) for path in (before, *later)] == ["the same rows"] * 3
    assert consents(world, of_all)["scopes_today"] == SHARED


def test_whom_the_form_of_somebody_else_had_put_out_of_extracts_is_in_them_again(world: World) -> None:
    under_amendment(world, age_at_consent=30)
    pid = under_amendment(world, age_at_consent=60)
    of_somebody_else(world, pid, scopes=["main"])
    assert [row["age_group"] for row in tables(world, extract(world))["participants.csv"]] == ["30", "60"]


def test_what_was_withdrawn_stays_so_and_only_a_voiding_of_its_own_ends_that(world: World) -> None:
    under_amendment(world, age_at_consent=30)
    pid = under_amendment(world, age_at_consent=60)
    withdraw(world, pid, "sharing", "2025-02-20")
    of_somebody_else(world, pid)
    assert consents(world, pid)["withdrawn_today"] == ["sharing"]
    assert [row["age_group"] for row in tables(world, extract(world))["participants.csv"]] == ["30"]
    voided_withdrawal(world, pid)
    assert [row["age_group"] for row in tables(world, extract(world))["participants.csv"]] == ["30", "60"]


def test_an_end_of_the_collection_holds_again(world: World) -> None:
    under_amendment(world)
    pid = under_amendment(world)
    for number, day in enumerate(("2025-02-10", "2025-03-20"), 1):
        held(world, pid, "UNS", day, occurrence=number)
    withdraw(world, pid, "collection", "2025-03-10")
    of_somebody_else(world, pid, given_on="2025-03-15")
    assert len(tables(world, extract(world))["visits.csv"]) == 1
    refused = world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-04-01", occurrence=3))
    assert refused.json()["code"] == "collection_withdrawn"


def test_without_any_consent_everything_that_rested_on_it_is_kept_and_asked_about(world: World) -> None:
    session = a_session_to_close(world)
    path, pid = path_of(session), session.json()["participant"]
    person = f"/v1/participants/{pid}"
    visit = world.staff_a.get("/v1/visits", participant=pid).json()["items"][0]["id"]
    before = world.staff_a.get(person)
    told = taken_out(world, pid)
    assert (told["scopes_today"], told["withdrawn_today"], told["reconsent_to"]) == ([], [], [])
    now = world.staff_a.get(person)
    assert [one["code"] for one in now.json()["findings"]] == ["consent_missing"]
    assert now.headers["ETag"] != before.headers["ETag"], "as after a correction of the consent"
    assert [one["code"] for one in world.staff_a.get(f"/v1/visits/{visit}").json()["findings"]] == [
        "visit_without_consent"
    ]
    assert remarks_on_doses(world, path) == ["dose_without_consent DOSE-CONSENT"]
    open_now = asked(world, pid)
    assert open_now >= {"consent_missing", "visit_without_consent", "dose_without_consent"}
    again = give(world, pid)
    assert (again.status_code, [one["number"] for one in again.json()["consents"]]) == (201, [1, 2])
    assert world.staff_a.get(person).json()["findings"] == []
    assert world.staff_a.get(f"/v1/visits/{visit}").json()["findings"] == []
    assert remarks_on_doses(world, path) == []
    assert asked(world, pid) == open_now - {"consent_missing", "visit_without_consent", "dose_without_consent"}


def test_without_any_consent_nothing_new_is_done_with_them_but_events_are_reported(world: World) -> None:
    pid, waiting = world.enrolled(), world.enrolled(enrolled_on=None)
    failed = screen_failed(world)
    visit = prepared(world.staff_a, pid)
    for one in (pid, waiting, failed):
        taken_out(world, one)
    enrolment = {"status": "enrolled", "effective_on": "2025-01-20", "reason": "eligible"}
    screening = {"screened_on": "2025-04-01", "reason": "taper completed", "answers": {}}
    for refused in (
        world.staff_a.post("/v1/visits", world.visit(pid, "UNS", "2025-04-01")),
        world.staff_a.post(f"/v1/participants/{waiting}/status", enrolment),
        world.staff_a.post(f"/v1/participants/{failed}/screenings", screening),
    ):
        assert (refused.status_code, refused.json()["code"]) == (409, "consent_missing")
    assert world.staff_a.post(SESSIONS, start(visit["id"])).json()["code"] == "dosing_not_allowed"
    assert world.staff_a.post("/v1/adverse-events", world.event(pid)).status_code == 201
    for one in (waiting, failed):
        assert give(world, one).status_code == 201
    assert world.staff_a.post(f"/v1/participants/{waiting}/status", enrolment).status_code == 201
    assert world.staff_a.post(f"/v1/participants/{failed}/screenings", screening).status_code == 201


def test_a_visit_is_asked_about_whose_scope_stood_on_the_voided_form_alone(world: World) -> None:
    pid = under_amendment(world)
    held(world, pid, "BL", "2025-01-25")
    assert give(world, pid, version="2", given_on="2025-06-01", scopes=["long_follow_up", "main"]).status_code == 201
    held(world, pid, "FU7M", "2025-08-26")
    taken_out(world, pid, "2")
    found = world.staff_a.get("/v1/visits", participant=pid).json()["items"]
    told = {one["visit_code"]: [finding["code"] for finding in one["findings"]] for one in found}
    assert told == {"BL": [], "FU7M": ["visit_without_consent"]}
    assert "visit_without_consent" in asked(world, pid)


def test_an_event_is_held_against_the_first_consent_that_counts(world: World) -> None:
    pid = under_amendment(world)
    assert give(world, pid, version="2", given_on="2024-12-20").status_code == 201
    event = world.staff_a.post("/v1/adverse-events", world.event(pid, onset="2025-01-01")).headers["Location"]
    assert world.staff_a.get(event).json()["findings"] == []
    taken_out(world, pid, "2")
    assert [one["code"] for one in world.staff_a.get(event).json()["findings"]] == ["onset_before_consent"]
    assert world.staff_a.get(f"/v1/participants/{pid}").json()["findings"] == []


def test_a_form_of_the_same_day_is_recorded_anew_under_the_next_number(world: World) -> None:
    pid = world.enrolled()
    assert give(world, pid).json()["code"] == "consent_already_recorded"
    taken_out(world, pid)
    told = give(world, pid, scopes=["main"]).json()
    assert [(one["number"], one["voided_at"] is None) for one in told["consents"]] == [(1, False), (2, True)]
    assert told["scopes_today"] == ["main"]
    right = {"version": "1", "number": 2, "scopes": SHARED}
    assert corrected(world, f"/v1/participants/{pid}", consent=right).status_code == 200
    assert taken_out(world, pid, "1", 2)["scopes_today"] == []


def test_a_signed_record_is_broken_and_the_voided_form_is_no_part_of_the_next(world: World) -> None:
    pid = under_amendment(world)
    before = signed_record(world, pid)
    assert give(world, pid, version="2", given_on="2025-06-01").status_code == 201
    meanwhile = signed_record(world, pid)
    taken_out(world, pid, "2")
    assert (state(world, before), state(world, meanwhile)) == ("valid", "broken")


def test_the_trail_and_the_feed_tell_of_it_and_keep_what_was_said(world: World) -> None:
    pid = under_amendment(world)
    assert give(world, pid, version="2", given_on="2025-06-01").status_code == 201
    _, place = feed(world.staff_a)
    taken_out(world, pid, "2")
    [change], _ = feed(world.staff_a, place)
    name = f"{pid.replace('-', '')}/2"
    assert (change["action"], change["subject_type"], change["subject_id"]) == ("consent:voided", "consent", name)
    told = rows(world.monitor, action="consent:voided", participant=pid)
    assert {one["field"] for one in told} == {"voided_at", "voided_by", "voiding_reason"}
    assert {one["reason"] for one in told} == {WHY["reason"]}
    assert rows(world.monitor, action="consent:recorded", subject_id=f"{pid}/2") != []


def test_an_act_of_voiding_is_carried_by_sync(world: World) -> None:
    pid = under_amendment(world)
    assert give(world, pid, version="2", given_on="2025-06-01", scopes=["main"]).status_code == 201
    seen = world.staff_a.get(f"/v1/participants/{pid}").headers["ETag"]
    one = {**act(f"/v1/participants/{pid}/consents/2/1/voiding", WHY), "if_match": seen}
    assert sync(world.staff_a, one)[one["id"]]["result"] == "created"
    assert consents(world, pid)["scopes_today"] == SHARED


def test_of_two_who_void_it_at_once_one_does(world: World) -> None:
    pid = world.enrolled()
    with ThreadPoolExecutor(2) as both:
        told = sorted(answer.status_code for answer in both.map(lambda _: take_out(world, pid), range(2)))
    assert told == [201, 409]


def test_a_pass_takes_up_a_visit_that_was_not_judged_by_its_consent_yet(world: World) -> None:
    pid = world.enrolled()
    held(world, pid, "BL", "2025-01-25")
    with patch("app.services.assessments.visit_findings.judged_again", lambda *_: rule_queries.NOTHING):
        taken_out(world, pid)
    assert "visit_without_consent" not in asked(world, pid)
    rules_over_time.refresh(world.registry.served)
    assert "visit_without_consent" in asked(world, pid)
