"""A served registry in a process of its own."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.postgres import as_server, new_database

ROOT = Path(__file__).resolve().parent.parent
ADMIN, PASSWORD = "admin", "correct horse battery staple"


@dataclass
class LiveServer:
    base_url: str
    database_url: str
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]
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


@contextmanager
def running_server(folder: Path, database_url: str, workers: int = 1, **settings: str) -> Iterator[LiveServer]:
    """`registry init` and `registry serve`, as an operator runs them."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")},
        "REGISTRY_ENVIRONMENT": "demo",
        "REGISTRY_DATABASE_URL": database_url,
        "REGISTRY_KEY_FILE": str(folder / "keys.json"),
        "REGISTRY_ADMIN_PASSWORD": PASSWORD,
        **settings,
    }
    subprocess.run(registry_command("init"), env=environment, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    port = free_port()
    log = folder / "server.log"
    process = _started(port, environment, log, workers)
    server = LiveServer(f"http://127.0.0.1:{port}", database_url, environment, process, log)
    try:
        _wait(server)
        yield server
    finally:
        server.process.terminate()
        server.process.wait(30)


@contextmanager
def served(folder: Path, server_url: str | None) -> Iterator[LiveServer]:
    """A registry of its own: on SQLite, or in a new database of a PostgreSQL server, as a role that owns nothing."""
    if server_url is None:
        with running_server(folder, f"sqlite:///{folder / 'registry.db'}") as server:
            yield server
        return
    with new_database(server_url) as url:
        roles = {"REGISTRY_OWNER_DATABASE_URL": url, "REGISTRY_DATABASE_URL": as_server(url)}
        with running_server(folder, url, **roles) as server:
            yield server


def restart(server: LiveServer) -> None:
    """Serve again where a server was killed."""
    server.process = _started(int(server.base_url.rpartition(":")[2]), server.environment, server.log)
    _wait(server)


def _started(port: int, environment: Mapping[str, str], log: Path, workers: int = 1) -> subprocess.Popen[bytes]:
    command = registry_command("serve", "--port", str(port), "--workers", str(workers))
    with log.open("ab") as output:
        return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output, stderr=output)


def _wait(server: LiveServer) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{server.base_url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
        if server.process.poll() is not None:
            break
    raise AssertionError(f"the server did not come up: {server.log.read_text()[-2000:]}")
