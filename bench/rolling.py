"""`python -m bench.rolling --restarts 6`: restart the registry under load, and count failed requests.

`instances`: two registries behind nginx (deploy/nginx), restarted in turn by SIGTERM. `workers`: one
registry with two workers and no proxy, which replaces them one after the other on SIGHUP. Site apps post all the time,
and any request that they have to send again counts as failed. Afterwards every record must be there once and complete.
"""

import argparse
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from app.database import Database
from app.settings import Settings
from bench.kills import Load, Report, differences
from tests.hostile import LiveStudy, live_study
from tests.nginx import behind_nginx
from tests.postgres import postgres_server
from tests.server import LiveServer, another, restart, served, until_ready


def instances(server: LiveServer, folder: Path, restarts: int, calm: float = 1.0) -> Report:
    """Restart two instances in turn, so many times in all."""
    with (
        another(server, folder / "second.log") as second,
        behind_nginx(folder, [server.base_url, second.base_url]) as proxy,
        proxy.client() as http,
    ):

        def roll(number: int) -> None:
            one = (server, second)[number % 2]
            one.process.send_signal(signal.SIGTERM)
            one.process.wait(40)
            restart(one)

        return _under_load(LiveStudy(server, http), roll, restarts, calm)


def workers(server: LiveServer, restarts: int, calm: float = 1.0) -> Report:
    """Replace the workers of one registry, so many times."""

    def roll(_number: int) -> None:
        before = _children(server.process.pid)
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 300
        while before & _children(server.process.pid):
            assert time.monotonic() < deadline, "a worker was not replaced"
            time.sleep(0.1)
        until_ready(server)

    with live_study(server) as live:
        return _under_load(live, roll, restarts, calm)


def _under_load(live: LiveStudy, roll: Callable[[int], None], restarts: int, calm: float) -> Report:
    report = Report()
    with Load(live, report) as load:
        for number in range(restarts):
            time.sleep(calm)
            roll(number)
            report.kills += 1
        time.sleep(calm)
    report.faults += [f"{number} x {kind}" for kind, number in report.refused.items()]
    owner = live.server.environment.get("REGISTRY_OWNER_DATABASE_URL", live.server.database_url)
    with Database(Settings(environment="demo", database_url=owner)) as database:
        report.faults += differences(database, load)
    return report


def _children(process: int) -> set[int]:
    """The workers; the other child of a parent with spawned workers is Python's resource tracker, which stays."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return {int(one) for one in listed if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--how", choices=("instances", "workers"), default="instances")
    parser.add_argument("--restarts", type=int, default=6)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, postgres_server() as url:
        Path(name).chmod(0o711)  # nginx works as another user
        count = 2 if options.how == "workers" else 1
        with served(Path(name), url, count) as server:
            if options.how == "workers":
                report = workers(server, options.restarts)
            else:
                report = instances(server, Path(name), options.restarts)
    print(
        f"{options.how}: {report.kills} restarts, {report.acknowledged} records acknowledged, "
        f"{report.sent_again} requests failed, {len(report.faults)} faults",
        *report.faults,
        sep="\n",
    )
    raise SystemExit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
