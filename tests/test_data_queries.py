"""Data queries: asked by monitors, answered by sites, closed by monitors; and what nobody may do."""

from datetime import timedelta
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from sqlalchemy.exc import DatabaseError
from sqlmodel import text

from app.models.base import now
from tests.course_cases import TREATMENT, under_amendment, withdrawn
from tests.dosing_cases import a_session, path_of, vitals
from tests.monitor_cases import a_question, an_event, question_about
from tests.route_cases import an_outcome
from tests.test_adverse_events import CODED
from tests.voided_cases import void
from tests.world import Caller, World, madrs

REASON = "as agreed with the site"
ACTS = ("answer", "close", "reopen", "cancel")
REACHED: dict[str, tuple[str, ...]] = {
    "open": (),
    "answered": ("answer",),
    "closed": ("answer", "close"),
    "cancelled": ("cancel",),
}
"""How a query comes into each state."""

LEADS = {
    ("open", "answer"): "answered",
    ("open", "cancel"): "cancelled",
    ("answered", "close"): "closed",
    ("answered", "reopen"): "open",
    ("answered", "cancel"): "cancelled",
    ("closed", "reopen"): "open",
}
"""Written by hand, apart from QUERY_TRANSITIONS: the two must agree."""


def act(caller: Caller, path: str, action: str, key: str | None = None) -> Any:
    if action == "answer":
        return caller.post(f"{path}/answers", {"text": "The source says so"}, key)
    return caller.post(f"{path}/closure", {"decision": action, "reason": REASON}, key)


def reached(world: World, state: str) -> str:
    path = a_question(world, "A")
    for action in REACHED[state]:
        act(world.staff_a if action == "answer" else world.monitor, path, action)
    assert world.monitor.get(path).json()["state"] == state
    return path


@pytest.mark.by_turns
@pytest.mark.parametrize("state", REACHED)
def test_every_role_moves_a_query_only_as_the_lifecycle_says(world: World, state: str) -> None:
    callers = {"staff": world.staff_a, "investigator": world.investigator, "monitor": world.monitor}
    for action in ACTS:
        for role, caller in callers.items():
            path = reached(world, state)
            answer = act(caller, path, action)
            after = world.monitor.get(path).json()["state"]
            if (role == "monitor") == (action == "answer"):
                assert (answer.status_code, answer.json()["code"], after) == (403, "permission_missing", state)
            elif (state, action) in LEADS:
                assert (answer.status_code, answer.json()["state"], after) == (201, *[LEADS[state, action]] * 2)
            else:
                problem = answer.json()
                assert (answer.status_code, problem["code"], after) == (409, "query_transition_impossible", state)
                assert (problem["state"], problem["action"]) == (state, action)


def test_messages_of_a_query_are_kept_in_order_with_their_authors(world: World) -> None:
    path = a_question(world, "A")
    for caller, action in (
        (world.staff_a, "answer"),
        (world.monitor, "reopen"),
        (world.staff_a, "answer"),
        (world.monitor, "close"),
    ):
        assert act(caller, path, action).status_code == 201
    read = world.staff_a.get(path).json()
    said = [(message["number"], message["kind"]) for message in read["messages"]]
    assert said == [(1, "opened"), (2, "answered"), (3, "reopened"), (4, "answered"), (5, "closed")]
    assert {message["author_name"] for message in read["messages"]} == {"Somebody"}
    assert (read["state"], read["version"]) == ("closed", 5)
    assert read["closed_at"] is not None


@pytest.mark.parametrize("action", ["answer", "cancel"])
def test_a_retried_step_is_taken_once_with_the_same_answer(world: World, action: str) -> None:
    path, key = a_question(world, "A"), str(uuid4())
    caller = world.staff_a if action == "answer" else world.monitor
    first, second = act(caller, path, action, key), act(caller, path, action, key)
    assert (first.status_code, second.status_code, first.json()) == (201, 201, second.json())
    assert second.headers["Idempotent-Replayed"] == "true"
    assert len(world.monitor.get(path).json()["messages"]) == 2


def test_a_query_can_be_about_every_kind_of_record_and_a_missing_visit(world: World) -> None:
    outcome = an_outcome(world, "A").json()
    visit = {"subject_type": "visit", "subject": outcome["visit"], "field": "/occurred_on"}
    about = {
        "participant": {"subject_type": "participant", "field": "/consent/given_on"},
        "visit": visit,
        "outcome": {"subject_type": "outcome", "subject": outcome["id"], "field": "/items/MADRS_10"},
        "missing_visit": {"subject_type": "missing_visit", "visit_code": "DOS1", "occurrence": 1},
    }
    for kind, subject in about.items():
        body = {"participant": outcome["participant"], "text": "Please check", **subject}
        answer = world.monitor.post("/v1/data-queries", body)
        assert (answer.status_code, answer.json()["subject_type"]) == (201, kind), answer.text
    listed = world.staff_a.get("/v1/data-queries", participant=outcome["participant"], origin="monitor").json()
    assert {item["subject_type"] for item in listed["items"]} == set(about)


def test_a_query_can_be_about_an_item_of_a_participants_own_lists(world: World) -> None:
    pid = withdrawn(world, "A")
    treatment = world.staff_a.post(f"/v1/participants/{pid}/treatments", TREATMENT).json()
    asked = {"participant": pid, "subject_type": "participant", "text": "Please check"}
    for field in ("consents/0/given_on", "screenings/0", "treatments/0/atc", "withdrawals/0/effective_on"):
        there = world.monitor.post("/v1/data-queries", {**asked, "field": f"/{field}"})
        kept = f"/{field}".replace("treatments/0", f"treatments/{treatment['id']}").replace(
            "consents/0", "consents/1.1"
        )
        assert (there.status_code, there.json()["field"]) == (201, kept), there.text
        missing = world.monitor.post("/v1/data-queries", {**asked, "field": f"/{field.replace('0', '7')}"})
        assert (missing.status_code, missing.json()["code"]) == (422, "field_unknown")


def test_a_query_about_a_consent_stays_with_it_when_an_earlier_consent_is_added(world: World) -> None:
    pid = under_amendment(world)
    asked = {"participant": pid, "subject_type": "participant", "text": "The source says May"}
    form = {"version": "2", "given_on": "2025-06-01", "scopes": ["main"], "reason": "after the amendment"}
    recorded = world.staff_a.post(f"/v1/participants/{pid}/consents", form).json()["consents"]
    assert [one["version"] for one in recorded] == ["1", "2"]
    for field in ("/consents/1/given_on", "/consents/2.1/given_on"):
        question = world.monitor.post("/v1/data-queries", {**asked, "field": field})
        assert question.json()["field"] == "/consents/2.1/given_on"
    seen = world.staff_a.get(f"/v1/participants/{pid}").headers["ETag"]
    assert void(world.staff_a, f"/v1/participants/{pid}/consents/1/1", seen).status_code == 201
    anew = {**form, "version": "1", "given_on": "2024-12-01"}
    assert world.staff_a.post(f"/v1/participants/{pid}/consents", anew).status_code == 201
    for field, kept in (("/consents/0", "/consents/1.2"), ("/consents/2", "/consents/2.1"), ("/consents/1.2", None)):
        answer = world.monitor.post("/v1/data-queries", {**asked, "field": field})
        assert answer.json()["field"] == (kept or field)
    assert world.monitor.get(question.headers["Location"]).json()["field"] == "/consents/2.1/given_on"
    unknown = world.monitor.post("/v1/data-queries", {**asked, "field": "/consents/3.1"})
    assert unknown.json()["code"] == "field_unknown"


def test_a_query_about_a_reading_stays_with_it_when_an_earlier_reading_is_added(world: World) -> None:
    session = a_session(world)
    path, body = path_of(session), session.json()
    read = world.staff_a.post(f"{path}/vitals", vitals("M60", "10:15")).json()
    place, reading = next((place, one) for place, one in enumerate(read["vitals"]) if one["timepoint"] == "M60")
    asked = {"participant": body["participant"], "subject_type": "dosing_session", "subject": body["id"]}
    kept = f"/vitals/{reading['id']}/values/SYSBP"
    for field in (
        f"/vitals/{place}/values/SYSBP",
        kept,
        kept.upper().replace("VITALS", "vitals").replace("VALUES", "values"),
    ):
        question = {**asked, "field": field, "text": "The source says 150"}
        assert world.monitor.post("/v1/data-queries", question).json()["field"] == kept
    earlier = world.staff_a.post(f"{path}/vitals", vitals(None, "09:45")).json()
    assert earlier["vitals"][place]["id"] != reading["id"]
    many = world.monitor.post(
        "/v1/data-queries/bulk", [{**asked, "field": f"/vitals/{place + 1}", "text": "Which cuff?"}]
    )
    assert [one["field"] for one in many.json()["items"]] == [f"/vitals/{reading['id']}"]
    other = {**asked, "field": f"/vitals/{uuid4()}/values", "text": "Which cuff?"}
    assert world.monitor.post("/v1/data-queries", other).json()["code"] == "field_unknown"


def test_a_query_can_be_about_every_field_of_a_records_own_route_but_not_about_the_outcomes_of_a_visit(
    world: World,
) -> None:
    therapy = {"minutes": 60, "mode": "video", "staff": ["T01"]}
    pid = world.enrolled()
    body = world.visit(pid, "PREP1", "2025-02-03", therapy=therapy, deviation_reason="Snow", outcomes=[madrs(1)])
    visit = world.staff_a.post("/v1/visits", body).json()
    asked = {"participant": pid, "subject_type": "visit", "subject": visit["id"], "text": "Please check"}
    for field in ("/therapy/minutes", "/therapy/staff/0", "/window", "/deviation_days"):
        there = world.monitor.post("/v1/data-queries", {**asked, "field": field})
        assert (there.status_code, there.json().get("field")) == (201, field), there.text
    for field in ("/outcomes", "/outcomes/0/items/MADRS_01", "/therapy/nothing"):
        answer = world.monitor.post("/v1/data-queries", {**asked, "field": field})
        assert (answer.status_code, answer.json()["code"]) == (422, "field_unknown")
        assert "a record of its own" in answer.json()["errors"][0]["message"]
    event = world.staff_a.post("/v1/adverse-events", world.event(pid, codings=CODED)).json()
    for field in ("/days_since_last_dose", "/codings/0/term"):
        there = world.monitor.post("/v1/data-queries", question_about(event, field=field))
        assert (there.status_code, there.json().get("field")) == (201, field), there.text


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"subject": str(uuid4())}, 404, "not_found"),
        ({"subject_type": "visit"}, 404, "not_found"),
        ({"field": "/no_such_field"}, 422, "field_unknown"),
        ({"field": "/criteria/no_such"}, 422, "field_unknown"),
        ({"field": "/version"}, 422, "field_unknown"),
        ({"subject": None}, 422, "validation_failed"),
        ({"visit_code": "BL", "occurrence": 1}, 422, "validation_failed"),
        ({"subject_type": "missing_visit", "subject": None, "field": None, "visit_code": "BL"}, 422, None),
        (
            {"subject_type": "missing_visit", "subject": None, "field": None, "visit_code": "NONE", "occurrence": 1},
            422,
            "visit_unknown",
        ),
    ],
)
def test_a_query_about_an_unknown_subject_or_field_is_refused(
    world: World, changes: dict[str, Any], status: int, code: str | None
) -> None:
    answer = world.monitor.post("/v1/data-queries", question_about(an_event(world, "A").json(), **changes))
    assert answer.status_code == status, answer.text
    assert code in (None, answer.json()["code"])


def test_a_record_of_another_participant_and_a_visit_that_is_there_are_refused(world: World) -> None:
    event, other = an_event(world, "A").json(), world.enrolled()
    assert world.monitor.post("/v1/data-queries", question_about(event, participant=other)).status_code == 404
    world.staff_a.post("/v1/visits", world.visit(other))
    body = {"participant": other, "subject_type": "missing_visit", "visit_code": "BL", "occurrence": 1, "text": "?"}
    refused = world.monitor.post("/v1/data-queries", body)
    assert (refused.status_code, refused.json()["code"]) == (409, "visit_not_missing")


def test_many_queries_are_raised_all_or_none_with_each_fault_at_its_place(world: World) -> None:
    events = [an_event(world, site).json() for site in ("A", "B", "A")]
    asked = [question_about(event) for event in events]
    spoilt = [asked[0], {**asked[1], "field": "/no_such"}, {**asked[2], "field": "/criteria/x"}]
    refused = world.monitor.post("/v1/data-queries/bulk", spoilt)
    assert (refused.status_code, refused.json()["code"]) == (422, "data_queries_refused")
    assert [fault["pointer"] for fault in refused.json()["errors"]] == ["/1/field", "/2/field"]
    malformed = world.monitor.post("/v1/data-queries/bulk", [asked[0], {**asked[1], "text": ""}])
    assert [fault["pointer"] for fault in malformed.json()["errors"]] == ["/1/text"]
    foreign = world.monitor_a.post("/v1/data-queries/bulk", asked)
    assert (foreign.status_code, [fault["pointer"] for fault in foreign.json()["errors"]]) == (404, ["/1"])
    assert world.monitor.get("/v1/data-queries", origin="monitor").json()["items"] == []
    key = str(uuid4())
    for _ in range(2):
        raised = world.monitor.post("/v1/data-queries/bulk", asked, key)
        assert [item["site"] for item in raised.json()["items"]] == ["A", "B", "A"]
    assert len(world.monitor.get("/v1/data-queries", origin="monitor").json()["items"]) == 3
    assert world.monitor.post("/v1/data-queries/bulk", asked[:1] * 201).status_code == 422
    assert world.monitor.post("/v1/data-queries/bulk", []).status_code == 422


def test_lists_are_narrowed_by_every_filter_and_paged(world: World) -> None:
    paths = [a_question(world, site) for site in ("A", "A", "B")]
    act(world.staff_a, paths[0], "answer")
    first = world.monitor.get(paths[0]).json()

    def ids(**filters: Any) -> list[str]:
        return [item["id"] for item in world.monitor.get("/v1/data-queries", **filters).json()["items"]]

    assert ids(study=world.study) == [path.rpartition("/")[2] for path in reversed(paths)]
    assert ids(site="B") == [paths[2].rpartition("/")[2]]
    for name, value in {
        "state": "answered",
        "participant": first["participant"],
        "subject": first["subject"],
    }.items():
        assert ids(**{name: value}) == [first["id"]], name
    assert ids(rule="onset_missing") == ids(origin="rule") == ids(subject_type="visit") == []
    page = world.monitor.get("/v1/data-queries", limit=2).json()
    assert len(page["items"]) == 2
    assert len(ids(limit=2, cursor=page["next"])) == 1


def test_unsettled_queries_are_found_by_their_age(world: World) -> None:
    with patch("app.models.base.now", lambda: now() - timedelta(days=10)):
        path = a_question(world, "A")
    assert len(world.monitor.get("/v1/data-queries", older_than_days=0).json()["items"]) == 1
    with patch("app.routers.data_queries.now", lambda: now() + timedelta(days=8)):
        for days, number in ((7, 1), (9, 0)):
            assert len(world.monitor.get("/v1/data-queries", older_than_days=days).json()["items"]) == number
        act(world.monitor, path, "cancel")
        assert world.monitor.get("/v1/data-queries", older_than_days=7).json()["items"] == []


def test_the_trail_has_every_step_of_a_query(world: World) -> None:
    path = a_question(world, "A", answered=True)
    act(world.monitor, path, "close")
    entries = world.monitor.get("/v1/audit-entries", subject_id=path.rpartition("/")[2]).json()["items"]
    assert {entry["action"] for entry in entries} >= {
        "data-query:opened",
        "data-query:answered",
        "data-query:closed",
    }
    pid = world.monitor.get(path).json()["participant"]
    of_person = world.monitor.get("/v1/audit-entries", participant=pid).json()["items"]
    assert {entry["seq"] for entry in entries} <= {entry["seq"] for entry in of_person}


@pytest.mark.parametrize("attack", ["UPDATE data_query_message SET text = 'x'", "DELETE FROM data_query_message"])
def test_messages_of_a_query_cannot_be_changed_by_sql(world: World, attack: str) -> None:
    a_question(world, "A")
    with pytest.raises(DatabaseError), world.registry.database.write() as session:
        session.execute(text(attack))
