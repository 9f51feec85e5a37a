"""The API's description as a page: complete without any other host, and closed to scripts from elsewhere."""

import re
import shutil
import subprocess

import pytest

from tests.server import LiveServer
from tests.world import Registry

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DESCRIPTION = "/v1/openapi.json"
NAMED = re.compile(r"""(?:src|href)="([^"]+)"|url: "([^"]+)\"""")


def test_all_that_the_page_names_comes_from_here(registry: Registry) -> None:
    page = registry.client.get("/docs")
    start = registry.client.get("/docs/start.js")
    assert page.headers["content-type"].startswith("text/html")
    named = ["".join(found) for found in NAMED.findall(page.text + start.text)]
    assert len(named) == 5
    for address in named:
        assert not address.startswith(("http", "/"))  # relative, so that it works below a path of a proxy
        assert registry.client.get(f"/{address}").is_success, address


def test_the_page_runs_no_script_but_the_registrys_own(registry: Registry) -> None:
    page = registry.client.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
    assert policy["frame-ancestors"] == "'none'"
    assert "<script>" not in page.text
    assert page.headers["cache-control"] == "no-store"
    assert registry.client.get("/docs/swagger-ui.css").headers["cache-control"] == "public, max-age=86400"


def test_the_description_is_made_once_and_not_sent_to_a_client_that_has_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = registry.client.get(DESCRIPTION)
    assert first.headers["cache-control"] == "no-cache", "an upgrade is seen at once"
    monkeypatch.setattr(registry.app, "openapi", None)
    assert registry.client.get(DESCRIPTION).content == first.content
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"of-yesterday", {tag}', "*"):
        again = registry.client.get(DESCRIPTION, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert registry.client.get(DESCRIPTION, headers={"If-None-Match": '"of-yesterday"'}).content == first.content


@pytest.mark.parametrize("name", ["main.py", "__init__.py", "..%2fmain.py", "oauth2-redirect.html"])
def test_nothing_else_of_the_package_is_served(registry: Registry, name: str) -> None:
    answer = registry.client.get(f"/docs/{name}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_a_browser_shows_every_part_of_the_api(live_server: LiveServer) -> None:
    """With every other host unreachable, as in a closed network."""
    closed = ("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--no-sandbox", "--disable-gpu")
    command = [str(BROWSER), "--headless=new", *closed, "--virtual-time-budget=15000", "--dump-dom"]
    shown = subprocess.run(
        [*command, f"{live_server.base_url}/docs"], capture_output=True, text=True, check=False, timeout=90
    )
    assert shown.returncode == 0, shown.stderr
    for part in ("Research Registry", "adverse events", "dosing sessions", "data queries", "Authorize"):
        assert part in shown.stdout
    assert "Failed to load" not in shown.stdout
