"""Acknowledged means stored: a database that fails anywhere in a write gives no 2xx and leaves no half."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response

from app.models.account import Role
from app.models.base import now
from tests.account_cases import new_user
from tests.dosing_cases import SESSIONS, SIGNALS, a_session, path_of, suicidal, vitals
from tests.hostile import census, failing_commit, failing_statement, grown
from tests.monitor_cases import an_event, question_about, shown
from tests.outbox_cases import a_subscription
from tests.ready import made_ready
from tests.route_cases import RESERVATIONS, Route, an_outcome
from tests.test_permissions import MATRIX, caller_of
from tests.voided_cases import RECORDS
from tests.world import Caller, Registry, World
from tests.writing_routes import writing_routes

Send = Callable[[], Response]
KNOWN_HERE = {"throttle": 1}
"""The address from which somebody proved who they are, as one that the account uses."""

SCORED, TOLD, ASKED = (
    {"outcome": 1, "outcome_score": 1},
    {"safety_signal": 1, "notification": 1},
    {"data_query": 1, "data_query_message": 1},
)
PERSON, SESSION, EVENT = "/v1/participants/{pid}", f"{SESSIONS}/{{session_id}}", "/v1/adverse-events/{event_id}"
USER, CLIENT, SUBSCRIPTION = "/v1/users/{user_id}", "/v1/clients/{client_id}", "/v1/subscriptions/{subscription_id}"

_TAKEN_ALONG = {
    "/v1/visits/{visit_id}/voiding": {"audit_entry": 2},
    f"{PERSON}/voiding": {"audit_entry": 4, "vault_identity": -1},
    f"{PERSON}/screenings/{{number}}/voiding": {"audit_entry": 2},
}
ONCE: Mapping[Route, dict[str, int]] = {
    ("POST", "/v1/participants"): {
        "participant": 1,
        "vault_identity": 1,
        "consent": 1,
        "screening": 1,
        "audit_entry": 3,
    },
    ("POST", f"{PERSON}/status"): {"audit_entry": 1},
    ("POST", f"{PERSON}/protocol-version"): {"audit_entry": 1},
    ("POST", f"{PERSON}/consents"): {"consent": 1, "audit_entry": 1},
    ("POST", f"{PERSON}/withdrawals"): {"withdrawal": 1, "audit_entry": 1},
    ("POST", f"{PERSON}/withdrawals/{{number}}/voiding"): {"audit_entry": 1},
    ("POST", f"{PERSON}/screenings"): {"screening": 1, "audit_entry": 2},
    ("POST", f"{PERSON}/eligibility"): {"audit_entry": 1},
    ("POST", f"{PERSON}/treatments"): {"treatment_trial": 1, "audit_entry": 1},
    ("POST", RESERVATIONS): {"pid_reservation": 1, "reserved_pid": 2, "audit_entry": 1},
    ("POST", f"{RESERVATIONS}/{{reservation_id}}/closure"): {"audit_entry": 1},
    ("POST", "/v1/visits"): {"visit": 1, "audit_entry": 1},
    ("POST", "/v1/visits "): {"visit": 1, **SCORED, **TOLD, "audit_entry": 3},
    ("POST", "/v1/visits  "): {"visit": 1, "therapy_session": 1, "audit_entry": 1},
    ("POST", "/v1/outcomes"): {**SCORED, "audit_entry": 1},
    ("POST", "/v1/outcomes "): {**SCORED, **TOLD, "audit_entry": 2},
    ("POST", "/v1/adverse-events"): {"adverse_event": 1, "audit_entry": 1},
    ("POST", "/v1/adverse-events "): {"adverse_event": 1, "notification": 1, "delivery": 1, "audit_entry": 1},
    ("POST", f"{EVENT}/reports"): {"sae_report": 1, "audit_entry": 1},
    ("POST", f"{EVENT}/reviews"): {"ae_review": 1, "audit_entry": 1},
    ("POST", f"{EVENT}/reviews/{{number}}/withdrawal"): {"ae_review_withdrawal": 1, "audit_entry": 1},
    ("POST", SESSIONS): {"dosing_session": 1, "vital_reading": 1, "audit_entry": 2},
    ("POST", f"{SESSION}/doses"): {"dose": 1, "audit_entry": 1},
    ("POST", f"{SESSION}/vitals"): {"vital_reading": 1, **TOLD, **ASKED, "notification": 2, "audit_entry": 3},
    ("POST", f"{SESSION}/close"): {"audit_entry": 1},
    ("POST", f"{SIGNALS}/{{signal_id}}/review"): {"audit_entry": 1},
    ("POST", "/v1/data-queries"): {**ASKED, "notification": 1, "audit_entry": 1},
    ("POST", "/v1/data-queries/bulk"): {**dict.fromkeys((*ASKED, "notification"), 3), "audit_entry": 3},
    ("POST", "/v1/data-queries/{query_id}/answers"): {"data_query_message": 1, "notification": 1, "audit_entry": 1},
    ("POST", "/v1/data-queries/{query_id}/closure"): {"data_query_message": 1, "audit_entry": 1},
    ("POST", "/v1/locks"): {"data_lock": 1, "audit_entry": 1},
    ("POST", "/v1/locks/{lock_id}/lifting"): {"audit_entry": 1},
    ("POST", "/v1/verifications"): {"verification": 1, "audit_entry": 1},
    ("POST", "/v1/verifications/{verification_id}/withdrawal"): {"verification_withdrawal": 1, "audit_entry": 1},
    # a visit takes its outcome along, a participant consent, screening and label; a screening returns its participant
    **{route: _TAKEN_ALONG.get(route[1], {"audit_entry": 1}) for route in RECORDS},
    ("POST", "/v1/data-cuts"): {"data_cut": 1, "audit_entry": 1},
    ("POST", "/v1/label-disclosures"): {"label_disclosure": 1, "audit_entry": 1},
    ("POST", "/v1/label-disclosures/{disclosure_id}/decision"): {"audit_entry": 1},
    ("POST", "/v1/extracts"): {"extract": 1, "audit_entry": 1},
    ("POST", "/v1/extracts/{extract_id}/approval"): {
        "extract_subject": 1,
        "extract_file": 14,
        "extract_chunk": 14,
        "notification": 1,
        "audit_entry": 2,
    },
    ("POST", "/v1/extracts/{extract_id}/revocation"): {"extract_file": -14, "extract_chunk": -14, "audit_entry": 1},
}
"""Writes that carry an Idempotency-Key, with the rows that each makes beside its idempotency record. Spaces at the end
tell several requests of one route apart."""

OTHER: Mapping[Route, dict[str, int]] = {
    ("PATCH", PERSON): {"audit_entry": 1},
    ("PATCH", f"{PERSON}/treatments/{{treatment_id}}"): {"audit_entry": 1},
    ("PATCH", "/v1/visits/{visit_id}"): {"audit_entry": 1},
    ("PATCH", "/v1/outcomes/{outcome_id}"): {"audit_entry": 1},
    ("PATCH", "/v1/outcomes/{outcome_id} "): {**TOLD, "audit_entry": 2},
    ("PATCH", EVENT): {"audit_entry": 1},
    ("PATCH", SESSION): {"audit_entry": 1},
    ("PATCH", f"{SESSION}/doses/{{dose_id}}"): {"audit_entry": 1},
    ("PATCH", f"{SESSION}/vitals/{{reading_id}}"): {"audit_entry": 1},
    ("POST", "/v1/outcomes/{outcome_id}/rescoring"): {"outcome_score": 3, "audit_entry": 1},
    ("POST", "/v1/signatures"): {"signature": 1, "audit_entry": 1, **KNOWN_HERE},
    ("POST", "/v1/participants/lookup"): {"audit_entry": 1},
    ("POST", "/v1/label-disclosures/{disclosure_id}/reading"): {"audit_entry": 1},
    ("GET", "/v1/extracts/{extract_id}/files/{name}"): {"audit_entry": 1},
    ("POST", "/v1/auth/sessions"): {"refresh_token": 1, "audit_entry": 1, **KNOWN_HERE},
    ("POST", "/v1/auth/token"): {"audit_entry": 1, **KNOWN_HERE},
    ("POST", "/v1/auth/token "): {"refresh_token": 1, "audit_entry": 1},
    ("POST", "/v1/auth/revoke"): {"revocation": 1, "audit_entry": 1},
    ("POST", "/v1/me/password"): {"audit_entry": 1, **KNOWN_HERE},
    ("POST", "/v1/me/totp"): {"totp": 1, "audit_entry": 1, **KNOWN_HERE},
    ("POST", "/v1/me/totp/confirmation"): {"audit_entry": 1},
    ("POST", "/v1/studies"): {"study": 1, "audit_entry": 1},
    ("POST", "/v1/studies/{study}/protocols"): {"protocol_version": 1, "audit_entry": 1},
    ("POST", "/v1/studies/{study}/sites"): {"site": 1, "audit_entry": 1},
    ("POST", "/v1/users"): {"account": 1, "audit_entry": 1},
    ("PATCH", USER): {"audit_entry": 1},
    ("POST", f"{USER}/grants"): {"role_grant": 1, "audit_entry": 1},
    **{
        ("POST", f"{USER}/{below}"): {"audit_entry": 1}
        for below in ("password", "identity", "sessions/revocation", "grants/{grant_id}/revocation")
    },
    ("POST", "/v1/clients"): {"account": 1, "client_secret": 1, "audit_entry": 2},
    ("PATCH", CLIENT): {"audit_entry": 1},
    ("POST", f"{CLIENT}/grants"): {"role_grant": 1, "audit_entry": 1},
    ("POST", f"{CLIENT}/grants/{{grant_id}}/revocation"): {"audit_entry": 1},
    ("POST", f"{CLIENT}/secrets"): {"client_secret": 1, "audit_entry": 2},
    ("POST", f"{CLIENT}/secrets/{{secret_id}}/revocation"): {"audit_entry": 1},
    ("POST", "/v1/subscriptions"): {"subscription": 1, "audit_entry": 1},
    ("PATCH", SUBSCRIPTION): {"audit_entry": 1},
    ("POST", f"{SUBSCRIPTION}/secret"): {"audit_entry": 1},
    ("POST", f"{SUBSCRIPTION}/test"): {"notification": 1, "delivery": 1, "audit_entry": 1},
    ("POST", "/v1/deliveries/{delivery_id}/replay"): {"audit_entry": 1},
    ("POST", "/v1/deliveries/{delivery_id}/dismissal"): {"audit_entry": 1},
}
"""Writes without a key, the same."""

WRITES = {**ONCE, **OTHER}


def _post(caller: Caller, path: str, body: Any) -> Send:
    key = str(uuid4())
    return lambda: caller.post(path, body, key)


def _visit(world: World, code: str, **more: Any) -> Send:
    return _post(world.staff_a, "/v1/visits", world.visit(world.enrolled(), code, **more))


def _outcome(world: World) -> Send:
    visit = _visit(world, "BL")().json()
    return _post(
        world.staff_a, "/v1/outcomes", {**suicidal(), "participant": visit["participant"], "visit": visit["id"]}
    )


def _outcome_corrected(world: World) -> Send:
    record, change = an_outcome(world, "A"), {"items": {"MADRS_10": 5}, "reason": "typed wrongly"}
    return lambda: world.staff_a.patch(f"/v1/outcomes/{record.json()['id']}", change, record.headers["ETag"])


def _event_that_somebody_is_told_of(world: World) -> Send:
    a_subscription(world)
    event = world.event(world.enrolled(), criteria={"hospitalisation": True}, aware_at=shown(now()))
    return _post(world.staff_a, "/v1/adverse-events", event)


def _questions_at_two_sites(world: World) -> Send:
    questions = [question_about(an_event(world, site).json()) for site in ("A", "B", "A")]
    return _post(world.monitor, "/v1/data-queries/bulk", questions)


def _session(world: World) -> Send:
    user = new_user()
    world.admin.post("/v1/users", user)
    body = {name: user[name] for name in ("username", "password")}
    return lambda: world.registry.client.post("/v1/auth/sessions", json=body)


def _token(world: World) -> Send:
    client = world.admin.post("/v1/clients", {"name": "App", "organisation": "Test"}).json()
    form = {name: client[name] for name in ("client_id", "client_secret")}
    return lambda: world.registry.client.post("/v1/auth/token", data={"grant_type": "client_credentials", **form})


def _of_a_session(path: str, field: str, **form: str) -> Callable[[World], Send]:
    def prepare(world: World) -> Send:
        data = {**form, field: _session(world)().json()["refresh_token"]}
        return lambda: world.registry.client.post(path, data=data)

    return prepare


PREPARED: Mapping[Route, Callable[[World], Send]] = {
    ("POST", "/v1/visits "): lambda world: _visit(world, "BL", outcomes=[suicidal()]),
    ("POST", "/v1/visits  "): lambda world: _visit(
        world, "PREP1", therapy={"minutes": 90, "mode": "in_person", "staff": ["T01"]}
    ),
    ("POST", "/v1/outcomes "): _outcome,
    ("PATCH", "/v1/outcomes/{outcome_id} "): _outcome_corrected,
    ("POST", "/v1/adverse-events "): _event_that_somebody_is_told_of,
    ("POST", f"{SESSION}/vitals"): lambda world: _post(
        world.staff_a, path_of(a_session(world), "/vitals"), vitals("M60", "10:15", SYSBP=170)
    ),
    ("POST", "/v1/data-queries/bulk"): _questions_at_two_sites,
    ("POST", "/v1/auth/sessions"): _session,
    ("POST", "/v1/auth/token"): _token,
    ("POST", "/v1/auth/token "): _of_a_session("/v1/auth/token", "refresh_token", grant_type="refresh_token"),
    ("POST", "/v1/auth/revoke"): _of_a_session("/v1/auth/revoke", "token"),
}
"""Requests that are not those of tests/route_cases.py: as they store more, or as there is none."""


def ready_to_send(world: World, route: Route) -> Send:
    """The request of a write, to be sent under one key as often as it takes."""
    if route in PREPARED:
        return PREPARED[route](world)
    ready = made_ready(world, route, "A", caller_of(world, min(MATRIX[route])).token)
    return lambda: world.registry.client.request(ready.method, ready.path, **ready.sent)


FAILING = [route if "extracts" in route[1] else pytest.param(route, marks=pytest.mark.by_turns) for route in WRITES]
"""A statement fails before the engine sees it, so a route shows the same on either. Extracts are chosen and built in a
way of each engine's own."""


def test_every_route_that_can_commit_is_made_to_fail_here(registry: Registry) -> None:
    routes = set(writing_routes(registry))
    assert len(routes) > 20
    assert routes == {(method, path.strip()) for method, path in WRITES}


@pytest.mark.parametrize("route", FAILING, ids=" ".join)
def test_a_failing_statement_is_never_acknowledged_and_leaves_nothing(world: World, route: Route) -> None:
    engine = world.registry.served.of_sessions
    send, rows = ready_to_send(world, route), WRITES[route]
    before, failures, answer = census(world.registry.database.engine), 0, None
    while answer is None:
        with failing_statement(engine, failures + 1) as hits:
            told = send()
        if hits.count == 0:
            answer = told
            break
        failures += 1
        assert (told.status_code, told.json()["code"]) == (503, "database_unavailable"), failures
        assert census(world.registry.database.engine) == before, f"statement {failures} left a half"
        assert failures < 100
    assert failures >= 3  # the caller, the row, the trail
    assert answer.is_success, answer.text
    keyed = {"idempotency_record": 1} if route in ONCE else {}
    assert grown(before, census(world.registry.database.engine)) == {**rows, **keyed}


@pytest.mark.by_turns  # one place commits for all routes, on either engine
@pytest.mark.parametrize("route", WRITES, ids=" ".join)
def test_a_failing_commit_is_never_acknowledged_and_leaves_nothing(world: World, route: Route) -> None:
    send, rows = ready_to_send(world, route), WRITES[route]
    before = census(world.registry.database.engine)
    with failing_commit(world.registry.served, done=False) as hits:
        told = send()
    assert hits.count == 1
    assert (told.status_code, told.json()["code"]) == (503, "database_unavailable")
    assert census(world.registry.database.engine) == before
    assert send().is_success
    assert rows.items() <= grown(before, census(world.registry.database.engine)).items()


@pytest.mark.by_turns  # one place remembers answers for all routes
@pytest.mark.parametrize("route", ONCE, ids=" ".join)
def test_a_retry_after_a_lost_acknowledgement_finds_what_was_stored(world: World, route: Route) -> None:
    send, rows = ready_to_send(world, route), ONCE[route]
    before = census(world.registry.database.engine)
    with failing_commit(world.registry.served, done=True) as hits:
        assert send().status_code == 503
    assert hits.count == 1
    answer = send()
    assert answer.is_success
    assert answer.headers["Idempotent-Replayed"] == "true"
    assert grown(before, census(world.registry.database.engine)) == {**rows, "idempotency_record": 1}


def test_a_failing_read_is_no_answer_either(world: World) -> None:
    engine = world.registry.served.of_sessions
    caller = world.caller((Role.monitor, "A"))
    world.enrolled()
    for number in (1, 2, 3):
        with failing_statement(engine, number) as hits:
            answer = caller.get("/v1/participants")
        assert answer.status_code == (503 if hits.count else 200)
    assert caller.get("/v1/participants").status_code == 200
