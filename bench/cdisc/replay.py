"""Send the pilot study through the API: `python -m bench.cdisc.replay --base-url URL`.

Each site has an app, and all send at once. It can be run again: records that the registry has already are counted as
such.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from bench.cdisc import report
from bench.cdisc.network import Network
from bench.cdisc.setup import Admin
from bench.cdisc.site_app import SiteApp
from bench.cdisc.source import STUDY, Subject, Tables, read_tables, sample, subjects
from bench.cdisc.tally import Tally

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Replay:
    """What was sent, and how it was answered."""

    tables: Tables
    subjects: Sequence[Subject]
    tally: Tally
    seconds: float

    @property
    def clean(self) -> bool:
        """Whether every record is in the registry."""
        counts = self.tally.counts.values()
        return not any(count.errors or count.not_sent or count.refused for count in counts)


def replay(
    admin: Admin, tables: Tables, chosen: Iterable[str], lose: float = 0, progress: Progress | None = None
) -> Replay:
    """Prepare the study and send everything of the chosen subjects, each site from a thread of its own.

    `lose` is the share of answers that the network throws away, so that the site apps ask again.
    """
    people = subjects(tables, chosen, admin.study)
    sites = sorted({subject.site for subject in people})
    admin.prepare(sites)
    tally = Tally()
    networks = {site: Network(tally.answered, lose) for site in sites}
    apps = {site: SiteApp(admin.site_app(site, network), network, tally) for site, network in networks.items()}
    started = time.perf_counter()
    with ThreadPoolExecutor(len(sites)) as pool:
        running = [pool.submit(app.send, [one for one in people if one.site == site]) for site, app in apps.items()]
        _watch(running, tally, _records(people), progress)
    for one in running:
        one.result()
    return Replay(tables, people, tally, time.perf_counter() - started)


def _records(people: Sequence[Subject]) -> int:
    return sum(1 + len(one.visits) + len(one.events) + len(one.statuses) for one in people)


def _watch(running: Collection[Future[None]], tally: Tally, expected: int, progress: Progress | None) -> None:
    before = 0
    while wait(running, timeout=1).not_done:
        if progress is not None:
            progress(f"{tally.posted:,} of {expected:,} records, {tally.posted - before:,} in the last second")
        before = tally.posted


def arguments(description: str) -> argparse.ArgumentParser:
    """The options that replaying and comparing share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--admin-username", default="admin")
    parser.add_argument("--admin-password", default=os.environ.get("REGISTRY_ADMIN_PASSWORD"))
    parser.add_argument("--study", default=STUDY, help="code of the study in the registry")
    parser.add_argument("--subjects", type=int, metavar="N", help="only N participants, always the same ones")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the tables to this file too")
    return parser


def publish(text: str, file: Path | None) -> None:
    """Print a report, and write it to a file if asked."""
    print(text)
    if file is not None:
        file.write_text(text + "\n", encoding="utf-8")


def main() -> int:
    """Exit code 1 when any record is not in the registry afterwards."""
    parser = arguments("Send the CDISC pilot study through the API")
    parser.add_argument("--lose", type=float, default=0, metavar="SHARE", help="of answers to lose and ask for again")
    options = parser.parse_args()
    tables = read_tables()
    chosen = sample(tables, options.subjects)
    with Admin(options.base_url, options.admin_username, options.admin_password, options.study) as admin:
        done = replay(admin, tables, chosen, options.lose, lambda text: print(text, file=sys.stderr))
    publish(report.of_replay(done.tables, done.subjects, done.tally, done.seconds), options.report)
    return 0 if done.clean else 1


if __name__ == "__main__":
    sys.exit(main())
