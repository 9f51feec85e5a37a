"""`python -m bench.rolling --restarts 6`: restart the registry under load, and see that nobody notices.

`instances`: two registries behind nginx (deploy/nginx-two-instances.conf), restarted in turn by SIGTERM. `workers`: one
registry with two workers and no proxy, which replaces them one after the other on SIGHUP. Site apps post all the time,
and any request that they have to send again counts as failed. Afterwards every record must be there once and whole.
"""

import argparse
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from app.database import Database
from app.settings import Settings
from bench.kills import Load, Report, differences
from tests.hostile import live_study
from tests.postgres import postgres_server
from tests.server import ROOT, LiveServer, another, free_port, restart, served, until_ready

CONFIGURATION = ROOT / "deploy" / "nginx-two-instances.conf"


def instances(server: LiveServer, folder: Path, restarts: int, calm: float = 1.0) -> Report:
    """Restart two instances in turn, so many times in all."""
    with another(server, folder / "second.log") as second, _nginx(folder, server, second) as proxy:

        def roll(number: int) -> None:
            one = (server, second)[number % 2]
            one.process.send_signal(signal.SIGTERM)
            one.process.wait(40)
            restart(one)

        return _under_load(replace(server, base_url=proxy), roll, restarts, calm)


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

    return _under_load(server, roll, restarts, calm)


def _under_load(server: LiveServer, roll: Callable[[int], None], restarts: int, calm: float) -> Report:
    report = Report()
    with live_study(server) as live:
        with Load(live, report) as load:
            for number in range(restarts):
                time.sleep(calm)
                roll(number)
                report.kills += 1
            time.sleep(calm)
        report.faults += [f"{number} x {kind}" for kind, number in report.refused.items()]
        owner = server.environment.get("REGISTRY_OWNER_DATABASE_URL", server.database_url)
        with Database(Settings(environment="demo", database_url=owner)) as database:
            report.faults += differences(database, load)
    return report


def _children(process: int) -> set[int]:
    """The workers; the other child of a parent with spawned workers is Python's resource tracker, which stays."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return {int(one) for one in listed if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()}


@contextmanager
def _nginx(folder: Path, first: LiveServer, second: LiveServer) -> Iterator[str]:
    """The shipped configuration, with the ports of these two; gives the proxy's address."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
    assert program is not None, "nginx is not installed"
    port, shipped = free_port(), CONFIGURATION.read_text()
    for written, used in (("127.0.0.1:8001", first.base_url), ("127.0.0.1:8002", second.base_url)):
        shipped = shipped.replace(written, used.removeprefix("http://"))
    shipped = shipped.replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    whole = f"pid {folder}/nginx.pid;\nerror_log {folder}/nginx.log;\nevents {{}}\nhttp {{\n{temporary}{shipped}\n}}\n"
    (folder / "nginx.conf").write_text(whole)
    command = [program, "-c", str(folder / "nginx.conf"), "-e", str(folder / "nginx.log"), "-g", "daemon off;"]
    process = subprocess.Popen(command)
    try:
        proxy = f"http://127.0.0.1:{port}"
        until_ready(replace(first, base_url=proxy, process=process, log=folder / "nginx.log"))
        yield proxy
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(30)


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
