"""A request that would be accepted for each route that takes JSON, to be spoilt in one place; and spoilt bodies."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from httpx2 import Response
from sqlalchemy import Engine
from sqlmodel import col, func, select

from app.models.audit import AuditEntry
from tests.account_cases import WHY, Make, a_person, a_site_app
from tests.closing_cases import a_lock, a_verification, lock_of, verification_of
from tests.course_cases import (
    CONSENT,
    ELIGIBILITY,
    ONE_TREATMENT,
    SCREENING,
    TREATMENT,
    WITHDRAWAL,
    a_treatment,
    amended,
    open_screening,
    screen_failed,
    under_amendment,
    withdrawn,
)
from tests.dosing_cases import AMENDMENTS as DOSING_AMENDMENTS
from tests.dosing_cases import (
    REVIEW,
    SESSIONS,
    SIGNALS,
    a_session,
    a_session_to_close,
    a_signal,
    closing,
    dose,
    path_of,
    prepared,
    start,
    vitals,
)
from tests.hostile import census
from tests.label_cases import a_disclosure, asking
from tests.monitor_cases import a_question, a_review, an_event, question_about
from tests.outbox_cases import a_dead_delivery, a_subscription
from tests.route_cases import (
    PASSWORD,
    UNDER_AGREEMENT,
    a_block,
    a_cut,
    a_refused_act,
    a_visit,
    an_act,
    an_extract,
    an_outcome,
    signature_of,
    with_password,
)
from tests.voided_cases import TO_BE_VOIDED, to_be_voided
from tests.world import Caller, World, madrs, protocol_definition

MARK = "Zq7MARKq7Z"
PERSON = "/v1/participants/{pid}"
PEOPLE: Mapping[str, Callable[[World], str]] = {
    "consents": under_amendment,
    "screenings": screen_failed,
    "eligibility": open_screening,
    "voiding": withdrawn,
}
"""Participants who are ready for what is posted below their address."""
TOLD = {"kind": "webhook", "address": "https://r.example.org/", "event_types": ["extract.ready"]}


@dataclass(frozen=True)
class Target:
    """One route with a request that it would accept."""

    caller: Caller
    method: str
    path: str
    body: Mapping[str, Any] | list[Any]
    headers: Mapping[str, str]

    def send(self, content: bytes, **headers: Any) -> Response:
        return self.caller.raw(self.method, self.path, content, **{**self.headers, **headers})

    def send_json(self, body: Any, **headers: Any) -> Response:
        return self.send(json.dumps(body).encode(), **headers)

    def with_value(self, pointer: str, value: Any) -> Any:
        """The body with one value replaced (or added)."""
        body: Any = deepcopy(self.body if isinstance(self.body, list) else dict(self.body))
        place, steps = body, pointer.strip("/").split("/")
        for step in steps[:-1]:
            place = place[int(step) if isinstance(place, list) else step]
        place[int(steps[-1]) if isinstance(place, list) else steps[-1]] = value
        return body

    def with_unknown(self, key: str) -> Any:
        """The body with a field that nobody asked for: in its first item, where it is a list."""
        if isinstance(self.body, list):
            return [{**self.body[0], key: MARK}]
        return {**self.body, key: MARK}


class Targets:
    """A study with one record of each kind, and a request for each route that takes JSON."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._targets: dict[str, Target] = {}
        for caller in (world.custodian, world.monitor, world.investigator):
            with_password(world, caller)
        visit, outcome, event = a_visit(world, "A"), an_outcome(world, "A"), an_event(world, "A")
        person = world.staff_a.get(f"/v1/participants/{world.enrolled()}")
        self.pid = world.enrolled()
        subscription = world.admin.get(a_subscription(world)["path"])
        self.visit_id = world.staff_a.post("/v1/visits", world.visit(self.pid)).json()["id"]
        self.routes = {
            **self._of_staff(world),
            **self._of_others(world),
            **self._of_dosing(world),
            **self._of_monitors(world, event.json()),
            "amend_participant": ("PATCH", person, PERSON, {"age_at_consent": 52, "sex": "M"}),
            "amend_visit": ("PATCH", visit, "/v1/visits/{visit_id}", {"occurred_on": "2025-01-26"}),
            "amend_outcome": ("PATCH", outcome, "/v1/outcomes/{outcome_id}", {"items": {"MADRS_01": 4}}),
            "amend_user": ("PATCH", self._account(a_person), "/v1/users/{user_id}", {"display_name": "Q"}),
            "amend_client": ("PATCH", self._account(a_site_app), "/v1/clients/{client_id}", {"display_name": "Q"}),
            "amend_subscription": ("PATCH", subscription, "/v1/subscriptions/{subscription_id}", {"disabled": True}),
            "amend_treatment": ("PATCH", a_treatment(world), ONE_TREATMENT, {"weeks": 6}),
            **to_be_voided(world),
            "amend_event": ("PATCH", event, "/v1/adverse-events/{event_id}", {"severity": "severe"}),
        }

    def _of_staff(self, world: World) -> dict[str, Any]:
        label = {name: value for name, value in world.enrolment().items() if name in {"study", "site", "site_local_id"}}
        status = {"status": "active", "effective_on": "2025-02-01", "reason": "first dosing"}
        coding = {"system": "MedDRA", "version": "26.1", "code": "10019211", "term": "Headache", "level": "pt"}
        event = world.event(self.pid, codings=[coding], criteria={"death": False}, aware_at="2025-02-04T09:00:00Z")
        staff = world.staff_a
        return {
            "enrol": (staff, "/v1/participants", {**world.enrolment(), "race": "ASIAN"}),
            "lookup": (staff, "/v1/participants/lookup", label),
            "status": (staff, PERSON + "/status", status),
            "visit": (staff, "/v1/visits", world.visit(self.pid, "UNS", occurrence=2, outcomes=[madrs(2)])),
            "outcome": (staff, "/v1/outcomes", {"participant": self.pid, "visit": self.visit_id, **madrs(1)}),
            "event": (staff, "/v1/adverse-events", event),
            "consent": (staff, PERSON + "/consents", CONSENT),
            "withdrawal": (staff, PERSON + "/withdrawals", WITHDRAWAL),
            "voiding": (staff, PERSON + "/withdrawals/{number}/voiding", WHY),
            "screening": (staff, PERSON + "/screenings", SCREENING),
            "eligibility": (staff, PERSON + "/eligibility", ELIGIBILITY),
            "move": (staff, PERSON + "/protocol-version", {"version": amended(world), "reason": "amendment in force"}),
            "treatment": (staff, PERSON + "/treatments", TREATMENT),
            "rescore": (staff, "/v1/outcomes/{outcome_id}/rescoring", {"reason": "new rules"}),
            "report": (staff, "/v1/adverse-events/{event_id}/reports", {"kind": "initial", "narrative": "As told"}),
            "ae_review": (
                world.monitor,
                "/v1/adverse-events/{event_id}/reviews",
                {"kind": "acknowledged", "version": 1},
            ),
            "sign": (world.investigator, "/v1/signatures", signature_of(world, a_visit(world, "A").json())),
        }

    def _of_dosing(self, world: World) -> dict[str, Any]:
        staff, one = world.staff_a, f"{SESSIONS}/{{session_id}}"
        visit = prepared(staff, world.enrolled())
        drug = {"atc": "N05BA06", "kind": "concomitant", "amount_mg": 1.0, "given_at": "2025-03-03T08:00:00Z"}
        return {
            "start": (staff, SESSIONS, start(visit["id"], medications=[drug])),
            "dose": (staff, f"{one}/doses", dose("supplemental", 40, "11:05", deviation_reason="No cuff")),
            "vitals": (staff, f"{one}/vitals", vitals("M60", "10:15")),
            "close": (staff, f"{one}/close", closing()),
            "review": (staff, f"{SIGNALS}/{{signal_id}}/review", REVIEW),
            "amend_session": ("PATCH", a_session(world), one, DOSING_AMENDMENTS[""]),
            **{
                name: ("PATCH", a_session_to_close(world), one + below, DOSING_AMENDMENTS[below])
                for name, below in (("amend_dose", "/doses/{dose_id}"), ("amend_vitals", "/vitals/{reading_id}"))
            },
        }

    def _of_monitors(self, world: World, event: Mapping[str, Any]) -> dict[str, Any]:
        question, path = question_about(event), "/v1/data-queries/{query_id}"
        closure = {"decision": "cancel", "reason": "asked wrongly"}
        return {
            "question": (world.monitor, "/v1/data-queries", question),
            "questions": (world.monitor, "/v1/data-queries/bulk", [question]),
            "answer": (world.staff_a, f"{path}/answers", {"text": "Checked"}),
            "closure": (world.monitor, f"{path}/closure", closure),
        }

    def _of_others(self, world: World) -> dict[str, Any]:
        user = {
            "username": f"u{uuid4().hex}",
            "display_name": "P",
            "organisation": "Test",
            "password": "long enough 12",
        }
        admin, grant = world.admin, {"role": "site_staff", "study": world.study, "sites": ["A"]}
        decision = {"decision": "approve", "reason": "agreed use"}
        return {
            "lock": (world.monitor, "/v1/locks", lock_of(world, "A")),
            "lift": (world.monitor, "/v1/locks/{lock_id}/lifting", {"reason": "a late page came in"}),
            "verify": (world.monitor, "/v1/verifications", verification_of(world, "A")),
            "unreview": (world.monitor, "/v1/adverse-events/{event_id}/reviews/{number}/withdrawal", WHY),
            "unverify": (world.monitor, "/v1/verifications/{verification_id}/withdrawal", WHY),
            "reserve": (world.staff_a, "/v1/pid-reservations", {"study": world.study, "site": "A", "count": 2}),
            "close_block": (world.staff_a, "/v1/pid-reservations/{reservation_id}/closure", WHY),
            "sync": (world.staff_a, "/v1/sync", {"operations": [an_act(world, "A")]}),
            "resolve": (world.staff_a, "/v1/sync/{operation_id}/resolution", {"decision": "discard", **WHY}),
            "ask": (world.monitor, "/v1/label-disclosures", asking(self.pid)),
            "decide": (world.custodian, "/v1/label-disclosures/{disclosure_id}/decision", decision),
            "cut": (world.custodian, "/v1/data-cuts", a_cut(world)),
            "extract": (world.analyst, "/v1/extracts", {**UNDER_AGREEMENT, "study": world.study}),
            "approval": (world.custodian, "/v1/extracts/{extract_id}/approval", decision),
            "take_back": (world.custodian, "/v1/extracts/{extract_id}/revocation", WHY),
            "sign_in": (admin, "/v1/auth/sessions", {"username": "nobody", "password": "long enough 12"}),
            "own_password": (world.custodian, "/v1/me/password", {"current": PASSWORD, "new": "another pass phrase"}),
            "own_totp": (world.monitor, "/v1/me/totp", {"password": PASSWORD}),
            "own_code": (admin, "/v1/me/totp/confirmation", {"code": "123456"}),
            "subscribe": (admin, "/v1/subscriptions", {**TOLD, "study": world.study, "site": "A"}),
            "renew_webhook": (admin, "/v1/subscriptions/{subscription_id}/secret", WHY),
            "replay": (admin, "/v1/deliveries/{delivery_id}/replay", WHY),
            "dismissal": (admin, "/v1/deliveries/{delivery_id}/dismissal", WHY),
            "study": (admin, "/v1/studies", {"code": f"S-{uuid4().hex}", "title": "T"}),
            "protocol": (admin, "/v1/studies/{study}/protocols", {**protocol_definition(), "version": uuid4().hex}),
            "site": (admin, "/v1/studies/{study}/sites", {"code": "C", "name": "New", "timezone": "Europe/Berlin"}),
            "user": (admin, "/v1/users", user),
            "client": (admin, "/v1/clients", {"name": "App", "organisation": "Test"}),
            "grant_user": (admin, "/v1/users/{user_id}/grants", grant),
            "grant_client": (admin, "/v1/clients/{client_id}/grants", grant),
            "password": (admin, "/v1/users/{user_id}/password", {"password": "long enough 12", "reason": "forgotten"}),
            "identity": (admin, "/v1/users/{user_id}/identity", {"subject": uuid4().hex, "reason": "joined"}),
            "sessions_end": (admin, "/v1/users/{user_id}/sessions/revocation", {"reason": "left the team"}),
            "revoke_user_grant": (admin, "/v1/users/{user_id}/grants/{grant_id}/revocation", WHY),
            "revoke_client_grant": (admin, "/v1/clients/{client_id}/grants/{grant_id}/revocation", WHY),
            "revoke_secret": (admin, "/v1/clients/{client_id}/secrets/{secret_id}/revocation", WHY),
            "secret": (admin, "/v1/clients/{client_id}/secrets", {"reason": "yearly", "overlap_hours": 1}),
        }

    def __getitem__(self, name: str) -> Target:
        if name not in self._targets:
            self._targets[name] = self._target(name)
        return self._targets[name]

    def _target(self, name: str) -> Target:
        route = self.routes[name]
        if len(route) == 4:
            method, record, template, change = route
            if isinstance(record, tuple):
                path, seen = record
                return Target(self.world.staff_a, method, f"{path}/voiding", WHY, {"If-Match": seen})
            shown = record.json()
            name = shown["login"] if "{client_id}" in template else shown.get("id") or shown["pid"]
            path, last = record.headers.get("Location"), template.rpartition("}")[2]
            if "doses" in shown:
                path = path_of(record, template.removeprefix(f"{SESSIONS}/{{session_id}}").removesuffix(last))
            path = (path or template.partition("{")[0] + name) + last
            body = {"reason": "typed wrongly", **change}
            caller = self.world.admin if "login" in shown or "event_types" in shown else self.world.staff_a
            return Target(caller, method, path, body, {"If-Match": record.headers["ETag"]})
        caller, template, body = route
        return Target(caller, "POST", self._filled(template), body, {})

    def _account(self, make: Make) -> Response:
        return self.world.admin.get(make(self.world)["path"])

    def _filled(self, template: str) -> str:
        template = template.replace("{number}", "1")
        if "{" not in template:
            return template
        if template.count("{") == 2:
            account = a_person(self.world) if "{user_id}" in template else a_site_app(self.world)
            below = template.partition("}/")[2]
            return f"{account['path']}/" + below.format(
                grant_id=account["grants"][0]["id"], secret_id=account.get("secret_id")
            )
        name = template.partition("{")[2].partition("}")[0]
        below = template.rpartition("/")[2]
        pid = PEOPLE[below](self.world) if below in PEOPLE else self.pid
        values = {"pid": pid, "study": self.world.study}
        return template.replace(f"{{{name}}}", values.get(name) or self._made(name, below))

    def _made(self, name: str, below: str) -> str:
        """The id of a new record, as the template names it, ready for what is posted below it."""
        world = self.world
        user = {"username": f"u{uuid4().hex}", "display_name": "P", "organisation": "Test"}
        client = {"name": "App", "organisation": "Test"}
        makers: dict[str, Callable[[], Any]] = {
            "reservation_id": lambda: a_block(world, "A").json()["id"],
            "outcome_id": lambda: an_outcome(world, "A").json()["id"],
            "event_id": lambda: a_review(world, "A").split("/")[3],
            "session_id": lambda: a_session_to_close(world).json()["id"],
            "signal_id": lambda: a_signal(world).json()["id"],
            "operation_id": lambda: a_refused_act(world.staff_a),
            "extract_id": lambda: an_extract(world, approved=below == "revocation").rpartition("/")[2],
            "disclosure_id": lambda: a_disclosure(world).rpartition("/")[2],
            "lock_id": lambda: a_lock(world, "A").headers["Location"].rpartition("/")[2],
            "verification_id": lambda: a_verification(world, "A").headers["Location"].rpartition("/")[2],
            "subscription_id": lambda: a_subscription(world)["id"],
            "delivery_id": lambda: a_dead_delivery(world).rpartition("/")[2],
            "query_id": lambda: a_question(world, "A").rpartition("/")[2],
            "client_id": lambda: world.admin.post("/v1/clients", client).json()["client_id"],
            "user_id": lambda: world.admin.post("/v1/users", {**user, "password": "long enough 12"}).json()["id"],
        }
        return str(makers[name]())


NAMES = (
    *(
        *("enrol", "lookup", "status", "visit", "outcome", "event", "rescore", *TO_BE_VOIDED),
        *("consent", "withdrawal", "voiding", "screening", "eligibility", "move", "treatment"),
        *("report", "ae_review", "sign", "lock", "lift"),
        *("verify", "unverify", "unreview"),
        *("reserve", "close_block", "sync", "resolve"),
        "ask",
        "decide",
        "cut",
        "extract",
        "approval",
        "take_back",
        "sign_in",
        "study",
        "protocol",
    ),
    *("site", "user", "client", "grant_user", "grant_client", "own_password", "own_totp", "own_code"),
    *("password", "identity", "sessions_end", "secret"),
    *("amend_user", "amend_client", "revoke_user_grant", "revoke_client_grant", "revoke_secret"),
    *("question", "questions", "answer", "closure"),
    *("amend_participant", "amend_visit", "amend_outcome", "amend_event", "amend_treatment"),
    *("start", "dose", "vitals", "close", "review", "amend_session", "amend_dose", "amend_vitals"),
    *("subscribe", "renew_webhook", "replay", "dismissal", "amend_subscription"),
)


@contextmanager
def nothing_kept(targets: Targets) -> Iterator[None]:
    """Whatever is asked inside stores nothing, but that it was refused."""
    engine = targets.world.registry.database.engine
    before = _but_for_refusals(engine)
    yield
    assert _but_for_refusals(engine) == before


def _but_for_refusals(engine: Engine) -> dict[str, Any]:
    counted = {name: rows for name, rows in census(engine).items() if name != "audit_chain"}
    others = select(func.count()).select_from(AuditEntry).where(col(AuditEntry.action) != "request:refused")
    with engine.connect() as connection:
        return {**counted, "audit_entry": connection.execute(others).scalar()}


def spoilt(text: str, **more: Any) -> bytes:
    return text.replace("MARK", MARK).encode(**more)


BODIES: Mapping[str, tuple[bytes, dict[str, str], int]] = {
    "empty": (b"", {}, 422),
    "cut": (spoilt('{"MARK": "MARK'), {}, 400),
    "two values": (spoilt('{} "MARK"'), {}, 400),
    "trailing comma": (spoilt('{"MARK": 1,}'), {}, 400),
    "single quotes": (spoilt("{'MARK': 1}"), {}, 400),
    "a list": (spoilt('["MARK"]'), {}, 422),
    "a string": (spoilt('"MARK"'), {}, 422),
    "a number": (b"5", {}, 422),
    "null": (b"null", {}, 422),
    "NaN": (spoilt('{"MARK": NaN}'), {}, 400),
    "Infinity": (spoilt('{"MARK": -Infinity}'), {}, 400),
    "1e400": (spoilt('{"MARK": 1e400}'), {}, 400),
    "-1e400": (spoilt('{"MARK": -1e400}'), {}, 400),
    "10^400": (b'{"x": 1' + b"0" * 400 + b"}", {}, 400),
    "5000 digits": (b'{"x": ' + b"9" * 5000 + b"}", {}, 400),
    "duplicate keys": (spoilt('{"reason": "MARK", "reason": "MARK 2"}'), {}, 400),
    "duplicate nested keys": (spoilt('{"items": [{"MARK": 1, "MARK": 2}]}'), {}, 400),
    "100,000 brackets": (b"[" * 100_000, {}, 400),
    "100,000 closed brackets": (b"[" * 100_000 + b"]" * 100_000, {}, 400),
    "100,000 objects": (b'{"a":' * 100_000, {}, 400),
    "NUL byte": (spoilt('{"reason": "MARK\0"}'), {}, 400),
    "not UTF-8": (b'{"reason": "' + MARK.encode() + b'\xff\xfe"}', {}, 400),
    "overlong UTF-8": (b'{"reason": "' + MARK.encode() + b'\xc0\xaf"}', {}, 400),
    "UTF-8 surrogate": (b'{"reason": "' + MARK.encode() + b'\xed\xa0\x80"}', {}, 400),
    "UTF-16": (spoilt('{"reason": "MARK"}', encoding="utf-16"), {}, 400),
    "UTF-32": (spoilt('{"reason": "MARK"}', encoding="utf-32"), {}, 400),
    "BOM": (spoilt('{"reason": "MARK"}', encoding="utf-8-sig"), {}, 400),
    "over the limit": (b'{"reason": "' + MARK.encode() * 110_000 + b'"}', {}, 413),
    "a form": (spoilt("reason=MARK"), {"Content-Type": "application/x-www-form-urlencoded"}, 415),
    "XML": (spoilt("<reason>MARK</reason>"), {"Content-Type": "application/xml"}, 415),
    "text": (spoilt('{"reason": "MARK"}'), {"Content-Type": "text/plain"}, 415),
    "no content type": (spoilt('{"reason": "MARK"}'), {"Content-Type": ""}, 415),
    "marked content type": (spoilt('{"reason": "MARK"}'), {"Content-Type": f"application/{MARK}"}, 415),
    "charset latin-1": (spoilt('{"reason": "MARK"}'), {"Content-Type": "application/json; charset=iso-8859-1"}, 415),
    "charset UTF-16": (spoilt('{"reason": "MARK"}'), {"Content-Type": "application/json; charset=utf-16"}, 415),
    "compressed": (b"\x1f\x8b\x08\x00" + MARK.encode(), {"Content-Encoding": "gzip"}, 415),
}
"""Bodies that cannot be read, or are no JSON object: content, headers, status."""
