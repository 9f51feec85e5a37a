"""A served registry in a process of its own."""

import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import httpx

from app.cli import main
from tests.forked import Forked
from tests.postgres import as_server, new_database

ROOT = Path(__file__).resolve().parent.parent
ADMIN, PASSWORD = "admin", "correct horse battery staple"


@dataclass
class LiveServer:
    base_url: str
    database_url: str
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes] | Forked
    log: Path
    admin_username: str = ADMIN
    admin_password: str = field(default=PASSWORD, repr=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def registry_command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from app.cli import main; main()", *arguments]


def typed(variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """What `registry ...` does and says where only these variables are set, in this process: the imports of a new one
    would take most of the time."""
    output, errors, mask, code = io.StringIO(), io.StringIO(), os.umask(0o077), None
    with patch.dict(os.environ, variables, clear=True), patch.object(sys, "argv", ["registry", *arguments]):
        try:
            with redirect_stdout(output), redirect_stderr(errors):
                main()
        except SystemExit as end:
            code = end.code
        finally:
            os.umask(mask)
    return subprocess.CompletedProcess(arguments, int(code or 0), output.getvalue(), errors.getvalue())


@contextmanager
def running_server(folder: Path, database_url: str, workers: int = 1, **settings: str) -> Iterator[LiveServer]:
    """`registry init`, and `registry serve` as an operator runs it."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")},
        "REGISTRY_ENVIRONMENT": "demo",
        "REGISTRY_DATABASE_URL": database_url,
        "REGISTRY_KEY_FILE": str(folder / "keys.json"),
        "REGISTRY_ADMIN_PASSWORD": PASSWORD,
        **settings,
    }
    made = typed(environment, "init")
    assert made.returncode == 0, made.stderr
    port = free_port()
    log = folder / "server.log"
    process = _started(port, environment, log, workers)
    server = LiveServer(f"http://127.0.0.1:{port}", database_url, environment, process, log)
    try:
        until_ready(server)
        yield server
    finally:
        server.process.terminate()
        server.process.wait(30)


@contextmanager
def served(folder: Path, server_url: str | None, workers: int = 1, **settings: str) -> Iterator[LiveServer]:
    """A registry of its own: on SQLite, or in a new database of a PostgreSQL server, as a role that owns nothing."""
    if server_url is None:
        with running_server(folder, f"sqlite:///{folder / 'registry.db'}", workers, **settings) as server:
            yield server
        return
    with new_database(server_url) as url:
        roles = {"REGISTRY_OWNER_DATABASE_URL": url, "REGISTRY_DATABASE_URL": as_server(url)}
        with running_server(folder, url, workers, **roles, **settings) as server:
            yield server


def restart(server: LiveServer) -> None:
    """Serve again where a server was killed."""
    server.process = _started(int(server.base_url.rpartition(":")[2]), server.environment, server.log)
    until_ready(server)


@contextmanager
def another(server: LiveServer, log: Path) -> Iterator[LiveServer]:
    """A second instance of a served registry, with the same settings."""
    port = free_port()
    process = _started(port, server.environment, log)
    second = LiveServer(f"http://127.0.0.1:{port}", server.database_url, server.environment, process, log)
    try:
        until_ready(second)
        yield second
    finally:
        second.process.terminate()
        second.process.wait(30)


def _started(
    port: int, environment: Mapping[str, str], log: Path, workers: int = 1
) -> subprocess.Popen[bytes] | Forked:
    arguments = ("serve", "--port", str(port), "--workers", str(workers))
    if workers == 1:
        return Forked(arguments, environment, log, ROOT)
    with log.open("ab") as output:
        return subprocess.Popen(registry_command(*arguments), env=environment, cwd=ROOT, stdout=output, stderr=output)


def until_ready(server: LiveServer) -> None:
    deadline = time.monotonic() + 180
    with httpx.Client(base_url=server.base_url) as http:
        while time.monotonic() < deadline:
            try:
                if http.get("/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
            if server.process.poll() is not None:
                break
    raise AssertionError(f"the server did not come up: {server.log.read_text()[-2000:]}")
