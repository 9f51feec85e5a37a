"""`python -m bench.kills --kills 500`: kill the server at random moments under load, and count what was lost.

Site apps post people, visits with outcomes, adverse events and bulk uploads at the same time, and repeat under the same
key what was not answered. Afterwards every acknowledged record must be there once and complete, nothing else may be
there, and every audit chain must verify.
"""

import argparse
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from sqlalchemy import func, select
from sqlmodel import SQLModel

from app import audit
from app.database import Database
from app.models.adverse_event import AdverseEvent
from app.models.base import table_of
from app.models.consent import Consent
from app.models.outcome import Outcome, OutcomeScore
from app.models.participant import Participant, VaultIdentity
from app.models.visit import Visit
from app.settings import Settings
from tests.hostile import LiveStudy, live_study
from tests.postgres import postgres_server
from tests.server import LiveServer, restart, served
from tests.world import madrs

CLIENTS, BULK_LINES = 6, 10
MOST_BETWEEN = 30
"""Acknowledged records between two kills."""

PATIENCE_SECONDS = 20.0


@dataclass
class Report:
    """What was done, and what is wrong with it afterwards."""

    kills: int = 0
    acknowledged: int = 0
    sent_again: int = 0
    replayed: int = 0
    """Answers to what had been stored before the kill, and not been heard of."""

    refused: Counter[str] = field(default_factory=Counter)
    """Answers that asked for another try, and connections that broke, by kind."""

    acknowledged_at: list[float] = field(default_factory=list)
    """When the requests were answered, by time.monotonic()."""

    faults: list[str] = field(default_factory=list)


class Load:
    """The site apps."""

    def __init__(self, live: LiveStudy, report: Report) -> None:
        self._live, self._report = live, report
        self.acknowledged: dict[str, set[str]] = {noun: set() for noun in ("participants", "visits", "adverse-events")}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._heard = threading.Condition(self._lock)
        self._threads = [threading.Thread(target=self._work, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, records: int) -> None:
        """Until so many more are acknowledged: on a slow machine, too, a kill meets servers at work."""
        aim = self._report.acknowledged + records
        with self._heard:
            self._heard.wait_for(lambda: self._report.acknowledged >= aim, PATIENCE_SECONDS)

    def _work(self, number: int) -> None:
        while not self._over.is_set():
            try:
                self._one_person(self._live.http, number)
            except Exception as fault:
                with self._lock:
                    self._report.faults.append(f"a site app failed: {type(fault).__name__} {fault}")
                return

    def _one_person(self, client: httpx.Client, number: int) -> None:
        path = self._post(client, "participants", self._live.enrolment())
        pid = path.rpartition("/")[2]
        visit = {"participant": pid, "visit_code": "BL", "occurred_on": "2025-01-25", "status": "completed"}
        self._post(client, "visits", {**visit, "outcomes": [madrs(number)]})
        event = {"participant": pid, "term": "Headache", "onset": "2025-02-03", "severity": "mild"}
        self._post(client, "adverse-events", event)
        self._post_many(client, event)

    def _post(self, client: httpx.Client, noun: str, body: Any) -> str:
        headers = {"Idempotency-Key": str(uuid4())}
        answer = self._sent(client, f"/v1/{noun}", headers, json.dumps(body).encode())
        if answer.status_code != 201:
            raise AssertionError(f"{noun}: {answer.status_code} {answer.text[:300]}")
        return self._kept(noun, answer.headers["Location"], "Idempotent-Replayed" in answer.headers)

    def _post_many(self, client: httpx.Client, body: Any) -> None:
        lines = [json.dumps({"key": str(uuid4()), "record": body}) for _ in range(BULK_LINES)]
        headers = {"Content-Type": "application/x-ndjson"}
        results: list[Any] = []
        while len(results) < len(lines) or results[-1]["result"] == "blocked":
            answer = self._sent(client, "/v1/adverse-events/bulk", headers, "\n".join(lines).encode())
            results = [json.loads(line) for line in answer.text.splitlines()]
            if results[-1].get("status", 0) >= 500:
                self._refused(f"{results[-1]['status']} {results[-1]['problem']['code']}")
        for result in results:
            if result["result"] not in {"created", "replayed"}:
                raise AssertionError(f"bulk: {result}")
            self._kept("adverse-events", result["location"], result["result"] == "replayed")

    def _sent(self, client: httpx.Client, path: str, headers: dict[str, str], content: bytes) -> httpx.Response:
        """Until it is answered, whatever happens to the server meanwhile. Raises TimeoutError: it stays away."""
        signed = {"Authorization": f"Bearer {self._live.staff.token}", "Content-Type": "application/json", **headers}
        last = time.monotonic() + 6 * PATIENCE_SECONDS
        while time.monotonic() < last:
            try:
                answer = client.post(path, content=content, headers=signed)
                if answer.status_code < 500:
                    return answer
                kind = refusal(answer)
            except httpx.TransportError:
                kind = "no answer"
            self._refused(kind)
        raise TimeoutError("the server stays away")

    def _refused(self, kind: str) -> None:
        """What is sent again after a moment."""
        with self._lock:
            self._report.sent_again += 1
            self._report.refused[kind] += 1
        time.sleep(random.uniform(0.05, 0.2))

    def _kept(self, noun: str, location: str, replayed: bool) -> str:
        with self._lock:
            self.acknowledged[noun].add(location.rpartition("/")[2].replace("-", ""))
            self._report.acknowledged += 1
            self._report.acknowledged_at.append(time.monotonic())
            self._report.replayed += replayed
            self._heard.notify_all()
        return location


def refusal(answer: httpx.Response) -> str:
    """Status and code of a refusal, and whatever it lacks."""
    problem = answer.json() if answer.headers.get("Content-Type") == "application/problem+json" else {}
    lacking = "" if "Retry-After" in answer.headers else " without Retry-After"
    return f"{answer.status_code} {problem.get('code', 'without a problem document')}{lacking}"


def disturb(server: LiveServer, kills: int, seed: int) -> Report:
    """Kill the server so many times, and say what is wrong afterwards."""
    report, moments = Report(), random.Random(seed)
    with live_study(server) as live:
        with Load(live, report) as load:
            for _ in range(kills):
                load.wait_for(moments.randint(0, MOST_BETWEEN))
                time.sleep(moments.uniform(0, 0.02))
                server.process.kill()
                server.process.wait()
                report.kills += 1
                restart(server)
            load.wait_for(MOST_BETWEEN)
        owner = server.environment.get("REGISTRY_OWNER_DATABASE_URL", server.database_url)
        with Database(Settings(environment="demo", database_url=owner)) as database:
            report.faults += differences(database, load)
    return report


def differences(database: Database, load: Load) -> Iterator[str]:
    """Whatever differs between what was acknowledged and what is there."""
    with database.read() as session:
        for noun, model, key in (
            ("participants", Participant, "pid"),
            ("visits", Visit, "id"),
            ("adverse-events", AdverseEvent, "id"),
        ):
            table = table_of(model)
            stored = [str(one).replace("-", "") for one in session.execute(select(table.c[key])).scalars()]
            told = load.acknowledged[noun]
            if lost := told - set(stored):
                yield f"{len(lost)} acknowledged {noun} are lost"
            if len(stored) != len(told):
                yield f"{len(stored)} {noun} are stored, {len(told)} were acknowledged"
        people, visits = len(load.acknowledged["participants"]), len(load.acknowledged["visits"])
        expected: dict[type[SQLModel], int] = {
            Consent: people,
            VaultIdentity: people,
            Outcome: visits,
            OutcomeScore: visits,
        }
        for whole, count in expected.items():
            there = session.execute(select(func.count()).select_from(table_of(whole))).scalar()
            if there != count:
                yield f"{there} rows of {table_of(whole).name} for {count} acknowledged"
        for verdict in audit.verify(session):
            if verdict.fault:
                yield f"chain {verdict.site_id}: {verdict.fault}"


@contextmanager
def server_url(engine: str) -> Iterator[str | None]:
    if engine == "sqlite":
        yield None
        return
    with postgres_server() as url:
        yield url


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        server_url(options.engine) as url,
        served(Path(name), url) as server,
    ):
        report = disturb(server, options.kills, options.seed)
    print(
        f"{options.engine}: {report.kills} kills, {report.acknowledged} records acknowledged, {report.sent_again} "
        f"requests sent again, {report.replayed} answers heard on a later try, {len(report.faults)} faults"
    )
    for fault in report.faults:
        print(fault)
    raise SystemExit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
