"""The demo's server: the commands of an operator, run as child processes in the demo's folder."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import httpx

READY_WITHIN_SECONDS = 40
PORTS_TRIED = 100
TOKEN_SECONDS = 43_200
"""Twelve hours, so that a pasted token lasts a working day. Only a demo may do this."""

ADMIN = "admin"


class ServerFailed(Exception):
    """The server did not start, or stopped by itself. The message has the end of its log."""


def free_port(wanted: int) -> int:
    """`wanted`, or the next free port of 127.0.0.1. Raises ServerFailed if there is none."""
    for port in range(wanted, min(wanted + PORTS_TRIED, 65_536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerFailed(f"No free port from {wanted} on; give another with --port.")


def init(folder: Path, password: str) -> None:
    """Make or migrate the database, the keys and the first admin. Raises ServerFailed."""
    environment = {**_environment(), "REGISTRY_ADMIN_PASSWORD": password}
    command = _command("init", "--admin", ADMIN)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ServerFailed(f"`registry init` failed: {(done.stderr or done.stdout)[-1000:].strip()}")


class Server:
    """`registry serve` in a folder, with its output in server.log. It is stopped when the block ends."""

    def __init__(self, folder: Path, port: int) -> None:
        self.base_url = f"http://127.0.0.1:{port}"
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            # In a session of its own, so that Ctrl-C reaches only the demo, which then stops the server.
            self.process = subprocess.Popen(
                _command("serve", "--port", str(port)),
                cwd=folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Raises ServerFailed."""
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                ready = httpx.get(f"{self.base_url}/readyz", trust_env=False).is_success
            except httpx.TransportError:
                ready = False
            if ready and self.process.poll() is None:
                return
            time.sleep(0.05)
        raise ServerFailed(f"The server did not come up. {self._last_words()}")

    def death(self) -> ServerFailed:
        """Wait until the server stops by itself; gives the failure to raise."""
        code = self.process.wait()
        return ServerFailed(f"The server stopped by itself with exit code {code}. {self._last_words()}")

    def _last_words(self) -> str:
        return f"From {self._log}:\n{self._log.read_text(errors='replace')[-1500:].strip()}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _command(*arguments: str) -> list[str]:
    # -P: import nothing from the working folder.
    return [sys.executable, "-P", "-c", "from app.cli import main; main()", *arguments]


def _environment() -> dict[str, str]:
    """The environment without REGISTRY_ variables: by default database and keys are in the working folder."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    return {
        **inherited,
        "REGISTRY_ENVIRONMENT": "demo",
        "REGISTRY_ACCESS_TOKEN_SECONDS": str(TOKEN_SECONDS),
    }
