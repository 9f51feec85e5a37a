"""`python -m bench.proxy`: the registry behind a real nginx with TLS, at the root of a host and below a path.

Takes deploy/nginx as it is, with ports, names and a certificate of its own put in; needs nginx and openssl.
"""

import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin

import httpx

from tests.server import ADMIN, PASSWORD, ROOT, free_port, running_server

HOST = "registry.example.org"


def main() -> None:
    for path in ("", "/registry"):
        with tempfile.TemporaryDirectory(prefix="registry-proxy-") as place:
            folder = Path(place)
            given = {"REGISTRY_ROOT_PATH": path, "REGISTRY_THROTTLE_ADDRESS_FAILURES": "3"}
            with (
                running_server(folder, f"sqlite:///{folder / 'registry.db'}", 1, **given) as server,
                proxy(folder, server.base_url, path) as (port, base),
                client(folder, port) as http,
            ):
                for what, well in checks(http, base, path):
                    print(f"{'ok   ' if well else 'WRONG'}  {base}: {what}")


@contextmanager
def proxy(folder: Path, upstream: str, path: str) -> Iterator[tuple[int, str]]:
    """nginx with the shipped files; gives its TLS port, and the base URL that callers use."""
    plain, tls, conf = free_port(), free_port(), folder / "conf.d"
    conf.mkdir()
    made = f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN={HOST} -addext subjectAltName=DNS:{HOST}"
    where = ["-keyout", str(folder / "registry.key"), "-out", str(folder / "registry.crt")]
    subprocess.run(["openssl", *made.split(), *where], check=True, capture_output=True)
    shipped = (ROOT / "deploy/nginx/registry.conf").read_text().replace("/etc/nginx/tls", str(folder))
    shipped = shipped.replace("listen 80;", f"listen 127.0.0.1:{plain};").replace("443 ssl;", f"127.0.0.1:{tls} ssl;")
    shipped = "\n".join(line for line in shipped.splitlines() if "[::]" not in line)
    (conf / "registry.conf").write_text(shipped.replace("location / {", f"location {path}/ {{"))
    address = upstream.removeprefix("http://")
    text = (ROOT / "deploy/nginx/upstream.conf").read_text()
    (conf / "upstream.conf").write_text(text.replace("127.0.0.1:8000", address))
    kept = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    main_file = folder / "nginx.conf"
    main_file.write_text(
        f"pid {folder}/nginx.pid; error_log {folder}/error.log; daemon off; {'user root;' if os.getuid() == 0 else ''}"
        f"events {{}} http {{ {kept} include {conf}/*.conf; }}"
    )
    subprocess.run(["nginx", "-t", "-q", "-c", str(main_file)], check=True)
    server = subprocess.Popen(["nginx", "-c", str(main_file)])
    try:
        time.sleep(0.5)
        redirect = httpx.get(f"http://127.0.0.1:{plain}{path}/healthz", headers={"Host": HOST})
        assert (redirect.status_code, redirect.headers["location"]) == (308, f"https://{HOST}{path}/healthz")
        yield tls, f"https://{HOST}{path}"
    finally:
        server.terminate()
        server.wait(10)


def client(folder: Path, port: int) -> httpx.Client:
    """Knows the certificate, and where the name is."""

    def here(request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = HOST
        request.url = request.url.copy_with(host="127.0.0.1", port=port)

    trusted = ssl.create_default_context(cafile=str(folder / "registry.crt"))
    return httpx.Client(verify=trusted, event_hooks={"request": [here]}, headers={"Host": HOST}, timeout=120)


def checks(http: httpx.Client, base: str, path: str) -> Iterator[tuple[str, bool]]:
    """What a caller outside sees."""
    started = {"username": ADMIN, "password": PASSWORD}
    token = http.post(f"{base}/v1/auth/sessions", json=started).json()["access_token"]
    sent = {"Authorization": f"Bearer {token}"}
    yield "the page of the API is there, with its script", _page(http, f"{base}/docs")
    described = http.get(f"{base}/v1/openapi.json").json()
    yield "the description names the server", described.get("servers", [{"url": ""}])[0]["url"] == path
    for number in range(3):
        body = {"username": f"person-{number}", "display_name": "P", "organisation": "O", "password": PASSWORD}
        http.post(f"{base}/v1/users", json=body, headers={**sent, "Idempotency-Key": f"user-{number}"})
    page = http.get(f"{base}/v1/users?limit=2", headers=sent)
    following = page.headers.get("link", "<>").removeprefix("<").partition(">")[0]
    yield "the link to the next page leads there", http.get(urljoin(base, following), headers=sent).is_success
    refused = http.get(f"{base}/v1/visits/none", headers=sent)
    about = http.get(urljoin(base, refused.json()["type"]))
    yield "a refusal tells where it is explained", about.json()["code"] == refused.json()["code"]
    large = http.post(f"{base}/v1/users", content=b" " * 2**21, headers={**sent, "Content-Type": "application/json"})
    yield "a body that is too large is refused", large.status_code == 413
    yield "the server is not named", "uvicorn" not in str(page.headers) and "nginx/" not in str(page.headers)
    forged = [{"X-Forwarded-For": f"203.0.113.{number}"} for number in range(6)]
    wrong = {"username": "nobody", "password": "a wrong password"}
    told = [http.post(f"{base}/v1/auth/sessions", json=wrong, headers=one).status_code for one in forged]
    yield "who guesses cannot pose as many addresses", told[-1] == 429


def _page(http: httpx.Client, address: str) -> bool:
    return all(http.get(urljoin(address, name)).is_success for name in ("docs", "docs/start.js", "docs/swagger-ui.css"))


if __name__ == "__main__":
    main()
