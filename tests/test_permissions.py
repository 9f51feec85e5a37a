"""Who may call which route: the matrix that docs/permissions.md shows, proven by calling every cell."""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import pytest
from fastapi.routing import iter_route_contexts

from app.access import requires
from app.models.account import Account, Role
from app.permissions import Permission
from app.services.identity.grants import SITE_ROLES
from tests.monitor_cases import an_event
from tests.ready import Requests
from tests.route_cases import BULK, CASES, OF_A_SITE, OF_A_STUDY, PUBLIC, Route, a_visit
from tests.world import Caller, Registry, World

PAGE = Path(__file__).resolve().parent.parent / "docs" / "permissions.md"
EVERYBODY = frozenset(Role)
STAFF, ADMIN = frozenset({Role.site_staff, Role.investigator}), frozenset({Role.admin})
CLINICAL_READERS = STAFF | {Role.monitor}
INVESTIGATOR, MONITOR = frozenset({Role.investigator}), frozenset({Role.monitor})
ANALYST, CUSTODIAN = frozenset({Role.analyst}), frozenset({Role.custodian})

MATRIX: dict[Route, frozenset[Role]] = {
    ("GET", "/v1/me"): EVERYBODY,
    ("POST", "/v1/me/password"): EVERYBODY,
    ("POST", "/v1/me/totp"): EVERYBODY,
    ("POST", "/v1/me/totp/confirmation"): EVERYBODY,
    ("GET", "/v1/studies"): EVERYBODY,
    ("POST", "/v1/studies"): ADMIN,
    ("GET", "/v1/studies/{study}/protocols"): EVERYBODY,
    ("POST", "/v1/studies/{study}/protocols"): ADMIN,
    ("GET", "/v1/studies/{study}/protocols/{version}"): EVERYBODY,
    ("GET", "/v1/studies/{study}/sites"): EVERYBODY,
    ("POST", "/v1/studies/{study}/sites"): ADMIN,
    ("GET", "/v1/users"): ADMIN,
    ("POST", "/v1/users"): ADMIN,
    ("POST", "/v1/users/{user_id}/grants"): ADMIN,
    ("GET", "/v1/users/{user_id}"): ADMIN,
    ("PATCH", "/v1/users/{user_id}"): ADMIN,
    ("POST", "/v1/users/{user_id}/password"): ADMIN,
    ("POST", "/v1/users/{user_id}/identity"): ADMIN,
    ("POST", "/v1/users/{user_id}/sessions/revocation"): ADMIN,
    ("POST", "/v1/users/{user_id}/grants/{grant_id}/revocation"): ADMIN,
    ("GET", "/v1/clients"): ADMIN,
    ("POST", "/v1/clients"): ADMIN,
    ("POST", "/v1/clients/{client_id}/grants"): ADMIN,
    ("GET", "/v1/clients/{client_id}"): ADMIN,
    ("PATCH", "/v1/clients/{client_id}"): ADMIN,
    ("POST", "/v1/clients/{client_id}/grants/{grant_id}/revocation"): ADMIN,
    ("POST", "/v1/clients/{client_id}/secrets"): ADMIN,
    ("POST", "/v1/clients/{client_id}/secrets/{secret_id}/revocation"): ADMIN,
    ("POST", "/v1/participants"): STAFF,
    ("GET", "/v1/participants"): CLINICAL_READERS,
    ("POST", "/v1/participants/lookup"): STAFF,
    ("GET", "/v1/participants/{pid}"): CLINICAL_READERS,
    ("PATCH", "/v1/participants/{pid}"): STAFF,
    ("POST", "/v1/participants/{pid}/status"): STAFF,
    ("POST", "/v1/pid-reservations"): STAFF,
    ("GET", "/v1/pid-reservations"): STAFF,
    ("GET", "/v1/pid-reservations/{reservation_id}"): STAFF,
    ("POST", "/v1/pid-reservations/{reservation_id}/closure"): STAFF,
    ("POST", "/v1/visits"): STAFF,
    ("GET", "/v1/visits"): CLINICAL_READERS,
    ("GET", "/v1/visits/{visit_id}"): CLINICAL_READERS,
    ("PATCH", "/v1/visits/{visit_id}"): STAFF,
    ("POST", "/v1/visits/{visit_id}/voiding"): STAFF,
    ("POST", "/v1/outcomes"): STAFF,
    ("GET", "/v1/outcomes"): CLINICAL_READERS,
    ("GET", "/v1/outcomes/{outcome_id}"): CLINICAL_READERS,
    ("PATCH", "/v1/outcomes/{outcome_id}"): STAFF,
    ("GET", "/v1/outcomes/summary"): CLINICAL_READERS,
    ("POST", "/v1/outcomes/{outcome_id}/rescoring"): STAFF,
    ("POST", "/v1/outcomes/{outcome_id}/voiding"): STAFF,
    ("GET", "/v1/participants/{pid}/response"): CLINICAL_READERS,
    ("POST", "/v1/adverse-events"): STAFF,
    ("GET", "/v1/adverse-events"): CLINICAL_READERS,
    ("GET", "/v1/adverse-events/{event_id}"): CLINICAL_READERS,
    ("GET", "/v1/adverse-events/{event_id}/history"): CLINICAL_READERS,
    ("PATCH", "/v1/adverse-events/{event_id}"): STAFF,
    ("POST", "/v1/adverse-events/{event_id}/voiding"): STAFF,
    ("POST", "/v1/adverse-events/{event_id}/reports"): STAFF,
    ("GET", "/v1/adverse-events/{event_id}/reports"): CLINICAL_READERS,
    ("GET", "/v1/adverse-events/{event_id}/reports/{number}"): CLINICAL_READERS,
    ("POST", "/v1/adverse-events/{event_id}/reviews"): MONITOR,
    ("GET", "/v1/adverse-events/{event_id}/reviews"): CLINICAL_READERS,
    ("POST", "/v1/adverse-events/{event_id}/reviews/{number}/withdrawal"): MONITOR,
    ("GET", "/v1/adverse-events/{event_id}/clocks"): CLINICAL_READERS,
    ("GET", "/v1/adverse-events/summary"): CLINICAL_READERS,
    ("GET", "/v1/monitoring/summary"): MONITOR,
    ("POST", "/v1/signatures"): INVESTIGATOR,
    ("GET", "/v1/signatures"): CLINICAL_READERS,
    ("GET", "/v1/signatures/content"): CLINICAL_READERS,
    ("GET", "/v1/signatures/{signature_id}"): CLINICAL_READERS,
    **{
        ("GET", f"/v1/participants/{{pid}}/{below}"): CLINICAL_READERS
        for below in ("schedule", "history", "consents", "screenings", "treatments")
    },
    ("GET", "/v1/studies/{study}/due"): CLINICAL_READERS,
    **{
        ("POST", f"/v1/participants/{{pid}}/{below}"): STAFF
        for below in ("consents", "withdrawals", "screenings", "eligibility", "treatments", "protocol-version")
    },
    ("POST", "/v1/participants/{pid}/withdrawals/{number}/voiding"): STAFF,
    ("POST", "/v1/participants/{pid}/voiding"): STAFF,
    ("POST", "/v1/participants/{pid}/screenings/{number}/voiding"): STAFF,
    ("POST", "/v1/participants/{pid}/consents/{version}/{number}/voiding"): STAFF,
    ("GET", "/v1/participants/{pid}/treatments/{treatment_id}"): CLINICAL_READERS,
    ("PATCH", "/v1/participants/{pid}/treatments/{treatment_id}"): STAFF,
    ("POST", "/v1/participants/{pid}/treatments/{treatment_id}/voiding"): STAFF,
    ("POST", "/v1/dosing-sessions/{session_id}/vitals/{reading_id}/voiding"): STAFF,
    ("POST", "/v1/dosing-sessions"): STAFF,
    ("GET", "/v1/dosing-sessions"): CLINICAL_READERS,
    ("GET", "/v1/dosing-sessions/{session_id}"): CLINICAL_READERS,
    ("PATCH", "/v1/dosing-sessions/{session_id}"): STAFF,
    ("POST", "/v1/dosing-sessions/{session_id}/doses"): STAFF,
    ("PATCH", "/v1/dosing-sessions/{session_id}/doses/{dose_id}"): STAFF,
    ("POST", "/v1/dosing-sessions/{session_id}/vitals"): STAFF,
    ("PATCH", "/v1/dosing-sessions/{session_id}/vitals/{reading_id}"): STAFF,
    ("POST", "/v1/dosing-sessions/{session_id}/close"): STAFF,
    ("POST", "/v1/dosing-sessions/{session_id}/voiding"): STAFF,
    ("GET", "/v1/safety-signals"): CLINICAL_READERS,
    ("GET", "/v1/safety-signals/{signal_id}"): CLINICAL_READERS,
    ("POST", "/v1/safety-signals/{signal_id}/review"): STAFF,
    ("POST", "/v1/data-queries"): MONITOR,
    ("POST", "/v1/data-queries/bulk"): MONITOR,
    ("GET", "/v1/data-queries"): CLINICAL_READERS,
    ("GET", "/v1/data-queries/{query_id}"): CLINICAL_READERS,
    ("POST", "/v1/data-queries/{query_id}/answers"): STAFF,
    ("POST", "/v1/data-queries/{query_id}/closure"): MONITOR,
    ("GET", "/v1/monitoring/queries"): MONITOR,
    ("GET", "/v1/monitoring/sites"): MONITOR,
    ("POST", "/v1/locks"): MONITOR,
    ("GET", "/v1/locks"): CLINICAL_READERS,
    ("GET", "/v1/locks/{lock_id}"): CLINICAL_READERS,
    ("POST", "/v1/locks/{lock_id}/lifting"): MONITOR,
    ("POST", "/v1/verifications"): MONITOR,
    ("GET", "/v1/verifications"): CLINICAL_READERS,
    ("GET", "/v1/verifications/{verification_id}"): CLINICAL_READERS,
    ("POST", "/v1/verifications/{verification_id}/withdrawal"): MONITOR,
    ("GET", "/v1/monitoring/verification/pending"): CLINICAL_READERS,
    ("GET", "/v1/monitoring/verification"): CLINICAL_READERS,
    ("GET", "/v1/subscriptions"): ADMIN,
    ("POST", "/v1/subscriptions"): ADMIN,
    ("GET", "/v1/subscriptions/{subscription_id}"): ADMIN,
    ("PATCH", "/v1/subscriptions/{subscription_id}"): ADMIN,
    ("POST", "/v1/subscriptions/{subscription_id}/secret"): ADMIN,
    ("POST", "/v1/subscriptions/{subscription_id}/test"): ADMIN,
    ("GET", "/v1/deliveries"): ADMIN,
    ("POST", "/v1/deliveries/{delivery_id}/replay"): ADMIN,
    ("POST", "/v1/deliveries/{delivery_id}/dismissal"): ADMIN,
    ("GET", "/v1/changes"): CLINICAL_READERS,
    ("POST", "/v1/sync"): STAFF,
    ("GET", "/v1/sync"): STAFF,
    ("POST", "/v1/sync/{operation_id}/resolution"): STAFF,
    ("GET", "/v1/audit-entries"): CLINICAL_READERS | ADMIN,
    ("GET", "/v1/codebook"): EVERYBODY,
    **dict.fromkeys(sorted(BULK), STAFF),
    ("POST", "/v1/verifications/bulk"): MONITOR,
    ("GET", "/v1/data-cuts"): ANALYST | CUSTODIAN,
    ("POST", "/v1/data-cuts"): CUSTODIAN,
    ("GET", "/v1/label-disclosures"): MONITOR | CUSTODIAN,
    ("POST", "/v1/label-disclosures"): MONITOR | CUSTODIAN,
    ("GET", "/v1/label-disclosures/{disclosure_id}"): MONITOR | CUSTODIAN,
    ("POST", "/v1/label-disclosures/{disclosure_id}/decision"): CUSTODIAN,
    ("POST", "/v1/label-disclosures/{disclosure_id}/reading"): MONITOR | CUSTODIAN,
    ("GET", "/v1/extracts"): ANALYST | CUSTODIAN,
    ("POST", "/v1/extracts"): ANALYST,
    ("GET", "/v1/extracts/{extract_id}"): ANALYST | CUSTODIAN,
    ("POST", "/v1/extracts/{extract_id}/approval"): CUSTODIAN,
    ("POST", "/v1/extracts/{extract_id}/revocation"): CUSTODIAN,
    ("GET", "/v1/extracts/{extract_id}/files/{name}"): ANALYST,
}
"""Written by hand, apart from app/permissions.py: the two must agree."""


def caller_of(world: World, role: Role) -> Caller:
    return {
        Role.investigator: world.investigator,
        Role.site_staff: world.staff_a,
        Role.monitor: world.monitor,
        Role.analyst: world.analyst,
        Role.custodian: world.custodian,
        Role.admin: world.admin,
    }[role]


def served(registry: Registry) -> dict[Route, list[Permission]]:
    """Every route of the application with the permissions that its signature asks for."""
    found: dict[Route, list[Permission]] = {}
    for context in iter_route_contexts(registry.app.routes):
        dependant = getattr(context.original_route, "dependant", None)
        if dependant is None:
            continue
        asked = [
            dependency.call.permission for dependency in dependant.dependencies if isinstance(dependency.call, requires)
        ]
        for method in context.methods:
            found[method, context.path] = asked
    return found


def test_every_route_states_exactly_one_permission_or_is_public(registry: Registry) -> None:
    routes = served(registry)
    assert len(routes) > 40
    assert {route for route, asked in routes.items() if not asked} == PUBLIC
    assert all(len(asked) == 1 for route, asked in routes.items() if route not in PUBLIC)


def test_every_protected_route_has_a_row_in_the_matrix_and_a_case(registry: Registry) -> None:
    protected = served(registry).keys() - PUBLIC
    assert protected == MATRIX.keys() == CASES.keys()


@pytest.fixture(scope="module")
def requests(registry: Registry) -> Requests:
    return Requests(World(registry))


@pytest.mark.by_turns
@pytest.mark.parametrize("route", MATRIX, ids=" ".join)
def test_nobody_is_admitted_without_a_token_or_a_grant(requests: Requests, route: Route) -> None:
    world = requests.world
    assert requests.refused(route, world.nobody).status_code == 403
    refused = requests.refused(route, Caller(world.registry.client, "not-a-token"))
    assert (refused.status_code, refused.json()["code"]) == (401, "token_invalid")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer ")


CORRECTIONS = sorted(path for method, path in MATRIX if method == "PATCH")


@pytest.mark.parametrize("path", CORRECTIONS)
def test_a_missing_permission_is_refused_before_a_missing_header(requests: Requests, path: str) -> None:
    somewhere = re.sub(r"{\w+}", "00000000-0000-4000-8000-000000000000", path)
    assert requests.world.nobody.patch(somewhere, {}).status_code == 403
    assert Caller(requests.world.registry.client, "not-a-token").patch(somewhere, {}).status_code == 401


def expired(world: World, account: Account) -> Caller:
    """Somebody whose access token ran out an hour ago."""
    with patch("app.security.tokens.time.time", return_value=time.time() - 90_000):
        return Caller(world.registry.client, world.token(account))


@dataclass
class Former:
    """Somebody who had a role until it was revoked, with the tokens of each time."""

    ran_out: Caller
    before: Caller
    after: Caller

    @classmethod
    def holder(cls, world: World, role: Role) -> "Former":
        account = world.account((role, "A" if role in SITE_ROLES else None))
        ran_out, before = expired(world, account), Caller(world.registry.client, world.token(account))
        world.revoke(account)
        return cls(ran_out, before, Caller(world.registry.client, world.token(account)))


@pytest.fixture(scope="module")
def former(requests: Requests) -> dict[Role, Former]:
    return {role: Former.holder(requests.world, role) for role in Role}


@pytest.mark.by_turns
@pytest.mark.parametrize("route", MATRIX, ids=" ".join)
def test_an_expired_token_and_a_revoked_grant_admit_nobody(
    requests: Requests, former: dict[Role, Former], route: Route
) -> None:
    for role in sorted(MATRIX[route]):
        ran_out = requests.refused(route, former[role].ran_out)
        assert (ran_out.status_code, ran_out.json()["code"]) == (401, "token_invalid"), role
        stale = requests.refused(route, former[role].before)
        assert (stale.status_code, stale.json()["code"]) == (401, "grants_changed"), role
        assert requests.refused(route, former[role].after).status_code == 403, role


@pytest.fixture(scope="module")
def elsewhere(registry: Registry) -> World:
    return World(registry)


@pytest.mark.parametrize("route", sorted(OF_A_STUDY), ids=" ".join)
def test_another_studys_record_is_404_on_every_route(requests: Requests, elsewhere: World, route: Route) -> None:
    for role in sorted(MATRIX[route] - ADMIN):
        answer = requests.refused(route, caller_of(elsewhere, role))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), role


@pytest.mark.parametrize("route", sorted(OF_A_SITE), ids=" ".join)
def test_another_sites_record_is_404_on_every_route(requests: Requests, route: Route) -> None:
    world = requests.world
    callers = {Role.site_staff: world.staff_a, Role.investigator: world.investigator, Role.monitor: world.monitor_a}
    own = next(caller for role, caller in callers.items() if role in MATRIX[route])
    answer = requests.refused(route, own, "B")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    if Role.monitor in MATRIX[route]:
        assert requests.refused(route, world.monitor_a, "B").status_code == 404
        assert requests.admitted(route, world.monitor, "B").is_success


@pytest.mark.by_turns
@pytest.mark.parametrize("route", MATRIX, ids=" ".join)
def test_a_role_is_refused_where_the_matrix_does_not_name_it(requests: Requests, route: Route) -> None:
    for role in EVERYBODY - MATRIX[route]:
        answer = requests.refused(route, caller_of(requests.world, role))
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_missing"), role


@pytest.mark.parametrize("route", MATRIX, ids=" ".join)
def test_a_role_is_admitted_where_the_matrix_names_it(requests: Requests, route: Route) -> None:
    for role in MATRIX[route]:
        answer = requests.admitted(route, caller_of(requests.world, role))
        assert answer.is_success, (role, answer.text)


def test_a_foreign_record_and_an_absent_one_are_answered_alike(world: World) -> None:
    for record in (a_visit(world, "B"), an_event(world, "B")):
        foreign = world.staff_a.get(record.headers["Location"])
        path = record.headers["Location"]
        absent = world.staff_a.get(path[: path.rindex("/")] + "/00000000-0000-4000-8000-000000000000")
        own, other = (answer.json() for answer in (foreign, absent))
        assert {**own, "request_id": ""} == {**other, "request_id": ""}
        assert foreign.headers.keys() == absent.headers.keys()


def page() -> str:
    """docs/permissions.md as the matrix has it."""
    head = [
        "| route | " + " | ".join(Role) + " | of another site | of another study |",
        "| --- " * (len(Role) + 3) + "|",
    ]
    rows = [
        f"| `{method} {path}` | "
        + " | ".join("yes" if role in roles else "403" for role in Role)
        + f" | {'404' if (method, path) in OF_A_SITE else ''} | {'404' if (method, path) in OF_A_STUDY else ''} |"
        for (method, path), roles in MATRIX.items()
    ]
    public = ", ".join(f"`{method} {path}`" for method, path in sorted(PUBLIC))
    return "\n".join(
        [
            "# Who may do what",
            "",
            "Written by `tests/test_permissions.py`, which calls every cell on SQLite and on PostgreSQL.",
            "Without a token, with an expired one, or with one from before a change of its account's grants, every",
            "route answers 401; without any grant, or once it was revoked, 403. Lists hold only rows of the sites",
            "where the caller's role was granted; a record of another site or study is 404, like an absent one.",
            "An admin is granted for the whole deployment. Safety signals are reviewed by people, and everybody with",
            "the role counts as a clinician of the site: to a site app's own token the review answers 403.",
            "",
            *head,
            *rows,
            "",
            f"Open to everybody: {public}.",
            "",
        ]
    )


def test_the_published_matrix_is_the_tested_one() -> None:
    if os.environ.get("REGISTRY_UPDATE_DOCS"):
        PAGE.write_text(page())
    assert PAGE.read_text() == page(), "run the tests once with REGISTRY_UPDATE_DOCS=1"
