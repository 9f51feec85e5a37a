"""A group of cases: an extract of the large registry over HTTP, from approval to the last byte of outcomes.csv or
outcomes.parquet, beside psql's own copy of the same columns of all its tables, since all are in it. PostgreSQL only.

Of outcomes alone, what memory a build takes, and how long it takes without HTTP: python -m bench.extracts
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4

import httpx

from app.models.account import Role
from bench.cases import Place
from bench.extracts import OTHERS, OUTCOMES, copied
from bench.ground import Ground, Group, Target, rates
from bench.load import Slice
from bench.measure import Case

WISH = {"purpose": "Measuring", "profile": "pseudonymised", "agreement": "none"}


class ExtractFailed(Exception):
    """The registry did not build it."""


def downloads(ground: Ground) -> Group:
    """One whole extract a slice, however long it takes."""
    if ground.on_sqlite:
        return Group([], [])
    place = ground.grown()[1]
    client = ground.stack.enter_context(httpx.Client(base_url=place.server.base_url, timeout=900, trust_env=False))
    made: list[str] = []

    def copy() -> float:
        url = str(place.settings.owner_database_url)
        return sum(copied(url, made[-1], table) for table in (OUTCOMES, *OTHERS))

    cases = [
        _once(f"extract {form}", place, partial(_extract, client, place, form, made)) for form in ("csv", "parquet")
    ]
    targets = [
        Target("extract CSV over HTTP, time / psql copy", *rates("psql copy", "extract csv"), most=2.0),
        Target("extract Parquet over HTTP, time / psql copy", *rates("psql copy", "extract parquet"), most=2.5),
    ]
    return Group([cases[0], _once("psql copy", None, copy), cases[1]], targets)


def _once(name: str, place: Place | None, act: Callable[[], float]) -> Case:
    def run(_seconds: float) -> Slice:
        taken = act()
        return Slice(1, taken, [taken])

    return Case(name, run, place.server if place else None)


def _extract(client: httpx.Client, place: Place, form: str, made: list[str]) -> float:
    """Seconds from the approval to the last byte. Raises ExtractFailed."""
    formats = sorted({"csv", form})
    asked = _ask(client, place, Role.analyst, "POST", "/v1/extracts", {**WISH, "study": "bench", "formats": formats})
    path = f"/v1/extracts/{asked['id']}"
    started = time.perf_counter()
    _ask(client, place, Role.custodian, "POST", f"{path}/approval", {"decision": "approve", "reason": "measuring"})
    while (status := _ask(client, place, Role.analyst, "GET", path)["status"]) != "ready":
        if status not in {"approved", "building"}:
            raise ExtractFailed(status)
        time.sleep(0.02)
    signed = {"Authorization": f"Bearer {place.seeded.tokens[Role.analyst]}"}
    with client.stream("GET", f"{path}/files/outcomes.{form}", headers=signed) as answer:
        answer.raise_for_status()
        for _ in answer.iter_raw():
            pass
    made.append(asked["id"])
    return time.perf_counter() - started


def _ask(client: httpx.Client, place: Place, role: Role, method: str, path: str, body: Any = None) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {place.seeded.tokens[role]}", "Idempotency-Key": str(uuid4())}
    answer: dict[str, Any] = client.request(method, path, json=body, headers=headers).raise_for_status().json()
    return answer
