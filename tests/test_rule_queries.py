"""Data queries that rules raise and close: one for each reason on each record, whatever is retried."""

from datetime import date, timedelta
from typing import Any
from unittest.mock import patch
from uuid import UUID

import pytest
from sqlalchemy import select
from sqlmodel import col

from app.database import within
from app.models.adverse_event import AdverseEvent
from app.models.base import now
from app.models.data_query import DataQuery, QueryState
from app.services.quality import rules_over_time
from app.services.quality.rule_queries import NOTHING
from tests.dosing_cases import a_session, path_of, vitals
from tests.hot_requests import statements
from tests.monitor_cases import a_serious_event, an_event
from tests.world import Caller, World, madrs


def queries(world: World, **filters: Any) -> list[dict[str, Any]]:
    answer = world.monitor.get("/v1/data-queries", origin="rule", limit=500, **filters)
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def messages(world: World, query: dict[str, Any]) -> list[str]:
    return [message["kind"] for message in world.monitor.get(f"/v1/data-queries/{query['id']}").json()["messages"]]


def amended(world: World, path: str, **change: Any) -> None:
    tag = world.staff_a.get(path).headers["ETag"]
    answer = world.staff_a.patch(path, {"reason": "read in the source", **change}, tag)
    assert answer.status_code == 200, answer.text


def unknown_onset(world: World) -> str:
    answer = world.staff_a.post("/v1/adverse-events", world.event(world.enrolled(), onset=None))
    path: str = answer.headers["Location"]
    return path


def refresh_site(world: World, today: date | None = None, site: str = "A") -> int:
    site_id = world.site_ids[site]
    with world.registry.served.write() as session, within(session, [site_id]):
        return rules_over_time.refresh_site(session, site_id, today or now().date())


def test_a_finding_raises_one_query_that_closes_when_it_is_corrected_and_opens_when_it_comes_back(
    world: World,
) -> None:
    path = unknown_onset(world)
    [query] = queries(world)
    assert (query["rule"], query["field"], query["subject"]) == ("onset_missing", "/onset", path.rpartition("/")[2])
    assert (query["state"], query["rule_holds"], query["opened_by"]) == ("open", True, None)
    amended(world, path, severity="moderate")
    assert queries(world) == [query]
    amended(world, path, onset="2025-02-03")
    amended(world, path, onset=None)
    [again] = queries(world)
    assert (again["id"], again["state"], again["rule_holds"]) == (query["id"], "open", True)
    assert again["open_since"] > query["open_since"]
    assert messages(world, again) == ["opened", "closed", "reopened"]


def test_findings_of_visits_and_participants_raise_queries_too(world: World) -> None:
    pid = world.enrolled(consent={"version": "1", "given_on": None, "scopes": ["main"]})
    world.staff_a.post("/v1/visits", world.visit(pid, "DOS1", "2025-02-01"))
    late = world.visit(pid, "INT1A", "2025-02-11", deviation_reason="The participant travelled")
    assert world.staff_a.post("/v1/visits", late).status_code == 201
    found = {(query["rule"], query["subject_type"], query["field"]) for query in queries(world)}
    assert ("consent_date_missing", "participant", "/consent/given_on") in found
    assert ("visit_outside_window", "visit", "/occurred_on") in found


@pytest.mark.parametrize(
    ("given_on", "code"), [(None, "consent_date_missing"), ("2025-01-21", "consent_after_enrolment")]
)
def test_a_doubtful_day_of_consent_is_asked_about_until_it_is_corrected(
    world: World, given_on: str | None, code: str
) -> None:
    consent = {"version": "1", "given_on": given_on, "scopes": ["main"]}
    person = world.staff_a.post("/v1/participants", world.enrolment(consent=consent))
    assert [one["code"] for one in person.json()["findings"]] == [code]
    [query] = queries(world, rule=code)
    assert (query["state"], query["field"]) == ("open", "/consent/given_on")
    body = {"consent": {"version": "1", "given_on": "2025-01-20"}, "reason": "found on the paper form"}
    corrected = world.staff_a.patch(person.headers["Location"], body, person.headers["ETag"])
    assert (corrected.status_code, corrected.json()["findings"], corrected.json()["version"]) == (200, [], 2)
    assert [one["state"] for one in queries(world, rule=code)] == ["closed"]
    read = world.monitor.get(f"{person.headers['Location']}/consents").json()
    (one,) = read["consents"]
    assert (one["version"], one["number"], one["given_on"], one["scopes"]) == ("1", 1, "2025-01-20", ["main"])


def test_an_unlikely_vital_sign_raises_a_query_that_a_correction_closes(world: World) -> None:
    session = a_session(world)
    entered = world.staff_a.post(path_of(session, "/vitals"), vitals("M60", "10:15", SYSBP=175, DIABP=100))
    [query] = queries(world, subject_type="dosing_session")
    reading = next(one for one in entered.json()["vitals"] if one["timepoint"] == "M60")
    about = session.json()["id"], f"/vitals/{reading['id']}/values/SYSBP"
    assert (query["subject"], query["field"]) == about, "of many readings, which one and what of it"
    refresh_site(world, date(2025, 3, 4))
    assert queries(world, subject_type="dosing_session") == [query]
    change = {"reason": "typed wrongly", "values": {**reading["values"], "SYSBP": 145}}
    path = path_of(session, f"/vitals/{reading['id']}")
    assert world.staff_a.patch(path, change, entered.headers["ETag"]).status_code == 200
    [closed] = queries(world, subject_type="dosing_session")
    assert (closed["id"], closed["state"]) == (query["id"], "closed")
    asked = {"subject_type": "dosing_session", "subject": session.json()["id"], "field": "/vitals/0"}
    question = {"participant": session.json()["participant"], **asked, "text": "Which cuff?"}
    assert world.monitor.post("/v1/data-queries", question).status_code == 201


def test_a_retried_report_raises_nothing_twice(world: World) -> None:
    body = world.event(world.enrolled(), onset=None)
    for _ in range(3):
        assert world.staff_a.post("/v1/adverse-events", body, f"same-{body['participant']}").status_code == 201
    assert len(queries(world)) == 1


def test_what_a_monitor_settled_stays_settled_while_the_reason_stands(world: World) -> None:
    path = unknown_onset(world)
    [query] = queries(world)
    of_query = f"/v1/data-queries/{query['id']}"
    assert world.staff_a.post(f"{of_query}/answers", {"text": "Nobody knows"}).status_code == 201
    closed = world.monitor.post(f"{of_query}/closure", {"decision": "close", "reason": "accepted"})
    assert closed.json()["state"] == "closed"
    amended(world, path, severity="severe")
    assert refresh_site(world) == 0
    assert queries(world)[0]["state"] == "closed"
    amended(world, path, onset="2025-02-03")
    amended(world, path, onset=None)
    assert queries(world)[0]["state"] == "open"
    cancelled = world.monitor.post(f"{of_query}/closure", {"decision": "cancel", "reason": "no question"})
    assert cancelled.json()["state"] == "cancelled"
    amended(world, path, onset="2025-02-03")
    amended(world, path, onset=None)
    assert queries(world)[0]["state"] == "cancelled"


def test_a_refused_write_raises_nothing(world: World) -> None:
    path = unknown_onset(world)
    before = queries(world)
    assert world.staff_a.patch(path, {"reason": "typed", "onset": "2025-02-03"}, '"stale"').status_code == 412
    assert queries(world) == before


def test_time_raises_queries_about_missing_visits_and_instruments_once(world: World) -> None:
    pid = world.enrolled()
    world.staff_a.post("/v1/visits", world.visit(pid, outcomes=[madrs(2)]))
    day = date(2027, 1, 1)
    assert refresh_site(world, day) > 0
    raised = queries(world, participant=pid)
    rules = {query["rule"] for query in raised}
    assert rules >= {"visit_overdue", "instrument_missing"}
    overdue = [query for query in raised if query["rule"] == "visit_overdue"]
    assert all(query["subject_type"] == "missing_visit" and query["subject"] is None for query in overdue)
    assert refresh_site(world, day) == 0
    assert len({query["id"] for query in queries(world, participant=pid)}) == len(raised)
    left = {"status": "withdrawn", "effective_on": "2025-01-26", "reason": "moved away"}
    assert world.staff_a.post(f"/v1/participants/{pid}/status", left).status_code == 201
    refresh_site(world, day)
    still = queries(world, participant=pid, rule="visit_overdue", state="open")
    assert [query["visit_code"] for query in still] == ["SCR"]  # its window was over before the participant left


def test_no_query_is_raised_about_the_long_follow_up_after_the_withdrawal_of_contact(world: World) -> None:
    scopes = ["data_sharing", "long_follow_up", "main"]
    pid = world.enrolled(consent={"version": "1", "given_on": "2025-01-02", "scopes": scopes})
    world.staff_a.post("/v1/visits", world.visit(pid))
    refresh_site(world, date(2027, 1, 1))
    assert "FU7M" in {query["visit_code"] for query in queries(world, participant=pid, state="open")}
    back = {"scope": "contact", "effective_on": "2025-02-01", "reason": "told us by telephone"}
    assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals", back).status_code == 201
    refresh_site(world, date(2027, 1, 1))
    assert "FU7M" not in {query["visit_code"] for query in queries(world, participant=pid, state="open")}
    mistaken = {"reason": "somebody else told us"}
    assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals/1/voiding", mistaken).status_code == 201
    refresh_site(world, date(2027, 1, 1))
    assert "FU7M" in {query["visit_code"] for query in queries(world, participant=pid, state="open")}


def test_a_pass_asks_who_rated_where_the_protocol_wants_independent_raters(world: World) -> None:
    pid = world.enrolled()
    told = {"instrument": "CSSRS_SLV", "items": {}}  # which the protocol leaves to anybody
    visit = world.staff_a.post("/v1/visits", world.visit(pid, outcomes=[madrs(2), told])).json()
    world.staff_a.post("/v1/visits", world.visit(pid, "PRIM", "2025-05-20", outcomes=[{**madrs(2), "rater": "T01"}]))
    refresh_site(world)
    [query] = queries(world, rule="rater_missing")
    rated = next(outcome["id"] for outcome in visit["outcomes"] if outcome["instrument"] == "MADRS")
    assert (query["subject"], query["subject_type"], query["field"]) == (rated, "outcome", "/rater")
    amended(world, f"/v1/outcomes/{rated}", rater="T09")
    refresh_site(world)
    assert [query["state"] for query in queries(world, rule="rater_missing")] == ["closed"]


def test_nobody_is_asked_about_visits_that_the_withdrawal_forbids(world: World) -> None:
    pid = world.enrolled()
    for code, on in (("BL", "2025-02-01"), ("DOS1", "2025-03-03")):
        assert world.staff_a.post("/v1/visits", world.visit(pid, code, on)).status_code == 201
    back = {"scope": "collection", "effective_on": "2025-03-04", "reason": "told us by telephone"}
    assert world.staff_a.post(f"/v1/participants/{pid}/withdrawals", back).status_code == 201
    refresh_site(world, date(2027, 1, 1))
    asked = {query["visit_code"] for query in queries(world, participant=pid, rule="visit_overdue")}
    assert asked == {"SCR", "PREP1", "PREP2", "PREP3"}


def test_an_ongoing_event_that_nobody_touches_is_asked_about_until_somebody_does(world: World) -> None:
    path = an_event(world, "A").headers["Location"]
    refresh_site(world)
    assert queries(world, rule="ongoing_event_stale") == []
    with patch("app.services.quality.rules_over_time.now", lambda: now() + timedelta(days=91)):
        refresh_site(world)
    assert [query["state"] for query in queries(world, rule="ongoing_event_stale")] == ["open"]
    amended(world, path, severity="moderate")
    refresh_site(world)
    assert [query["state"] for query in queries(world, rule="ongoing_event_stale")] == ["closed"]


def test_an_ongoing_event_is_asked_about_again_long_after_an_answer_was_accepted(world: World) -> None:
    an_event(world, "A")

    def state_after(days: int, *acts: tuple[Caller, str, dict[str, str]]) -> str:
        later = now() + timedelta(days=days)
        with (
            patch("app.services.quality.rules_over_time.now", lambda: later),
            patch("app.services.quality.query_steps.now", lambda: later),
        ):
            refresh_site(world)
            for caller, step, body in acts:
                [query] = queries(world, rule="ongoing_event_stale")
                assert caller.post(f"/v1/data-queries/{query['id']}/{step}", body).status_code == 201
        [query] = queries(world, rule="ongoing_event_stale")
        return str(query["state"])

    answer, closed = {"text": "Seen today, and it goes on"}, {"decision": "close", "reason": "confirmed"}
    assert state_after(91, (world.staff_a, "answers", answer)) == "answered"
    assert state_after(92) == "answered"  # for the monitor to look at
    assert state_after(93, (world.monitor, "closure", closed)) == "closed"
    assert [state_after(days) for days in (94, 182, 184)] == ["closed", "closed", "open"]


def test_an_ongoing_event_is_followed_up_by_a_report_too(world: World) -> None:
    event = a_serious_event(world, "A")
    with world.registry.database.write() as session:
        key = world.site_ids["A"], UUID(event.json()["id"])
        session.get_one(AdverseEvent, key).updated_at = now() - timedelta(days=91)
    refresh_site(world)
    assert [query["state"] for query in queries(world, rule="ongoing_event_stale")] == ["open"]
    assert world.staff_a.post(f"{event.headers['Location']}/reports", {"kind": "initial"}).status_code == 201
    refresh_site(world)
    assert [query["state"] for query in queries(world, rule="ongoing_event_stale")] == ["closed"]


def test_a_pass_takes_up_findings_from_before_there_were_queries(world: World) -> None:
    unknown_onset(world)
    [query] = queries(world)
    forget(world)
    assert refresh_site(world) == 1
    [raised] = queries(world, state="open")
    assert (raised["rule"], raised["subject"]) == ("onset_missing", query["subject"])
    assert raised["id"] != query["id"]


def forget(world: World) -> None:
    """As if no query had been raised: those that are there lose their keys and are closed."""
    mine = col(DataQuery.site_id) == world.site_ids["A"]
    with world.registry.database.write() as session:
        for row in session.execute(select(DataQuery).where(mine)).scalars():
            row.rule_key, row.rule_holds = f"forgotten:{row.id}", False
            row.state, row.closed_at = QueryState.closed, now()


def test_a_pass_raises_many_queries_in_as_many_statements_as_one(world: World) -> None:
    def made() -> int:
        asked: list[str] = []
        with statements(world.registry.served, lambda _cursor, text, _given: asked.append(text)):
            assert refresh_site(world, date(2027, 1, 1)) > 0
        return len(asked)

    world.staff_a.post("/v1/visits", world.visit(world.enrolled()))
    of_one = made()
    for _ in range(3):
        world.staff_a.post("/v1/visits", world.visit(world.enrolled()))
    assert made() == of_one


def test_a_pass_judges_a_visit_that_was_recorded_at_the_same_moment_as_its_anchor(world: World) -> None:
    pid = world.enrolled()
    visit = world.staff_a.post("/v1/visits", world.visit(pid, "INT1A", "2025-03-10")).json()
    with patch(
        "app.services.assessments.visit_findings.judged_again", lambda *_: NOTHING
    ):  # neither has seen the other
        world.staff_a.post("/v1/visits", world.visit(pid, "DOS1", "2025-03-03"))
    assert world.staff_a.get(f"/v1/visits/{visit['id']}").json()["findings"] == visit["findings"]
    rules_over_time.refresh(world.registry.served)
    [finding] = world.staff_a.get(f"/v1/visits/{visit['id']}").json()["findings"]
    assert finding["message"] == "4 day(s) after the window"
    assert [query["state"] for query in queries(world, subject=visit["id"], rule="visit_outside_window")] == ["open"]


@pytest.mark.parametrize("site", ["A", "B"])
def test_a_pass_over_everything_reaches_each_site(world: World, site: str) -> None:
    pid = world.enrolled(site)
    staff = world.staff_a if site == "A" else world.staff_b
    staff.post("/v1/visits", world.visit(pid))
    rules_over_time.refresh(world.registry.served)
    assert "visit_overdue" in {query["rule"] for query in queries(world, participant=pid)}
