"""Measuring: cases run in turns, so that a disturbance affects all of them, and the statistics of the results."""

import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select

from app import audit
from app.database import Database
from app.models.base import table_of
from app.models.visit import Visit
from app.settings import Settings
from bench import machine
from bench.load import Request, Slice, run_slice
from bench.serving import Server

BUSY_SHARE, FLOOR_SPREAD, CLIENT_SHARE = 0.05, 0.15, 0.80
"""No verdict when others use more than 5 % of a core, when the floor itself varies by more than 15 %, or when the load
generator uses more than 80 % of a core in a case and so may be what was measured."""

CLIENTS = 16

Figures = Mapping[str, float]
"""Of one slice: answers, answers a second, latencies, processor time of server and database an answer, shares."""


class Disagreement(Exception):
    """After the run a database does not hold exactly what was acknowledged."""


@dataclass(frozen=True)
class Case:
    """Something that is done for so many seconds, again and again."""

    name: str
    run: Callable[[float], Slice]
    server: Server | None = None
    """Who does it: its processor time is that of the case."""

    into: Settings | None = None
    """The database that unscheduled visits are stored in."""

    each: int = 1
    """Records of one answer."""


def asked(
    name: str,
    server: Server,
    request: Request,
    *,
    clients: int = CLIENTS,
    into: Settings | None = None,
    each: int = 1,
) -> Case:
    """A request, asked again and again by some clients."""
    return Case(name, lambda seconds: run_slice(server.base_url, request, clients, seconds), server, into, each)


def repeated(name: str, act: Callable[[], None], *, each: int = 1) -> Case:
    """Something done here, one after the other."""

    def run(seconds: float) -> Slice:
        latencies, started = [], time.perf_counter()
        while (begun := time.perf_counter()) < started + seconds:
            act()
            latencies.append(time.perf_counter() - begun)
        return Slice(len(latencies), time.perf_counter() - started, latencies)

    return Case(name, run, each=each)


def interleaved(
    cases: Sequence[Case], rounds: int, seconds: float, databases: Collection[int]
) -> dict[str, list[Figures]]:
    """A B C ... then C B A, and so on; the first round warms up and is left out, but what it stored counts.
    `databases` are the processes of PostgreSQL."""
    ours = {one.server for one in cases if one.server}
    found: dict[str, list[Figures]] = {case.name: [] for case in cases}
    for number in range(rounds + 1):
        for case in cases if number % 2 == 0 else cases[::-1]:
            found[case.name].append(_slice(case, seconds if number else seconds / 2, ours, databases))
    return found


def _slice(case: Case, seconds: float, ours: Iterable[Server], databases: Collection[int]) -> Figures:
    parent = min(databases, default=0)
    family = [parent, *machine.children_of(parent)] if parent else []
    serving = {one: one.processes for one in ours}
    before = machine.cpu_by_process([*family, *(pid for pids in serving.values() for pid in pids)])
    everybody, client = machine.all_cpu_seconds(), time.process_time()
    taken = case.run(seconds)
    client, everybody = time.process_time() - client, machine.all_cpu_seconds() - everybody
    used = {pid: after - before[pid] for pid, after in machine.cpu_by_process(before).items()}
    server = sum(used.get(pid, 0.0) for pid in serving[case.server]) if case.server else client
    database = sum(used.get(pid, 0.0) for pid in family)
    return {
        "answered": taken.answered,
        "per_second": taken.per_second * case.each,
        "p50_ms": taken.latency_ms(0.5),
        "p99_ms": taken.latency_ms(0.99),
        "server_us": server / taken.answered / case.each * 1e6,
        "database_us": database / taken.answered / case.each * 1e6,
        "client_share": client / taken.seconds if case.server else 0.0,
        "foreign_share": max(0.0, everybody - client - sum(used.values())) / taken.seconds,
    }


def medians(found: Mapping[str, Sequence[Figures]]) -> dict[str, dict[str, float]]:
    """Of each case, without the warm-up, and how far its answers a second lay apart."""
    shown = {}
    for name, slices in found.items():
        counted = slices[1:]
        rates = [one["per_second"] for one in counted]
        shown[name] = {key: statistics.median(one[key] for one in counted) for key in counted[0]}
        shown[name]["spread"] = (max(rates) - min(rates)) / statistics.median(rates)
    return shown


def busy(shown: Mapping[str, Mapping[str, float]], floor: str) -> str | None:
    """Why nothing may be concluded, or None."""
    foreign = statistics.median(case["foreign_share"] for case in shown.values())
    spread = shown[floor]["spread"]
    limited = [name for name, case in shown.items() if case["client_share"] > CLIENT_SHARE]
    if foreign > BUSY_SHARE or spread > FLOOR_SPREAD:
        return f"others used {foreign:.0%} of a core, the floor varied by {spread:.0%}"
    return f"the load generator was at its limit in: {', '.join(limited)}" if limited else None


def verify(cases: Sequence[Case], found: Mapping[str, Sequence[Figures]], besides: Mapping[str, int]) -> dict[str, int]:
    """Visits stored are those acknowledged, in each database (`besides`: more of them, by its URL), and its chains are
    whole. Raises Disagreement."""
    acknowledged = dict(besides)
    settings = {}
    for case in cases:
        if case.into is not None:
            url = case.into.database_url
            settings[url] = case.into
            counted = sum(int(one["answered"]) for one in found[case.name]) * case.each
            acknowledged[url] = acknowledged.get(url, 0) + counted
    visits = table_of(Visit)
    for url, of in settings.items():
        with Database(of) as database, database.read() as session:
            counting = select(func.count()).select_from(visits).where(visits.c.visit_code == "UNS")
            stored = session.execute(counting).scalar_one()
            faults = [verdict for verdict in audit.verify(session) if verdict.fault]
        if stored != acknowledged[url] or faults:
            raise Disagreement(f"{acknowledged[url]} acknowledged, {stored} stored, chain faults: {faults}")
    return {f"database {number}": count for number, count in enumerate(acknowledged.values(), 1)}


def database_processes(settings: Settings) -> list[int]:
    """Of the PostgreSQL that is measured, if it is on this machine; any other one is foreign load. None for SQLite."""
    with Database(settings) as database, database.read() as session:
        if database.is_sqlite:
            return []
        pid = session.connection().exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        return machine.family_of(pid)[:1]  # while this connection is open: its process ends with it
