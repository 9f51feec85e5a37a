"""A server that is started by forking a process that has imported it already.

`registry serve` imports for two seconds before it serves. Benches that start it hundreds of times fork it instead: from
there on it does what the command does.
"""

import multiprocessing
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.server import LiveServer, until_ready

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["__main__", "app.cli", "app.main"])


class Forked:
    """What is asked of a `subprocess.Popen`."""

    def __init__(self, port: int, environment: Mapping[str, str], log: Path) -> None:
        self._process = _forks.Process(target=_serve, args=(port, dict(environment), str(log)), daemon=True)
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self._process.exitcode


def restart(server: LiveServer) -> None:
    """Serve again where a server was killed."""
    server.process = Forked(int(server.base_url.rpartition(":")[2]), server.environment, server.log)  # type: ignore[assignment]
    until_ready(server)


def _serve(port: int, environment: Mapping[str, str], log: str) -> None:
    os.environ.clear()
    os.environ.update(environment)
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    from app.cli import app

    sys.argv = ["registry", "serve", "--port", str(port)]
    with suppress(SystemExit):
        app()
