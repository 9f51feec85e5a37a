"""`python -m bench.interruptions --times 300`: clients disconnect at every stage of a request, while others work.

At each stage `--times` clients disconnect, half of them by FIN and half by RST, while two site apps go on enrolling
people. Afterwards the server must be alive, have its whole pool and no open transaction, and have complete records
only.
"""

import argparse
import json
import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from app import audit
from app.database import Database
from app.settings import Settings
from bench.kills import server_url
from registry_client import Registry, RegistryFailure, Token
from tests.hostile import LiveStudy, abandon, live_study, request_text
from tests.server import served
from tests.unharmed import extract_of, require_unharmed, stored, visit_body

AT_ONCE, BULK_LINES = 8, 400


@dataclass
class Report:
    times: dict[str, int] = field(default_factory=dict)
    enrolled: int = 0
    uploaded: dict[str, int] = field(default_factory=dict)
    """Lines that were stored of uploads whose client had left."""

    faults: list[str] = field(default_factory=list)


class Visitors:
    """What is sent at each stage, by clients that will not stay."""

    def __init__(self, live: LiveStudy) -> None:
        self._live, self.token, self.pid = live, live.staff.token, live.enrolled()
        self._analyst, self._extract = extract_of(live)
        self._number, self._lock = 0, threading.Lock()

    def stages(self) -> dict[str, Callable[[], tuple[bytes, int]]]:
        """Of each stage: what one client sends, and how many bytes of the answer it reads."""
        return {
            "headers": lambda: (self._visit()[: random.randint(1, 200)], 0),
            "half a body": lambda: (self._visit()[: -random.randint(1, 60)], 0),
            "waiting": lambda: (self._visit(), 0),
            "reading the answer": lambda: (request_text("GET", "/v1/participants?limit=500", self.token), 100),
            "during a bulk upload": lambda: (self._upload(self.pid, whole=False), 0),
            "during a download": lambda: (self._download(), random.choice((0, 64))),
        }

    def _visit(self) -> bytes:
        with self._lock:
            self._number += 1
            body = json.dumps(visit_body(self.pid, self._number)).encode()
        return request_text("POST", "/v1/visits", self.token, body, Idempotency_Key=str(uuid4()))

    def _upload(self, pid: str, whole: bool) -> bytes:
        record = {"participant": pid, "term": "Headache", "onset": "2025-02-03", "severity": "mild"}
        lines = [json.dumps({"key": str(uuid4()), "record": record}) for _ in range(BULK_LINES if whole else 20)]
        body = "\n".join(lines).encode()
        kind = {"Content_Type": "application/x-ndjson"}
        sent = request_text("POST", "/v1/adverse-events/bulk", self.token, body, **kind)
        return sent if whole else sent[: -len(body) // 2]

    def _download(self) -> bytes:
        return request_text("GET", f"{self._extract}/files/bundle.zip", self._analyst.token)

    def uploaded_before_leaving(self, reset: bool) -> int:
        """Of an upload that was sent whole, how many lines are stored although its client left at once."""
        pid = self._live.enrolled()
        abandon(self._live.server, self._upload(pid, whole=True), 0.05, reset=reset)
        require_unharmed(self._live)
        return len(self._live.staff.get("/v1/adverse-events", participant=pid, limit="500").json()["items"])


@contextmanager
def _others(live: LiveStudy, report: Report) -> Iterator[None]:
    """Site apps that enrol people meanwhile, as patiently as the client is."""
    over, lock = threading.Event(), threading.Lock()

    def work() -> None:
        with Registry(live.server.base_url, Token(live.staff.token), trust_env=False) as registry:
            while not over.is_set():
                try:
                    registry.post("/v1/participants", live.enrolment())
                except RegistryFailure as failure:
                    report.faults.append(f"another client: {failure}")
                    return
                with lock:
                    report.enrolled += 1

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def interrupt(live: LiveStudy, times: int, seed: int = 1) -> Report:
    """So many clients leave at each stage; what is wrong afterwards is among the faults."""
    random.seed(seed)
    report, visitors = Report(), Visitors(live)
    for stage, sending in visitors.stages().items():

        def leave(number: int, sending: Callable[[], tuple[bytes, int]] = sending) -> None:
            sent, read = sending()
            abandon(live.server, sent, random.choice((0.0, 0.002, 0.01)), read, reset=number % 2 == 0)

        with _others(live, report), ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(leave, range(times)))
        require_unharmed(live)
        report.times[stage] = times
    report.uploaded = {kind: visitors.uploaded_before_leaving(kind == "RST") for kind in ("FIN", "RST")}
    report.faults += _faults(live, visitors.pid)
    return report


def _faults(live: LiveStudy, pid: str) -> Iterator[str]:
    kept = stored(live, pid)
    if not kept["visits"] == kept["entries"] == kept["records"] or kept["unanswered"]:
        yield f"something is half stored: {kept}"
    url = live.server.environment.get("REGISTRY_OWNER_DATABASE_URL", live.server.database_url)
    with Database(Settings(environment="demo", database_url=url)) as database, database.read() as session:
        for verdict in audit.verify(session):
            if verdict.fault:
                yield f"chain {verdict.site_id}: {verdict.fault}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--times", type=int, default=300, help="clients that leave at each stage")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        server_url(options.engine) as url,
        served(Path(name), url) as server,
        live_study(server) as live,
    ):
        report = interrupt(live, options.times, options.seed)
    told = ", ".join(f"{stage} {times}" for stage, times in report.times.items())
    print(f"{options.engine}: left at {told}; {report.enrolled} people enrolled meanwhile, {len(report.faults)} faults")
    print(f"of {BULK_LINES} lines sent by a client that left at once, stored: {report.uploaded}")
    print("\n".join(report.faults))
    raise SystemExit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
