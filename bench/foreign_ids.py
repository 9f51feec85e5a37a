"""`python -m bench.foreign_ids`: does the time of a 404 tell another site's record from one that does not exist?

For each route with an id, both are requested in random order over one connection to a served registry. It prints the
medians, their ratio, and how often the answer to a foreign id takes longer than that to an absent one (0.50: they
cannot be told apart).
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from app import pid
from tests.hostile import LiveStudy, live_study
from tests.postgres import as_server, new_database, postgres_server
from tests.server import LiveServer, running_server
from tests.world import madrs

Ask = Callable[[str], int]
COLLECTIONS = ("participants", "visits", "outcomes", "adverse-events")


class NotHidden(Exception):
    """A measured request was answered with something other than 404."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="postgresql")
    parser.add_argument("--requests", type=int, default=300, help="of each kind, for each route")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.engine == "sqlite":
            with running_server(Path(name), f"sqlite:///{name}/registry.db") as server:
                _measure(server, options.requests)
        else:
            with postgres_server() as url, new_database(url) as own:
                roles = {"REGISTRY_OWNER_DATABASE_URL": own, "REGISTRY_DATABASE_URL": as_server(own)}
                with running_server(Path(name), own, 1, **roles) as server:
                    _measure(server, options.requests)


def _measure(server: LiveServer, requests: int) -> None:
    with live_study(server) as theirs, live_study(server) as ours:
        print(f"{'route':34}{'foreign us':>12}{'absent us':>12}{'ratio':>8}{'slower':>8}")
        for route, (ask, foreign) in _routes(theirs, ours).items():
            absent = (lambda: pid.display(pid.draw())) if "participants" in route else lambda: str(uuid4())
            taken = _interleaved(ask, foreign, absent, requests)
            medians = [statistics.median(one) * 1e6 for one in taken]
            figures = f"{medians[0]:12.0f}{medians[1]:12.0f}{medians[0] / medians[1]:8.3f}{_slower(*taken):8.2f}"
            print(f"{route:34}{figures}", flush=True)
    print(f"{requests} requests of each kind; load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def _routes(theirs: LiveStudy, ours: LiveStudy) -> dict[str, tuple[Ask, str]]:
    """Each route with somebody who may use it at home, and the id of a record that is elsewhere."""
    person, staff = theirs.enrolled(), theirs.staff
    visit = {"participant": person, "visit_code": "BL", "occurred_on": "2025-01-25", "status": "completed"}
    recorded = staff.post("/v1/visits", {**visit, "outcomes": [madrs(2)]}).json()
    event = {"participant": person, "term": "Headache", "onset": "2025-02-03", "severity": "mild"}
    reported = staff.post("/v1/adverse-events", event).json()["id"]
    ids = dict(zip(COLLECTIONS, (person, recorded["id"], recorded["outcomes"][0]["id"], reported), strict=True))
    changes: tuple[dict[str, Any], ...]
    changes = ({"age_at_consent": 50}, {"occurred_on": "2025-01-26"}, {"items": {"MADRS_01": 1}}, {"severity": "mild"})
    routes: dict[str, tuple[Ask, str]] = {}
    for (kind, known), change in zip(ids.items(), changes, strict=True):
        body = {"reason": "a measurement", **change}
        routes[f"GET /v1/{kind}/ID"] = (partial(_get, ours, f"/v1/{kind}/{{}}"), known)
        routes[f"PATCH /v1/{kind}/ID"] = (partial(_patch, ours, f"/v1/{kind}/{{}}", body), known)
    history = "/v1/adverse-events/{}/history"
    routes[f"GET {history.format('ID')}"] = (partial(_get, ours, history), reported)
    return routes


def _get(study: LiveStudy, path: str, one: str) -> int:
    return study.staff.get(path.format(one)).status_code


def _patch(study: LiveStudy, path: str, body: Mapping[str, Any], one: str) -> int:
    return study.staff.patch(path.format(one), body, '"1"').status_code


def _interleaved(ask: Ask, foreign: str, absent: Callable[[], str], requests: int) -> tuple[list[float], list[float]]:
    """Seconds of each kind. The first tenth warms up. Raises NotHidden."""
    taken: tuple[list[float], list[float]] = ([], [])
    kinds = [0, 1] * requests
    random.shuffle(kinds)
    for number, kind in enumerate([0, 1] * (requests // 10) + kinds):
        asked = absent() if kind else foreign
        started = time.perf_counter()
        if ask(asked) != 404:
            raise NotHidden
        if number >= requests // 10 * 2:
            taken[kind].append(time.perf_counter() - started)
    return taken


def _slower(foreign: list[float], absent: list[float]) -> float:
    """The share of pairs in which the foreign id's answer took longer; a tie counts half."""
    ordered = sorted(absent)
    below = sum(bisect_left(ordered, one) + bisect_right(ordered, one) for one in foreign)
    return below / 2 / len(foreign) / len(ordered)


if __name__ == "__main__":
    main()
