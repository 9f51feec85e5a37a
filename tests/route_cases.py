"""One valid request for every route, so that guards can go through all of them."""

import base64
import time
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from httpx2 import Response
from sqlalchemy import delete
from sqlmodel import col

from app.models.account import Account, Role
from app.models.sign_in import Totp
from app.security import totp
from app.security.jwt import TokenRefused
from tests.account_cases import ACCOUNT_CASES, new_user
from tests.closing_cases import CLOSING_CASES, verification_of
from tests.course_cases import COURSE_CASES
from tests.dosing_cases import DOSING_CASES
from tests.label_cases import LABEL_CASES
from tests.monitor_cases import MONITOR_CASES
from tests.outbox_cases import OUTBOX_CASES
from tests.voided_cases import VOIDING_CASES
from tests.world import Caller, Case, World, made, madrs, posted_below, protocol_definition, read_of, staff

Route = tuple[str, str]
PASSWORD = "a pass phrase for tests"
RESERVATIONS = "/v1/pid-reservations"
UNDER_AGREEMENT = {"purpose": "A question", "profile": "pseudonymised", "agreement": "DUA-2026-014"}
"""An extract that takes no twelve people."""

PUBLIC: frozenset[Route] = frozenset(
    {
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/docs/start.js"),
        ("GET", "/docs/{asset}"),
        ("GET", "/.well-known/jwks.json"),
        ("GET", "/v1/problems/{code}"),
        ("POST", "/v1/auth/sessions"),
        ("POST", "/v1/auth/token"),
        ("POST", "/v1/auth/revoke"),
    }
)
"""Routes that anybody may call. Everything else asks for a permission."""


def a_visit(world: World, site: str) -> Response:
    return made(world, site, "/v1/visits", world.visit(world.enrolled(site), outcomes=[madrs(2)]))


def an_outcome(world: World, site: str) -> Response:
    outcome = a_visit(world, site).json()["outcomes"][0]
    return staff(world, site).get(f"/v1/outcomes/{outcome['id']}")


def an_older_outcome(world: World, site: str) -> Response:
    """Of an older version of its instrument, whose scores the newest gives anew."""
    visit = made(world, site, "/v1/visits", world.visit(world.enrolled(site))).json()
    items = {f"CSSRS_SLV_{number:02d}": 0 for number in range(1, 11)}
    older = {"instrument": "CSSRS_SLV", "instrument_version": "1", "items": items}
    return made(world, site, "/v1/outcomes", {"participant": visit["participant"], "visit": visit["id"], **older})


def an_act(world: World, site: str) -> dict[str, Any]:
    """What an app that was offline did."""
    return {"id": str(uuid4()), "path": "/v1/participants", "body": world.enrolment(site)}


def a_refused_act(caller: Caller) -> str:
    """The id of one that breaks a rule, if the caller may send any."""
    wrong = {"id": str(uuid4()), "path": "/v1/participants", "body": {}}
    caller.post("/v1/sync", {"operations": [wrong]})
    return str(wrong["id"])


def a_cut(world: World) -> dict[str, str]:
    """The body of a data cut of a new name."""
    return {"study": world.study, "name": f"cut-{uuid4().hex[:8]}", "purpose": "Interim analysis"}


def an_extract(world: World, approved: bool = False, **more: Any) -> str:
    """The path of an extract that the world's analyst asked for, of one person more."""
    world.enrolled("A")
    return extract_of(world, approved, **more)


def extract_of(world: World, approved: bool = False, **more: Any) -> str:
    """The same of those who are enrolled."""
    answer = world.analyst.post("/v1/extracts", {**UNDER_AGREEMENT, **more, "study": world.study})
    assert answer.status_code == 202, answer.text
    path: str = answer.headers["Location"]
    if approved:
        decided = world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed use"})
        assert decided.status_code == 201, decided.text
    return path


def _new_visit(world: World, caller: Caller, site: str) -> Response:
    return caller.post("/v1/visits", world.visit(world.enrolled(site)))


def _new_outcome_of(world: World, site: str) -> dict[str, Any]:
    visit = made(world, site, "/v1/visits", world.visit(world.enrolled(site))).json()
    return {"participant": visit["participant"], "visit": visit["id"], **madrs(2)}


def _new_outcome(world: World, caller: Caller, site: str) -> Response:
    return caller.post("/v1/outcomes", _new_outcome_of(world, site))


def _amend(world: World, caller: Caller, record: Response, change: Mapping[str, Any]) -> Response:
    path = f"/v1/{_collection(record)}/{record.json()['id']}"
    return caller.patch(path, {"reason": "typed wrongly", **change}, record.headers["ETag"])


def _collection(record: Response) -> str:
    fields = record.json()
    return "outcomes" if "instrument" in fields else "visits"


def _grant_to(world: World, caller: Caller, kind: str) -> Response:
    body = new_user() if kind == "users" else {"name": "App", "organisation": "Test"}
    account = world.admin.post(f"/v1/{kind}", body).json()
    name = account["id"] if kind == "users" else account["client_id"]
    return caller.post(f"/v1/{kind}/{name}/grants", {"role": "monitor", "study": world.study})


def _amend_person(world: World, caller: Caller, site: str) -> Response:
    person = made(world, site, "/v1/participants", world.enrolment(site))
    body = {"age_at_consent": 52, "reason": "typed wrongly"}
    return caller.patch(person.headers["Location"], body, person.headers["ETag"])


def _status(world: World, caller: Caller, site: str) -> Response:
    body = {"status": "active", "effective_on": "2025-02-01", "reason": "first dosing"}
    return caller.post(f"/v1/participants/{world.enrolled(site)}/status", body)


def _lookup(world: World, caller: Caller, site: str) -> Response:
    body = world.enrolment(site)
    made(world, site, "/v1/participants", body)
    return caller.post("/v1/participants/lookup", {name: body[name] for name in ("study", "site", "site_local_id")})


def _new_protocol(world: World, caller: Caller, site: str) -> Response:
    version = {**protocol_definition(), "version": uuid4().hex}
    return caller.post(f"/v1/studies/{world.study}/protocols", version)


def with_password(world: World, caller: Caller) -> None:
    """Give the account behind a token this password, and no second factor."""
    state = world.registry.app.state
    try:
        subject = state.tokens.verify(caller.token).subject
    except TokenRefused:
        return
    with world.registry.database.write() as session:
        session.get_one(Account, subject).password_hash = state.passwords.hash(PASSWORD)
        session.execute(delete(Totp).where(col(Totp.account_id) == subject))


def _own(world: World, caller: Caller, what: str, body: Mapping[str, Any]) -> Response:
    with_password(world, caller)
    return caller.post(f"/v1/me/{what}", body)


def _confirm(world: World, caller: Caller) -> Response:
    offered = _own(world, caller, "totp", {"password": PASSWORD})
    code = totp_code(offered.json()["secret"]) if offered.is_success else "000000"
    return caller.post("/v1/me/totp/confirmation", {"code": code})


def totp_code(secret: str, steps: int = 0) -> str:
    """What an authenticator with this secret shows, so many steps from now."""
    return totp.code(base64.b32decode(secret), totp.step_at(time.time()) + steps)


def content_of(world: World, visit: Mapping[str, Any]) -> str:
    """The hash of a visit's content as its own site's staff sees it."""
    asked = {"participant": visit["participant"], "visit": visit["id"]}
    read = staff(world, visit["site"]).get("/v1/signatures/content", **asked)
    assert read.status_code == 200, read.text
    sha256: str = read.json()["content_sha256"]
    return sha256


def signature_of(world: World, visit: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A valid signature of a visit."""
    return {
        "participant": visit["participant"],
        "visit": visit["id"],
        "meaning": "review",
        "content_sha256": content_of(world, visit),
        "password": PASSWORD,
        **changes,
    }


def _sign(world: World, caller: Caller, site: str) -> Response:
    body = signature_of(world, a_visit(world, site).json())
    with_password(world, caller)
    return caller.post("/v1/signatures", body)


def a_signature(world: World, site: str) -> Response:
    """A visit that the site's own investigator signed."""
    investigator = world.investigator if site == "A" else world.caller((Role.investigator, site))
    answer = _sign(world, investigator, site)
    assert answer.status_code == 201, answer.text
    return answer


def _content(world: World, caller: Caller, site: str) -> Response:
    visit = a_visit(world, site).json()
    return caller.get("/v1/signatures/content", participant=visit["participant"], visit=visit["id"])


LINES: Mapping[str, Callable[[World, str], Any]] = {
    "/v1/participants/bulk": World.enrolment,
    "/v1/visits/bulk": lambda world, site: world.visit(world.enrolled(site)),
    "/v1/outcomes/bulk": _new_outcome_of,
    "/v1/adverse-events/bulk": lambda world, site: world.event(world.enrolled(site)),
    "/v1/verifications/bulk": verification_of,
}
"""A record of a line, by the address of its upload."""

BULK: frozenset[Route] = frozenset(("POST", path) for path in LINES)
"""Routes that answer for each line by itself: tests/test_bulk.py."""


def _upload(path: str) -> Case:
    return lambda world, caller, site: caller.post(path, [{"key": str(uuid4()), "record": LINES[path](world, site)}])


def a_block(world: World, site: str) -> Response:
    """Reserved pids that the site's own staff drew."""
    return made(world, site, RESERVATIONS, {"study": world.study, "site": site, "count": 2})


LISTS = (
    *("/v1/me", "/v1/codebook", "/v1/studies", "/v1/users", "/v1/clients", "/v1/participants", "/v1/visits"),
    *("/v1/outcomes", "/v1/adverse-events", "/v1/dosing-sessions", "/v1/safety-signals", "/v1/signatures"),
    *("/v1/data-queries", "/v1/locks", "/v1/verifications", "/v1/monitoring/summary", "/v1/changes", "/v1/sync"),
    *("/v1/pid-reservations", "/v1/audit-entries", "/v1/data-cuts", "/v1/extracts", "/v1/label-disclosures"),
    *("/v1/subscriptions", "/v1/deliveries"),
)
"""What is read without saying of what."""

OVERVIEWS = (
    *("/v1/adverse-events/summary", "/v1/monitoring/queries", "/v1/monitoring/sites", "/v1/monitoring/verification"),
    "/v1/monitoring/verification/pending",
)
"""What is read of a study."""

CASES: Mapping[Route, Case] = {
    **{("GET", path): lambda world, caller, site, path=path: caller.get(path) for path in LISTS},
    **{("GET", path): lambda world, caller, site, path=path: caller.get(path, study=world.study) for path in OVERVIEWS},
    ("POST", "/v1/me/password"): lambda world, caller, site: _own(
        world, caller, "password", {"current": PASSWORD, "new": "another pass phrase"}
    ),
    ("POST", "/v1/me/totp"): lambda world, caller, site: _own(world, caller, "totp", {"password": PASSWORD}),
    ("POST", "/v1/me/totp/confirmation"): lambda world, caller, site: _confirm(world, caller),
    ("POST", "/v1/studies"): lambda world, caller, site: caller.post(
        "/v1/studies", {"code": f"S-{uuid4().hex}", "title": "T"}
    ),
    ("GET", "/v1/studies/{study}/protocols"): lambda world, caller, site: caller.get(
        f"/v1/studies/{world.study}/protocols"
    ),
    ("POST", "/v1/studies/{study}/protocols"): _new_protocol,
    ("GET", "/v1/studies/{study}/protocols/{version}"): lambda world, caller, site: caller.get(
        f"/v1/studies/{world.study}/protocols/1"
    ),
    ("GET", "/v1/studies/{study}/sites"): lambda world, caller, site: caller.get(f"/v1/studies/{world.study}/sites"),
    ("POST", "/v1/studies/{study}/sites"): lambda world, caller, site: caller.post(
        f"/v1/studies/{world.study}/sites", {"code": uuid4().hex, "name": "New"}
    ),
    ("POST", "/v1/users"): lambda world, caller, site: caller.post("/v1/users", new_user()),
    ("POST", "/v1/users/{user_id}/grants"): lambda world, caller, site: _grant_to(world, caller, "users"),
    **ACCOUNT_CASES,
    ("POST", "/v1/clients"): lambda world, caller, site: caller.post(
        "/v1/clients", {"name": "App", "organisation": "Test"}
    ),
    ("POST", "/v1/clients/{client_id}/grants"): lambda world, caller, site: _grant_to(world, caller, "clients"),
    ("POST", "/v1/participants"): lambda world, caller, site: caller.post("/v1/participants", world.enrolment(site)),
    ("POST", "/v1/participants/lookup"): _lookup,
    ("GET", "/v1/participants/{pid}"): lambda world, caller, site: caller.get(
        f"/v1/participants/{world.enrolled(site)}"
    ),
    ("PATCH", "/v1/participants/{pid}"): lambda world, caller, site: _amend_person(world, caller, site),
    ("POST", "/v1/participants/{pid}/status"): _status,
    ("POST", "/v1/visits"): _new_visit,
    ("GET", "/v1/visits/{visit_id}"): read_of(a_visit),
    ("PATCH", "/v1/visits/{visit_id}"): lambda world, caller, site: _amend(
        world, caller, a_visit(world, site), {"occurred_on": "2025-01-26"}
    ),
    ("POST", "/v1/outcomes"): _new_outcome,
    ("GET", "/v1/outcomes/{outcome_id}"): lambda world, caller, site: caller.get(
        f"/v1/outcomes/{an_outcome(world, site).json()['id']}"
    ),
    ("GET", "/v1/outcomes/summary"): lambda world, caller, site: caller.get(
        "/v1/outcomes/summary", study=world.study, instrument="MADRS"
    ),
    ("POST", "/v1/outcomes/{outcome_id}/rescoring"): posted_below(
        an_older_outcome, "rescoring", {"reason": "new rules"}
    ),
    ("GET", "/v1/participants/{pid}/response"): lambda world, caller, site: caller.get(
        f"/v1/participants/{a_visit(world, site).json()['participant']}/response"
    ),
    ("PATCH", "/v1/outcomes/{outcome_id}"): lambda world, caller, site: _amend(
        world, caller, an_outcome(world, site), {"items": {"MADRS_01": 4}}
    ),
    ("POST", "/v1/signatures"): _sign,
    ("GET", "/v1/signatures/content"): _content,
    ("GET", "/v1/signatures/{signature_id}"): read_of(a_signature),
    **DOSING_CASES,
    **COURSE_CASES,
    **MONITOR_CASES,
    **CLOSING_CASES,
    **VOIDING_CASES,
    **OUTBOX_CASES,
    **LABEL_CASES,
    ("POST", "/v1/sync"): lambda world, caller, site: caller.post("/v1/sync", {"operations": [an_act(world, site)]}),
    ("POST", "/v1/sync/{operation_id}/resolution"): lambda world, caller, site: caller.post(
        f"/v1/sync/{a_refused_act(caller)}/resolution", {"decision": "discard", "reason": "entered twice"}
    ),
    ("POST", "/v1/data-cuts"): lambda world, caller, site: caller.post("/v1/data-cuts", a_cut(world)),
    ("POST", "/v1/extracts"): lambda world, caller, site: caller.post(
        "/v1/extracts", {"study": world.study, "purpose": "A question"}
    ),
    ("GET", "/v1/extracts/{extract_id}"): lambda world, caller, site: caller.get(an_extract(world)),
    ("POST", "/v1/extracts/{extract_id}/approval"): lambda world, caller, site: caller.post(
        f"{an_extract(world)}/approval", {"decision": "approve", "reason": "agreed use"}
    ),
    ("POST", "/v1/extracts/{extract_id}/revocation"): lambda world, caller, site: caller.post(
        f"{an_extract(world, approved=True)}/revocation", {"reason": "misuse"}
    ),
    ("GET", "/v1/extracts/{extract_id}/files/{name}"): lambda world, caller, site: caller.get(
        f"{an_extract(world, approved=True)}/files/visits.csv"
    ),
    ("POST", RESERVATIONS): lambda world, caller, site: caller.post(
        RESERVATIONS, {"study": world.study, "site": site, "count": 2}
    ),
    ("GET", RESERVATIONS + "/{reservation_id}"): read_of(a_block),
    ("POST", RESERVATIONS + "/{reservation_id}/closure"): posted_below(
        a_block, "closure", {"reason": "tablet sent back"}
    ),
    **{("POST", path): _upload(path) for path in LINES},
}
"""What each protected route is asked in the guards. `site` is whose record it is about."""

SITE_PLACES = (
    *("/v1/participants", "/v1/visits", "/v1/outcomes", "/v1/adverse-events", "/v1/dosing", "/v1/safety"),
    *("/v1/signatures", "/v1/data-queries", "/v1/locks", "/v1/verifications", "/v1/pid-reservations"),
)
OF_A_SITE: frozenset[Route] = frozenset(
    route
    for route in CASES.keys() - BULK
    if route[1].startswith(SITE_PLACES) and ("{" in route[1] or route[0] == "POST" or route[1].endswith("/content"))
)
"""Routes about one record of one site: another site's is 404 there."""

OF_A_STUDY: frozenset[Route] = OF_A_SITE | frozenset(
    route
    for route in CASES
    if (route[1].startswith("/v1/monitoring/") and route[1] != "/v1/monitoring/summary")
    or (
        route[1].startswith(("/v1/studies/{study}", "/v1/extracts", "/v1/data-cuts", "/v1/label-disclosures"))
        and ("{" in route[1] or route[0] == "POST")
    )
    or route[1] in {"/v1/adverse-events/summary", "/v1/outcomes/summary"}
)
"""Routes about one study or something in it: 404 for somebody whose grants are in another study."""
