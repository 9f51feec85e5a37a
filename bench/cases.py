"""What is measured: each case with its request and the floor that it is divided by."""

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import uuid4

from app.models.account import Role
from bench.load import Request
from bench.seed import Seeded

VISITS_PER_PERSON = 1_000
"""Occurrences that the API takes of one unscheduled visit."""


@dataclass(frozen=True)
class Case:
    name: str
    request: Request
    floor: str | None = None
    """The case whose requests/s are the 1.00 of this one."""

    writes: bool = False


def cases(seeded: Seeded) -> list[Case]:
    """Every case, floors first."""
    staff, monitor = seeded.tokens[Role.site_staff], seeded.tokens[Role.monitor]
    page = f"/v1/adverse-events?site={seeded.site}&serious=true&limit=50"
    visits = _visits(seeded.pids)
    return [
        Case("bare endpoint", _get("/floor/bare", monitor)),
        Case("+ token check", _get("/floor/token", monitor), "bare endpoint"),
        Case("+ account and grants", _get("/floor/actor", monitor), "bare endpoint"),
        Case("visit validated, no database", _post("/floor/validated", staff, visits), "bare endpoint"),
        Case("visit POST", _post("/v1/visits", staff, visits), "visit validated, no database", writes=True),
        Case(
            "visit POST, idiomatic ORM",
            _post("/floor/idiomatic/visits", staff, visits),
            "visit validated, no database",
            writes=True,
        ),
        Case("AE page of 50", _get(page, monitor), "+ account and grants"),
        Case("AE page of 50, idiomatic ORM", _get("/floor/idiomatic/adverse-events", staff), "+ account and grants"),
    ]


def _get(path: str, token: str) -> Request:
    headers = {"Authorization": f"Bearer {token}"}
    return lambda: ("GET", path, headers, b"")


def _post(path: str, token: str, bodies: Iterator[bytes]) -> Request:
    return lambda: (
        "POST",
        path,
        {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())},
        next(bodies),
    )


def _visits(pids: list[str]) -> Iterator[bytes]:
    """Visits that nobody has posted yet: all participants in turn, then the next occurrence."""
    for occurrence, one in itertools.product(range(1, VISITS_PER_PERSON + 1), pids):
        visit = {
            "participant": one,
            "visit_code": "UNS",
            "occurrence": occurrence,
            "occurred_on": "2025-03-01",
            "status": "completed",
        }
        yield json.dumps(visit).encode()


def extract(seeded: Seeded, ask: Callable[..., dict[str, str]]) -> bytes:
    """One extract from request to the last byte of outcomes.csv. `ask` sends a request and gives the JSON answer."""
    made = ask("POST", "/v1/extracts", seeded.tokens[Role.analyst], {"study": seeded.study, "purpose": "Measuring"})
    path = f"/v1/extracts/{made['id']}"
    ask("POST", f"{path}/approval", seeded.tokens[Role.custodian], {"decision": "approve", "reason": "measuring"})
    while ask("GET", path, seeded.tokens[Role.analyst])["status"] == "building":
        time.sleep(0.02)
    return path.encode()
