"""`python -m bench.faults --engine postgresql --fault all`: make the database fail under load, and count what was lost.

Site apps post people, visits with outcomes, adverse events and bulk uploads to `registry serve`, and repeat under the
same key what was not answered. Meanwhile requests may be answered 503 or 507 with `Retry-After`, and nobody restarts
the registry. Afterwards every acknowledged record must be there once and complete, nothing else may be there, and every
audit chain must verify.
"""

import argparse
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from app.database import Database
from app.settings import Settings
from bench import faults_postgresql, faults_sqlite
from bench.kills import Load, Report, differences
from bench.scenes import Place
from tests.hostile import LiveStudy, live_study
from tests.server import LiveServer, served

TOLD = frozenset({"503 database_unavailable", "507 storage_full"})
"""How a registry without its database answers; both with Retry-After."""

PATIENCE_SECONDS = 60.0
FAULTS: Mapping[str, Mapping[str, Place]] = {"postgresql": faults_postgresql.FAULTS, "sqlite": faults_sqlite.FAULTS}


@dataclass
class Outcome:
    """What the site apps saw of one kind of fault."""

    fault: str
    report: Report
    injected: int = 0
    read: int = 0
    """Reads that were answered while the fault lasted."""

    recovered: list[float] = field(default_factory=list)
    """Seconds from the database's return to the next acknowledgement."""

    def __str__(self) -> str:
        refused = ", ".join(f"{number} x {kind}" for kind, number in sorted(self.report.refused.items()))
        slowest = f"{max(self.recovered):.1f} s" if self.recovered else "never"
        return (
            f"{self.fault}: {self.injected} injected, {self.report.acknowledged} acknowledged, "
            f"{self.report.replayed} heard on a later try, {self.read} reads meanwhile, refused: {refused or 'none'}; "
            f"back within {slowest}; lost, doubled or half: {len(self.report.faults)}"
        )


def suffer(fault: str, place: Place, rounds: int, folder: Path, workers: int, calm: float = 1.0) -> Outcome:
    """Inject a fault so many times, with so many seconds of calm before each."""
    outcome = Outcome(fault, Report())
    with place(folder) as scene, served(scene.folder, scene.server_url, workers, **scene.settings) as server:
        process = server.process.pid
        with live_study(server) as live:
            with Load(live, outcome.report) as load, _reader(live) as answered:
                for _ in range(rounds):
                    time.sleep(calm)
                    before = answered.total()
                    scene.strike(server)
                    mended = time.monotonic()
                    outcome.injected += 1
                    outcome.read += answered.total() - before
                    outcome.recovered += _recovery(outcome.report, mended)
                time.sleep(calm)
            _judge(outcome, server, process, load)
    return outcome


def _recovery(report: Report, mended: float) -> Iterator[float]:
    while time.monotonic() < mended + PATIENCE_SECONDS:
        if report.acknowledged_at and report.acknowledged_at[-1] > mended:
            yield next(at for at in report.acknowledged_at if at > mended) - mended
            return
        time.sleep(0.01)
    report.faults.append(f"nothing was acknowledged within {PATIENCE_SECONDS} s")


@contextmanager
def _reader(live: LiveStudy) -> Iterator[Counter[str]]:
    """Somebody who only reads, all the time."""
    answered: Counter[str] = Counter()
    monitor, over = live.caller("monitor", sites=[live.site]), threading.Event()

    def read() -> None:
        while not over.is_set():
            try:
                if monitor.get("/v1/adverse-events?limit=5").status_code == 200:
                    answered["read"] += 1
            except httpx.TransportError:
                pass
            time.sleep(0.02)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield answered
    finally:
        over.set()
        thread.join()


def _judge(outcome: Outcome, server: LiveServer, process: int, load: Load) -> None:
    report = outcome.report
    report.faults += [f"{number} x {kind}" for kind, number in report.refused.items() if kind not in TOLD]
    if server.process.pid != process or server.process.poll() is not None:
        report.faults.append("the server had to be restarted")
    if defects := server.log.read_text(errors="replace").count("internal_error"):
        report.faults.append(f"{defects} internal errors in the server's log")
    owner = server.environment.get("REGISTRY_OWNER_DATABASE_URL", server.database_url)
    with Database(Settings(environment="demo", database_url=owner)) as database:
        report.faults += differences(database, load)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=sorted(FAULTS), default="postgresql")
    parser.add_argument(
        "--fault", default="all", help=f"all, or one of {', '.join({*FAULTS['postgresql'], *FAULTS['sqlite']})}"
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    known, failed = FAULTS[options.engine], False
    for fault in known if options.fault == "all" else (options.fault,):
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o711)  # PostgreSQL runs as another user
            workers = 2 if options.engine == "postgresql" else 1
            outcome = suffer(fault, known[fault], options.rounds, Path(name), workers)
        print(outcome, *outcome.report.faults, sep="\n  ", flush=True)
        failed = failed or bool(outcome.report.faults)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
