"""The shipped files of nginx at work: only places, ports, the certificate and how many instances there are differ."""

import os
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.server import ROOT, free_port

PROGRAM = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
HOST = "registry.example.org"
SHIPPED = ROOT / "deploy" / "nginx"


@dataclass(frozen=True)
class Proxy:
    """A running nginx."""

    folder: Path
    plain_port: int
    port: int
    path: str

    def client(self) -> httpx.Client:
        """A client outside: it trusts the certificate, finds the host here, and asks below the path."""

        def here(request: httpx.Request) -> None:
            request.extensions["sni_hostname"] = HOST
            path = request.url.raw_path.decode()
            below = path if path.startswith(f"{self.path}/") else self.path + path
            request.url = request.url.copy_with(host="127.0.0.1", port=self.port, raw_path=below.encode())

        trusted = ssl.create_default_context(cafile=str(self.folder / "registry.crt"))
        hooks = {"request": [here]}
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        return httpx.Client(
            base_url=f"https://{HOST}",
            headers={"Host": HOST},
            verify=trusted,
            event_hooks=hooks,
            timeout=60,
            trust_env=False,
            limits=limits,
        )


@contextmanager
def behind_nginx(folder: Path, instances: Sequence[str], path: str = "", **changed: str) -> Iterator[Proxy]:
    """nginx before these addresses, below a path as its file says to do it. `changed` are directives with another
    value than the shipped one, where a test cannot wait as long."""
    proxy = Proxy(folder, free_port(), free_port(), path)
    _certify(folder)
    text = (SHIPPED / "registry.conf").read_text()
    ports = {"listen 80;": f"127.0.0.1:{proxy.plain_port}", "listen 443 ssl;": f"127.0.0.1:{proxy.port} ssl"}
    replaced = {
        "/etc/nginx/tls": str(folder),
        "/var/log/nginx": str(folder),
        **{shipped: f"listen {used};" for shipped, used in ports.items()},
        "location / {": f"location {path}/ {{",
        'set $root_path "";': f'set $root_path "{path}";',
    }
    for shipped, used in replaced.items():
        assert shipped in text
        text = text.replace(shipped, used)
    for directive, value in changed.items():
        text, times = re.subn(rf"\b{directive} [^;]+;", f"{directive} {value};", text)
        assert times
    servers = "\n".join(f"server {address.removeprefix('http://')} max_fails=0;" for address in instances)
    upstream = (SHIPPED / "upstream.conf").read_text().replace("server 127.0.0.1:8000 max_fails=0;", servers)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    ours = re.sub(r"(?m)^.*\[::\].*$", "", upstream + text)
    own_user = "user root;" if os.getuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"pid {folder}/nginx.pid; {own_user} worker_rlimit_nofile 8192; events {{ worker_connections 4096; }}\n"
        f"http {{ {temporary}\n{ours}}}"
    )
    with _running(folder):
        yield proxy


def _certify(folder: Path) -> None:
    made = f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={HOST} -addext subjectAltName=DNS:{HOST}"
    where = ["-keyout", str(folder / "registry.key"), "-out", str(folder / "registry.crt")]
    subprocess.run(["openssl", *made.split(), *where], check=True, capture_output=True)


@contextmanager
def _running(folder: Path) -> Iterator[None]:
    """nginx, from when it listens."""
    assert PROGRAM is not None
    command = [PROGRAM, "-c", str(folder / "nginx.conf"), "-e", str(folder / "start.log")]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stderr
    assert "[warn]" not in tested.stderr, tested.stderr
    subprocess.run(command, check=True)  # goes into the background once it listens
    process = int((folder / "nginx.pid").read_text())
    try:
        yield
    finally:
        os.kill(process, signal.SIGTERM)
