"""`python -m bench.pages --engine postgresql --rows 1000000`: reads over a whole study, in a registry of this size.

They are rare, so they have no floor. Each is requested twice, from a server of its own. It prints the seconds of the
second request, and the memory that the first one took, which must not grow with the rows.
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import httpx

from app.models.account import Role
from app.settings import Settings
from bench import machine
from bench.seed import Seeded, Volume, seed
from bench.serving import database_of, served, server_of, settings_for

PAGES = {
    "what is due": "/v1/studies/bench/due",
    "adverse events counted": "/v1/adverse-events/summary?study=bench",
    "adverse events by term": "/v1/adverse-events/summary?study=bench&by=soc,pt,severity&population=all",
    "scores by visit": "/v1/outcomes/summary?study=bench&instrument=MADRS",
    "monitor's summary": "/v1/monitoring/summary?study=bench",
    "overdue events": "/v1/adverse-events?study=bench&overdue=true",
    "sites side by side": "/v1/monitoring/sites?study=bench",
    "verification": "/v1/monitoring/verification?study=bench",
    "data queries by age": "/v1/monitoring/queries?study=bench",
    "newest of the trail": "/v1/audit-entries?study=bench",
    "newest signatures": "/v1/signatures?study=bench",
}


def asked(settings: Settings, seeded: Seeded, path: str) -> tuple[float, float]:
    """Seconds of the second time, and megabytes that the first one took."""
    signed = {"Authorization": f"Bearer {seeded.tokens[Role.monitor]}"}
    with served(settings) as server, httpx.Client(base_url=server.base_url, trust_env=False, timeout=600) as http:
        http.get("/v1/me", headers=signed).raise_for_status()
        before = machine.peak_megabytes(server.pid)
        http.get(path, headers=signed).raise_for_status()
        grown = machine.peak_megabytes(server.pid) - before
        started = time.perf_counter()
        http.get(path, headers=signed).raise_for_status()
        return time.perf_counter() - started, grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of outcomes, and of adverse events")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(server_of(options.engine, None, folder))
        settings = settings_for(stack.enter_context(database_of(server, folder)), folder)
        seeded = seed(settings, Volume.of(options.rows))
        for name, path in PAGES.items():
            seconds, megabytes = asked(settings, seeded, path)
            print(f"{name:24} {seconds * 1000:7.0f} ms  +{megabytes:.0f} MB", flush=True)


if __name__ == "__main__":
    main()
