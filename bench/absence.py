"""`python -m bench.absence`: does the time of a 404 tell whether the record exists at another site?

Asks for records of another site and for records that nobody has, in turns and in random order, and compares the times.
A difference that a site could see would be a way to learn of foreign records (ASVS 5, 8.3 and 11.2.4).
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from app import pid
from tests.hostile import LiveStudy, live_study
from tests.postgres import new_database, postgres_server
from tests.server import running_server

FOREIGN, ABSENT = "of another site", "of nobody"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--engine", choices=["sqlite", "postgresql"], default="sqlite")
    options.add_argument("--rounds", type=int, default=1500)
    chosen = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        _database(chosen.engine, Path(folder)) as url,
        running_server(Path(folder), url) as server,
        live_study(server) as study,
    ):
        measured = _measure(study, chosen.rounds)
    print(f"{chosen.engine}, {chosen.rounds} of each kind\n")
    print("| route | of another site, ms | of nobody, ms | ratio of medians | P(other site slower) |")
    print("| --- | --- | --- | --- | --- |")
    for route, times in measured.items():
        foreign, absent = times[FOREIGN], times[ABSENT]
        medians = statistics.median(foreign), statistics.median(absent)
        shown = f"{medians[0] * 1000:.2f} | {medians[1] * 1000:.2f} | {medians[0] / medians[1]:.3f}"
        print(f"| {route} | {shown} | {_slower(foreign, absent):.3f} |")


def _measure(study: LiveStudy, rounds: int) -> Mapping[str, Mapping[str, list[float]]]:
    study.admin.post(f"/v1/studies/{study.study}/sites", {"code": "B", "name": "Site B"})
    stranger = study.caller("site_staff", sites=["B"])
    person = study.enrolled()
    visit = {"participant": person, "visit_code": "UNS", "occurred_on": "2025-02-01", "status": "completed"}
    items = {f"MADRS_{number:02d}": 1 for number in range(1, 11)}
    made = study.staff.post("/v1/visits", {**visit, "outcomes": [{"instrument": "MADRS", "items": items}]}).json()
    event = {"participant": person, "term": "Headache", "onset": "2025-02-03", "severity": "mild"}
    ids = {
        "participants": person,
        "visits": made["id"],
        "outcomes": made["outcomes"][0]["id"],
        "adverse-events": study.staff.post("/v1/adverse-events", event).json()["id"],
    }
    times: dict[str, dict[str, list[float]]] = {route: {FOREIGN: [], ABSENT: []} for route in ids}
    asked = [(route, kind) for route in ids for kind in (FOREIGN, ABSENT)]
    for _ in range(rounds):
        for route, kind in random.sample(asked, len(asked)):
            nobodys = pid.draw() if route == "participants" else uuid4()
            path = f"/v1/{route}/{ids[route] if kind == FOREIGN else nobodys}"
            started = time.perf_counter()
            answer = stranger.get(path)
            times[route][kind].append(time.perf_counter() - started)
            assert answer.status_code == 404
    return times


def _slower(one: list[float], other: list[float]) -> float:
    """How often a time of the one exceeds one of the other; 0.5: nobody can tell (Mann-Whitney's U, scaled)."""
    ranked = sorted([*((value, 1) for value in one), *((value, 0) for value in other)])
    ranks = sum(place for place, (_, mine) in enumerate(ranked, 1) if mine)
    return (ranks - len(one) * (len(one) + 1) / 2) / (len(one) * len(other))


@contextmanager
def _database(engine: str, folder: Path) -> Iterator[str]:
    if engine == "sqlite":
        yield f"sqlite:///{folder / 'registry.db'}"
        return
    with postgres_server() as server, new_database(server) as url:
        yield url


if __name__ == "__main__":
    main()
