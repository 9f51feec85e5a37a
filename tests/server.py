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
def running_server(folder: Path, database_url: str, **settings: str) -> Iterator[LiveServer]:
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
    with log.open("wb") as output:
        process = subprocess.Popen(
            registry_command("serve", "--port", str(port)), env=environment, cwd=ROOT, stdout=output, stderr=output
        )
    try:
        server = LiveServer(f"http://127.0.0.1:{port}", database_url, environment, process, log)
        _wait(server)
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _wait(server: LiveServer) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{server.base_url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
        if server.process.poll() is not None:
            break
    raise AssertionError(f"the server did not come up: {server.log.read_text()[-2000:]}")
