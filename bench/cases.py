"""The requests that are measured, and the floors beside them."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import uuid4

from app.access import Actor, load_actor
from app.database import Database
from app.models.account import Role
from app.permissions import Permission
from app.security.keys import load_keyring
from app.security.tokens import TokenAuthority
from app.settings import Settings
from bench.load import Request
from bench.measure import Case, asked
from bench.seed import Seeded
from bench.serving import Server

VISITS_PER_PERSON = 1_000
"""Occurrences that the API takes of one unscheduled visit."""

BARE, TOKEN, ACTOR = "bare endpoint", "+ token check", "+ account and grants"
VALIDATED, VISIT, PAGE = "visit validated, no database", "visit POST", "AE page of 50"


@dataclass(frozen=True)
class Place:
    """A seeded and served registry."""

    settings: Settings
    seeded: Seeded
    server: Server
    visits: Iterator[bytes]
    """Visits that nobody has posted yet."""

    def monitor(self, permission: Permission) -> Actor:
        """Whom the registry takes the monitor for."""
        claims = TokenAuthority(load_keyring(self.settings), self.settings).verify(self.seeded.tokens[Role.monitor])
        with Database(self.settings) as database:
            return load_actor(database, claims, permission)

    def get(self, path: str, role: Role = Role.monitor) -> Request:
        headers = {"Authorization": f"Bearer {self.seeded.tokens[role]}"}
        return lambda: ("GET", path, headers, b"")

    def post_visit(self, path: str = "/v1/visits") -> Request:
        token = self.seeded.tokens[Role.site_staff]
        return lambda: ("POST", path, _headers(token), next(self.visits))

    def post_visit_of_site(self) -> Request:
        """Each visit by an account of its own site."""
        number_of = {one: number for number, one in enumerate(self.seeded.pids)}

        def request() -> tuple[str, str, dict[str, str], bytes]:
            body = next(self.visits)
            number = number_of[json.loads(body)["participant"]]
            return "POST", "/v1/visits", _headers(self.seeded.staff[number % len(self.seeded.staff)]), body

        return request

    def post_bulk(self, lines: int) -> Request:
        token = self.seeded.tokens[Role.site_staff]

        def request() -> tuple[str, str, dict[str, str], bytes]:
            bodies = itertools.islice(self.visits, lines)
            sent = b"".join(b'{"key":"%s","record":%s}\n' % (str(uuid4()).encode(), body) for body in bodies)
            return "POST", "/v1/visits/bulk", {**_headers(token), "Content-Type": "application/x-ndjson"}, sent

        return request


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())}


def new_visits(pids: list[str]) -> Iterator[bytes]:
    """All participants in turn, then the next occurrence."""
    for occurrence, one in itertools.product(range(1, VISITS_PER_PERSON + 1), pids):
        visit = {
            "participant": one,
            "visit_code": "UNS",
            "occurrence": occurrence,
            "occurred_on": "2025-03-01",
            "status": "completed",
        }
        yield json.dumps(visit).encode()


def page_of(place: Place) -> str:
    return f"/v1/adverse-events?site={place.seeded.site}&serious=true&limit=50"


def floors(place: Place) -> list[Case]:
    return [
        asked(BARE, place.server, place.get("/floor/bare")),
        asked(TOKEN, place.server, place.get("/floor/token")),
        asked(ACTOR, place.server, place.get("/floor/actor")),
        asked(VALIDATED, place.server, place.post_visit("/floor/validated")),
    ]


def nouns(place: Place) -> list[Case]:
    return [
        asked(VISIT, place.server, place.post_visit(), into=place.settings),
        asked(PAGE, place.server, place.get(page_of(place))),
    ]


def idiomatic(place: Place) -> list[Case]:
    """The same nouns as most code has them."""
    visit, page = "/floor/idiomatic/visits", "/floor/idiomatic/adverse-events"
    return [
        asked(f"{VISIT}, idiomatic ORM", place.server, place.post_visit(visit), into=place.settings),
        asked(f"{PAGE}, idiomatic ORM", place.server, place.get(page, Role.site_staff)),
    ]
