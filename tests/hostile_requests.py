"""A request that would be accepted for each route that takes JSON, to be spoilt in one place; and spoilt bodies."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from httpx2 import Response
from sqlalchemy import Engine
from sqlmodel import col, func, select

from app.main import ROUTERS
from app.models.account import Role
from app.models.audit import AuditEntry
from tests.hostile import census
from tests.ready import made_ready
from tests.route_cases import UNDER_AGREEMENT, Route
from tests.test_permissions import MATRIX, caller_of
from tests.world import Caller, World, madrs

MARK = "Zq7MARKq7Z"
ROUTES: Mapping[str, Route] = {
    route.name: (method, route.path)
    for module in ROUTERS
    for route in module.router.routes
    if route.dependant.body_params and not (route.openapi_extra or {}).get("x-form")
    for method in route.methods
}
"""The routes that take JSON, by the names of their operations."""

NAMES = tuple(ROUTES)
MORE: Mapping[str, Mapping[str, Any]] = {
    "enrol": {"race": "ASIAN"},
    "amend_participant": {"sex": "M"},
    "record_visit": {"visit_code": "UNS", "occurrence": 2, "outcomes": [madrs(2)]},
    "report_adverse_event": {
        "codings": [{"system": "MedDRA", "version": "26.1", "code": "10019211", "term": "Headache", "level": "pt"}],
        "criteria": {"death": False},
        "aware_at": "2025-02-04T09:00:00Z",
    },
    "report_serious_event": {"narrative": "As told"},
    "start_dosing_session": {
        "medications": [{"atc": "N05BA06", "kind": "concomitant", "amount_mg": 1.0, "given_at": "2025-03-03T08:00:00Z"}]
    },
    "record_dose": {"deviation_reason": "No cuff"},
    "request_extract": UNDER_AGREEMENT,
    "add_site": {"timezone": "Europe/Berlin"},
    "amend_user": {"display_name": "Q"},
    "amend_client": {"display_name": "Q"},
    **{name: {"role": "site_staff", "sites": ["A"]} for name in ("grant_to_user", "grant_to_client")},
    "rotate_client_secret": {"overlap_hours": 1},
}
"""Fields beside those of the routes' cases, or with other values, that are to be spoilt too."""

OWN = {"change_password": Role.custodian, "offer_totp": Role.monitor, "confirm_totp": Role.admin}
"""Who asks where everybody may: each is somebody else, as wrong passwords make one's account wait."""


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
        """The body with one value replaced (or added); what lies beside the way to it is shared."""
        body = place = _copied(self.body)
        *way, last = pointer.strip("/").split("/")
        for step in way:
            at = int(step) if isinstance(place, list) else step
            place[at] = place = _copied(place[at])
        place[int(last) if isinstance(place, list) else last] = value
        return body

    def with_unknown(self, key: str) -> Any:
        """The body with a field that nobody asked for: in its first item, where it is a list."""
        if isinstance(self.body, list):
            return [{**self.body[0], key: MARK}]
        return {**self.body, key: MARK}


def _copied(inside: Any) -> Any:
    return list(inside) if isinstance(inside, list) else dict(inside)


class Targets:
    """A request for each route that takes JSON, about records of one study; made when it is first asked for."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._targets: dict[str, Target] = {}

    def __getitem__(self, name: str) -> Target:
        if name not in self._targets:
            self._targets[name] = self._target(name)
        return self._targets[name]

    def _target(self, name: str) -> Target:
        route = ROUTES[name]
        if name == "open_session":
            nobody = {"username": "nobody", "password": "long enough 12"}
            return Target(self.world.admin, *route, nobody, {})
        caller = caller_of(self.world, OWN.get(name, min(MATRIX[route])))
        ready = made_ready(self.world, route, "A", caller.token)
        body, seen = ready.sent["json"], ready.sent["headers"].get("If-Match")
        body = {**body, **MORE.get(name, {})} if isinstance(body, dict) else body
        return Target(caller, ready.method, ready.path, body, {"If-Match": seen} if seen else {})


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
