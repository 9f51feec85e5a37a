"""A `registry` command in a process that is forked from one which has imported it already.

The imports of a fresh process take two to three seconds, and the tests start many. From the fork on it does what the
command does. tests/test_deployment.py and tests/test_demo.py start fresh ones, as an operator does.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["app.cli", "app.main"])


class Forked:
    """What is asked of a `subprocess.Popen`."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path, folder: Path) -> None:
        self._process = forks.Process(
            target=_run, args=(list(arguments), dict(environment), str(log), str(folder)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutExpired."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("registry", timeout or 0)
        return code


def _run(arguments: list[str], environment: dict[str, str], log: str, folder: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    from app.cli import main

    sys.argv = ["registry", *arguments]
    main()
