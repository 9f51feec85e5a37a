"""A registry of some size, the requests that users wait for, and the statements that these make."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from sqlalchemy import event

from app.database import Database
from app.models.account import Role
from app.settings import Settings
from bench.seed import Seeded
from tests.world import Caller, enrolment, madrs


@dataclass
class Place:
    app: FastAPI
    client: TestClient
    settings: Settings
    seeded: Seeded
    occurrence: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def on_sqlite(self) -> bool:
        return self.settings.database_url.startswith("sqlite")

    def caller(self, role: Role) -> Caller:
        return Caller(self.client, self.seeded.tokens[role])

    @property
    def person(self) -> str:
        return self.seeded.pids[0]

    def visit(self, **more: Any) -> dict[str, Any]:
        """One that nobody has recorded yet."""
        body = {"participant": self.person, "visit_code": "UNS", "occurrence": next(self.occurrence)}
        return {**body, "occurred_on": "2025-03-01", "status": "completed", **more}

    def enrol(self) -> Response:
        body = enrolment(self.seeded.study, self.seeded.site)
        return self.caller(Role.site_staff).post("/v1/participants", body)

    def record(self, **more: Any) -> Response:
        return self.caller(Role.site_staff).post("/v1/visits", self.visit(**more))

    def upload(self, lines: int) -> Response:
        return self.sent(Role.site_staff, "/v1/visits/bulk", [self.visit() for _ in range(lines)])

    def sent(self, role: Role, path: str, records: Sequence[Mapping[str, Any]]) -> Response:
        lines = [json.dumps({"key": str(uuid4()), "record": record}).encode() for record in records]
        return self.caller(role).raw("POST", path, b"\n".join(lines), **{"Content-Type": "application/x-ndjson"})

    def prepared(self) -> Mapping[str, Callable[[], Response]]:
        """The hot requests by name, each of which may be made again and again."""
        staff, monitor = self.caller(Role.site_staff), self.caller(Role.monitor)
        recorded = self.record().json()["id"]
        event_of = {"participant": self.person, "term": "Headache", "onset": "2025-02-03", "severity": "mild"}

        seen = monitor.get("/v1/visits", site="S0", limit="100").json()["items"]
        verified = [
            {"subject_type": "visit", "subject": one["id"], "version": one["version"], "result": "verified"}
            for one in seen
        ]

        def amend() -> Response:
            tag = staff.get(f"/v1/visits/{recorded}").headers["etag"]
            return staff.patch(f"/v1/visits/{recorded}", {"reason": "measured", "occurred_on": "2025-03-02"}, tag)

        def add_outcome() -> Response:
            visit = self.record().json()["id"]
            body = {"participant": self.person, "visit": visit, "collected_on": "2025-03-01", **madrs(1)}
            return staff.post("/v1/outcomes", body)

        lists: Mapping[str, tuple[str, dict[str, str]]] = {
            "participants": ("/v1/participants", {}),
            "visits": ("/v1/visits", {}),
            "visits beside their windows": ("/v1/visits", {"include": "window"}),
            "outcomes": ("/v1/outcomes", {}),
            "adverse events": ("/v1/adverse-events", {}),
            "adverse events beside the doses": ("/v1/adverse-events", {"include": "exposure"}),
            "serious adverse events of a site": ("/v1/adverse-events", {"site": "S0", "serious": "true"}),
            "change feed": ("/v1/changes", {"limit": "50"}),
            "schedule": (f"/v1/participants/{self.person}/schedule", {}),
            "response": (f"/v1/participants/{self.person}/response", {}),
            "content to sign": ("/v1/signatures/content", {"participant": self.person}),
            "audit trail": ("/v1/audit-entries", {"limit": "50"}),
        }
        return {
            "enrolment": self.enrol,
            "visit": self.record,
            "visit with outcomes": lambda: self.record(outcomes=[madrs(1), SHEEHAN]),
            "adverse event": lambda: staff.post("/v1/adverse-events", event_of),
            "outcome, and the visit before it": add_outcome,
            "amended visit, read before": amend,
            "10 visits in bulk": lambda: self.upload(10),
            "100 visits in bulk": lambda: self.upload(100),
            "100 verifications in bulk": lambda: self.sent(Role.monitor, "/v1/verifications/bulk", verified),
            **{name: lambda of=of: monitor.get(of[0], **of[1]) for name, of in lists.items()},
        }


SHEEHAN = {"instrument": "SHEEHAN_SDS", "items": {"SDS_01": 7, "SDS_02": 8, "SDS_03": 6}}


@contextmanager
def statements(database: Database, look: Callable[[Any, str, Any], None]) -> Iterator[None]:
    """Call `look` with each statement (its cursor, text and parameters) before the database gets it."""

    def before(_connection: Any, cursor: Any, statement: str, given: Any, _context: Any, _many: bool) -> None:
        look(cursor, statement, given[0] if isinstance(given, list) else given)

    event.listen(database.of_sessions, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(database.of_sessions, "before_cursor_execute", before)
