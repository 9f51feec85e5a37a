"""Acknowledged means stored: a database that fails anywhere in a write gives no 2xx and leaves no half."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response

from app.models.account import Role
from tests import course_cases as course
from tests.account_cases import a_person, a_site_app, tag
from tests.dosing_writes import CORRECTIONS, DOSING
from tests.hostile import census, failing_commit, failing_statement, grown
from tests.label_cases import APPROVED, a_disclosure, approved, asking
from tests.monitor_cases import an_event
from tests.monitor_writes import MONITORING
from tests.outbox_writes import TOLD, TOLD_ONCE
from tests.reservation_writes import RESERVING
from tests.route_cases import PASSWORD as OWN_PASSWORD
from tests.route_cases import Route, a_cut, a_visit, an_extract, an_outcome, signature_of, totp_code, with_password
from tests.voided_cases import VOIDING
from tests.world import Caller, Registry, World, madrs, protocol_definition
from tests.writing_routes import writing_routes

Send = Callable[[], Response]
Prepare = Callable[[World], Send]
PASSWORD = "correct horse battery"
AMENDED: dict[str, int] = {"audit_entry": 1}
KNOWN_HERE: dict[str, int] = {"throttle": 1}
"""The address from which somebody proved who they are, as one that the account uses."""


def _post(caller: Caller, path: str, body: Any) -> Send:
    key = str(uuid4())
    return lambda: caller.post(path, body, key)


def _patch(world: World, record: Response, path: str, change: Mapping[str, Any]) -> Send:
    tag = record.headers["ETag"]
    return lambda: world.staff_a.patch(path, {"reason": "typed wrongly", **change}, tag)


def _amended(kind: str, make: Callable[[World, str], Response], change: Mapping[str, Any]) -> Prepare:
    def prepare(world: World) -> Send:
        record = make(world, "A")
        return _patch(world, record, f"/v1/{kind}/{record.json()['id']}", change)

    return prepare


def _person(world: World) -> Send:
    record = world.staff_a.get(f"/v1/participants/{world.enrolled()}")
    return _patch(world, record, f"/v1/participants/{record.json()['pid']}", {"age_at_consent": 52})


def _status(world: World) -> Send:
    body = {"status": "active", "effective_on": "2025-02-01", "reason": "first dosing"}
    return _post(world.staff_a, f"/v1/participants/{world.enrolled()}/status", body)


def _outcome(world: World) -> Send:
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled())).json()
    return _post(world.staff_a, "/v1/outcomes", {"participant": visit["participant"], "visit": visit["id"], **madrs(1)})


def _download(world: World) -> Send:
    path = f"{an_extract(world, approved=True)}/files/visits.csv"
    return lambda: world.analyst.get(path)


def _new_user() -> dict[str, str]:
    return {"username": f"u{uuid4().hex}", "display_name": "P", "organisation": "Test", "password": PASSWORD}


def _session(world: World) -> Send:
    user = _new_user()
    world.admin.post("/v1/users", user)
    body = {"username": user["username"], "password": PASSWORD}
    return lambda: world.registry.client.post("/v1/auth/sessions", json=body)


def _token(world: World) -> Send:
    client = world.admin.post("/v1/clients", {"name": "App", "organisation": "Test"}).json()
    form = {name: client[name] for name in ("client_id", "client_secret")}
    return lambda: world.registry.client.post("/v1/auth/token", data={"grant_type": "client_credentials", **form})


def _refreshed(world: World) -> Send:
    form = {"grant_type": "refresh_token", "refresh_token": _session(world)().json()["refresh_token"]}
    return lambda: world.registry.client.post("/v1/auth/token", data=form)


def _revoked(world: World) -> Send:
    form = {"token": _session(world)().json()["refresh_token"]}
    return lambda: world.registry.client.post("/v1/auth/revoke", data=form)


def _own(what: str, body: Mapping[str, str]) -> Prepare:
    def prepare(world: World) -> Send:
        with_password(world, world.monitor)
        return _post(world.monitor, f"/v1/me/{what}", body)

    return prepare


def _confirmed(world: World) -> Send:
    with_password(world, world.monitor)
    secret = world.monitor.post("/v1/me/totp", {"password": OWN_PASSWORD}).json()["secret"]
    return _post(world.monitor, "/v1/me/totp/confirmation", {"code": totp_code(secret)})


def _grant(world: World, kind: str) -> Send:
    body = _new_user() if kind == "users" else {"name": "App", "organisation": "Test"}
    made = world.admin.post(f"/v1/{kind}", body).json()
    name = made["id"] if kind == "users" else made["client_id"]
    return _post(world.admin, f"/v1/{kind}/{name}/grants", {"role": "monitor", "study": world.study})


def _account(make: Callable[[World], dict[str, Any]], below: str, **more: Any) -> Prepare:
    """A change of a person or a site app; below "" it is a PATCH."""

    def prepare(world: World) -> Send:
        account, body = make(world), {"reason": "left the team", **more}
        if not below:
            seen = tag(world, account)
            return lambda: world.admin.patch(account["path"], body, seen)
        names = {"grant": account["grants"][0]["id"], "secret": account.get("secret_id")}
        return _post(world.admin, f"{account['path']}/{below.format(**names)}", body)

    return prepare


def _linked(world: World) -> Send:
    body = {"subject": uuid4().hex, "reason": "joined the site"}
    return _post(world.admin, f"{a_person(world)['path']}/identity", body)


def _looked_up(world: World) -> Send:
    body = world.enrolment()
    assert world.staff_a.post("/v1/participants", body).is_success
    asked = {name: body[name] for name in ("study", "site", "site_local_id")}
    return _post(world.staff_a, "/v1/participants/lookup", asked)


def _rescored(world: World) -> Send:
    """An outcome of an older version of its instrument, whose scores the newest gives anew."""
    visit = world.staff_a.post("/v1/visits", world.visit(world.enrolled())).json()
    items = {f"CSSRS_SLV_{number:02d}": 0 for number in range(1, 11)}
    older = {"instrument": "CSSRS_SLV", "instrument_version": "1", "items": items}
    made = world.staff_a.post("/v1/outcomes", {"participant": visit["participant"], "visit": visit["id"], **older})
    return _post(world.staff_a, f"/v1/outcomes/{made.json()['id']}/rescoring", {"reason": "new rules"})


def _signed(world: World) -> Send:
    with_password(world, world.investigator)
    return _post(world.investigator, "/v1/signatures", signature_of(world, a_visit(world, "A").json()))


def _of_person(below: str, body: Mapping[str, Any], make: Callable[[World], str]) -> Prepare:
    return lambda world: _post(world.staff_a, f"/v1/participants/{make(world)}/{below}", body)


def _moved(world: World) -> Send:
    body = {"version": course.amended(world), "reason": "amendment in force"}
    return _post(world.staff_a, f"/v1/participants/{world.enrolled(protocol_version='1')}/protocol-version", body)


ONCE: Mapping[Route, tuple[Prepare, dict[str, int]]] = {
    ("POST", "/v1/participants"): (
        lambda world: _post(world.staff_a, "/v1/participants", world.enrolment()),
        {"participant": 1, "vault_identity": 1, "consent": 1, "screening": 1, "audit_entry": 3},
    ),
    ("POST", "/v1/participants/{pid}/status"): (_status, {"audit_entry": 1}),
    ("POST", "/v1/participants/{pid}/protocol-version"): (_moved, AMENDED),
    ("POST", "/v1/visits"): (
        lambda world: _post(world.staff_a, "/v1/visits", world.visit(world.enrolled(), outcomes=[madrs(2)])),
        {"visit": 1, "outcome": 1, "outcome_score": 1, "audit_entry": 2},
    ),
    ("POST", "/v1/outcomes"): (_outcome, {"outcome": 1, "outcome_score": 1, "audit_entry": 1}),
    ("POST", "/v1/adverse-events"): (
        lambda world: _post(world.staff_a, "/v1/adverse-events", world.event(world.enrolled())),
        {"adverse_event": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/participants/{pid}/consents"): (
        _of_person("consents", course.CONSENT, course.under_amendment),
        {"consent": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/participants/{pid}/withdrawals"): (
        _of_person("withdrawals", course.WITHDRAWAL, World.enrolled),
        {"withdrawal": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/participants/{pid}/withdrawals/{number}/voiding"): (
        _of_person("withdrawals/1/voiding", course.VOIDING, course.withdrawn),
        {"audit_entry": 1},
    ),
    ("POST", "/v1/participants/{pid}/screenings"): (
        _of_person("screenings", course.SCREENING, course.screen_failed),
        {"screening": 1, "audit_entry": 2},
    ),
    ("POST", "/v1/participants/{pid}/eligibility"): (
        _of_person("eligibility", course.ELIGIBILITY, course.open_screening),
        {"audit_entry": 1},
    ),
    ("POST", "/v1/participants/{pid}/treatments"): (
        _of_person("treatments", course.TREATMENT, World.enrolled),
        {"treatment_trial": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/data-cuts"): (
        lambda world: _post(world.custodian, "/v1/data-cuts", a_cut(world)),
        {"data_cut": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/label-disclosures"): (
        lambda world: _post(world.monitor, "/v1/label-disclosures", asking(world.enrolled())),
        {"label_disclosure": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/label-disclosures/{disclosure_id}/decision"): (
        lambda world: _post(world.custodian, f"{a_disclosure(world)}/decision", APPROVED),
        {"audit_entry": 1},
    ),
    ("POST", "/v1/extracts"): (
        lambda world: _post(world.analyst, "/v1/extracts", {"study": world.study, "purpose": "A question"}),
        {"extract": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/extracts/{extract_id}/approval"): (
        lambda world: _post(
            world.custodian, f"{an_extract(world)}/approval", {"decision": "approve", "reason": "agreed use"}
        ),
        {"extract_subject": 1, "extract_file": 14, "extract_chunk": 14, "notification": 1, "audit_entry": 2},
    ),
    ("POST", "/v1/extracts/{extract_id}/revocation"): (
        lambda world: _post(world.custodian, f"{an_extract(world, approved=True)}/revocation", {"reason": "misuse"}),
        {"extract_file": -14, "extract_chunk": -14, "audit_entry": 1},
    ),
    **DOSING,
    **MONITORING,
    **RESERVING,
    **VOIDING,
    **TOLD_ONCE,
}
"""Writes that carry an Idempotency-Key, with the rows that each makes beside its idempotency record."""

OTHER: Mapping[Route, tuple[Prepare, dict[str, int]]] = {
    **TOLD,
    ("PATCH", "/v1/participants/{pid}"): (_person, AMENDED),
    ("PATCH", course.ONE_TREATMENT): (course.treatment_amended, AMENDED),
    ("PATCH", "/v1/visits/{visit_id}"): (_amended("visits", a_visit, {"occurred_on": "2025-01-26"}), AMENDED),
    ("PATCH", "/v1/outcomes/{outcome_id}"): (_amended("outcomes", an_outcome, {"items": {"MADRS_01": 4}}), AMENDED),
    ("PATCH", "/v1/adverse-events/{event_id}"): (
        _amended("adverse-events", an_event, {"severity": "severe"}),
        AMENDED,
    ),
    ("POST", "/v1/outcomes/{outcome_id}/rescoring"): (_rescored, {"outcome_score": 3, "audit_entry": 1}),
    ("POST", "/v1/signatures"): (_signed, {"signature": 1, "audit_entry": 1, **KNOWN_HERE}),
    **CORRECTIONS,
    ("POST", "/v1/participants/lookup"): (_looked_up, {"audit_entry": 1}),
    ("POST", "/v1/label-disclosures/{disclosure_id}/reading"): (
        lambda world: _post(world.monitor, f"{approved(world, a_disclosure(world))}/reading", {}),
        {"audit_entry": 1},
    ),
    ("GET", "/v1/extracts/{extract_id}/files/{name}"): (_download, {"audit_entry": 1}),
    ("POST", "/v1/auth/sessions"): (_session, {"refresh_token": 1, "audit_entry": 1, **KNOWN_HERE}),
    ("POST", "/v1/auth/token"): (_token, {"audit_entry": 1, **KNOWN_HERE}),
    ("POST", "/v1/auth/token "): (_refreshed, {"refresh_token": 1, "audit_entry": 1}),
    ("POST", "/v1/auth/revoke"): (_revoked, {"revocation": 1, "audit_entry": 1}),
    ("POST", "/v1/me/password"): (
        _own("password", {"current": OWN_PASSWORD, "new": "another pass phrase"}),
        {"audit_entry": 1, **KNOWN_HERE},
    ),
    ("POST", "/v1/me/totp"): (_own("totp", {"password": OWN_PASSWORD}), {"totp": 1, "audit_entry": 1, **KNOWN_HERE}),
    ("POST", "/v1/me/totp/confirmation"): (_confirmed, {"audit_entry": 1}),
    ("POST", "/v1/studies"): (
        lambda world: _post(world.admin, "/v1/studies", {"code": f"S-{uuid4().hex}", "title": "T"}),
        {"study": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/studies/{study}/protocols"): (
        lambda world: _post(
            world.admin, f"/v1/studies/{world.study}/protocols", {**protocol_definition(), "version": uuid4().hex}
        ),
        {"protocol_version": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/studies/{study}/sites"): (
        lambda world: _post(world.admin, f"/v1/studies/{world.study}/sites", {"code": uuid4().hex, "name": "New"}),
        {"site": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/users"): (
        lambda world: _post(world.admin, "/v1/users", _new_user()),
        {"account": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/clients"): (
        lambda world: _post(world.admin, "/v1/clients", {"name": "App", "organisation": "Test"}),
        {"account": 1, "client_secret": 1, "audit_entry": 2},
    ),
    ("POST", "/v1/users/{user_id}/grants"): (
        lambda world: _grant(world, "users"),
        {"role_grant": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/clients/{client_id}/grants"): (
        lambda world: _grant(world, "clients"),
        {"role_grant": 1, "audit_entry": 1},
    ),
    ("PATCH", "/v1/users/{user_id}"): (_account(a_person, "", disabled=True), AMENDED),
    ("POST", "/v1/users/{user_id}/password"): (_account(a_person, "password", password=PASSWORD), AMENDED),
    ("POST", "/v1/users/{user_id}/identity"): (_linked, AMENDED),
    ("POST", "/v1/users/{user_id}/sessions/revocation"): (_account(a_person, "sessions/revocation"), AMENDED),
    ("POST", "/v1/users/{user_id}/grants/{grant_id}/revocation"): (
        _account(a_person, "grants/{grant}/revocation"),
        AMENDED,
    ),
    ("PATCH", "/v1/clients/{client_id}"): (_account(a_site_app, "", disabled=True), AMENDED),
    ("POST", "/v1/clients/{client_id}/grants/{grant_id}/revocation"): (
        _account(a_site_app, "grants/{grant}/revocation"),
        AMENDED,
    ),
    ("POST", "/v1/clients/{client_id}/secrets"): (
        _account(a_site_app, "secrets"),
        {"client_secret": 1, "audit_entry": 2},
    ),
    ("POST", "/v1/clients/{client_id}/secrets/{secret_id}/revocation"): (
        _account(a_site_app, "secrets/{secret}/revocation"),
        AMENDED,
    ),
}
"""Writes without a key, the same. The trailing space tells the second grant type of one route from the first."""

WRITES = {**ONCE, **OTHER}
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
    prepare, rows = WRITES[route]
    send = prepare(world)
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
    prepare, rows = WRITES[route]
    send = prepare(world)
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
    prepare, rows = ONCE[route]
    send = prepare(world)
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
