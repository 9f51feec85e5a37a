"""`python -m bench.lost_updates --rounds 1000`: several writers increment a number in one record, and no change is
lost.

Each writer reads the number, adds one and writes it back under the ETag that it read. The slower one is answered 412,
with the present ETag, and reads again. Afterwards the number, the version and the history must show every acknowledged
change, once and in order.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bench.kills import server_url
from tests.hostile import LiveStudy, live_study
from tests.server import served

WRITERS = 2


@dataclass
class Report:
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def count_up(live: LiveStudy, rounds: int, writers: int = WRITERS) -> Report:
    """Each writer tries so many times. What is wrong afterwards is among the faults."""
    body = {"participant": live.enrolled(), "term": "Count 0", "onset": "2025-02-03", "severity": "mild"}
    path, report = live.staff.post("/v1/adverse-events", body).headers["Location"], Report()

    def write(_: int) -> Iterator[int]:
        for _round in range(rounds):
            seen = live.staff.get(path)
            count = int(seen.json()["term"].removeprefix("Count "))
            change = {"reason": "counted on", "term": f"Count {count + 1}"}
            answer = live.staff.patch(path, change, seen.headers["ETag"])
            if answer.status_code == 412 and answer.headers["ETag"] == seen.headers["ETag"]:
                report.faults.append("a refusal names the ETag that was sent as the present one")
            yield answer.status_code

    with ThreadPoolExecutor(writers) as threads:
        for told in threads.map(lambda number: list(write(number)), range(writers)):
            report.statuses.update(told)
    report.faults += _faults(live, path, report.statuses)
    return report


def _faults(live: LiveStudy, path: str, statuses: Counter[int]) -> Iterator[str]:
    changes, final = statuses[200], live.staff.get(path).json()
    if other := statuses.keys() - {200, 412}:
        yield f"unexpected answers: {sorted(other)}"
    if (final["version"], final["term"]) != (changes + 1, f"Count {changes}"):
        yield f"{changes} changes were acknowledged; the record is {final['term']}, version {final['version']}"
    history = live.staff.get(f"{path}/history").json()["items"]
    counted = [item["new"] for item in history if item["field"] == "term"]
    if counted != [f"Count {number}" for number in range(changes + 1)]:
        yield "the history does not tell of each change once and in order"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--writers", type=int, default=WRITERS)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as name,
        server_url(options.engine) as url,
        served(Path(name), url) as server,
        live_study(server) as live,
    ):
        report = count_up(live, options.rounds, options.writers)
    done, stale = report.statuses[200], report.statuses[412]
    print(
        f"{options.engine}: {options.writers} writers, {options.rounds} rounds each: {done} changes, {stale} times 412"
    )
    print("\n".join(report.faults) or "no update was lost")
    raise SystemExit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
