"""The client by itself: what a site installs holds nothing of the server, and works."""

import json
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from app import __version__
from tests.hostile import live_study
from tests.server import ROOT, LiveServer

PROJECT = ROOT / "client"
ROUND_TRIP = """
import json, sys
from registry_client import ClientCredentials, Registry
url, name, secret, enrolment = sys.argv[1:]
with Registry(url, ClientCredentials(name, secret)) as registry:
    made = registry.post("/v1/participants", json.loads(enrolment))
    print(registry.get(made.location).body["pid"])
print(*sorted({one.partition(".")[0] for one in sys.modules}))
"""
COMMAND = """
from importlib.metadata import entry_points
(command,) = entry_points(group="console_scripts", name="registry-site")
command.load()()
"""


def needed(*names: str) -> Iterator[str]:
    """The distributions that these need here, and those."""
    for name in names:
        found = distribution(name)
        yield found.name
        wanted = [Requirement(text) for text in found.requires or ()]
        yield from needed(*(one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})))


def offer(names: set[str], folder: Path) -> None:
    """Let the installed files of these distributions, and no others, be imported from a folder."""
    for name in names:
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in {"..", "__pycache__"}}:
            if not (folder / top).exists():
                (folder / top).symlink_to(Path(str(found.locate_file(top))))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the client's wheel, httpx and typer, and nothing else. No index is asked."""
    folder = tmp_path_factory.mktemp("site")
    build = f"from hatchling.build import build_wheel; print(build_wheel({str(folder)!r}))"
    built = subprocess.run([sys.executable, "-c", build], cwd=PROJECT, capture_output=True, text=True, check=True)
    venv.create(folder / "venv")
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    with zipfile.ZipFile(folder / built.stdout.strip()) as wheel:  # what pip would do, without the seconds it takes
        wheel.extractall(packages)
    offer(set(needed("httpx", "typer")), packages)
    return folder / "venv" / "bin" / "python"


def test_the_client_works_without_the_server(installed: Path, live_server: LiveServer) -> None:
    with live_study(live_server) as live:
        app = live._made("/v1/clients", {"name": "App", "organisation": "Test"})
        grant = {"role": "site_staff", "study": live.study, "sites": [live.site]}
        live._made(f"/v1/clients/{app['client_id']}/grants", grant)
        given = [live_server.base_url, app["client_id"], app["client_secret"]]
        line = [installed, "-I", "-c", ROUND_TRIP, *given, json.dumps(live.enrolment())]
        pid, modules = subprocess.run(line, capture_output=True, text=True, check=True).stdout.splitlines()
        assert live.staff.get(f"/v1/participants/{pid}").status_code == 200
        assert "httpx" in modules.split()
        assert not {"app", "fastapi", "pydantic", "sqlalchemy", "typer"} & set(modules.split())
        variables = dict(zip(("SITE_APP_URL", "SITE_APP_CLIENT_ID", "SITE_APP_CLIENT_SECRET"), given, strict=True))
        enrol = [installed, "-I", "-c", COMMAND, "enrol", json.dumps(live.enrolment())]
        done = subprocess.run(enrol, env=variables, capture_output=True, text=True, check=True)
        assert live.staff.get(f"/v1/participants/{done.stdout.strip()}").status_code == 200


def test_the_package_and_the_servers_agree() -> None:
    """The server's distribution brings the same package along."""
    own, servers = (tomllib.loads((folder / "pyproject.toml").read_text())["project"] for folder in (PROJECT, ROOT))
    assert own["version"] == servers["version"] == __version__
    assert set(own["dependencies"]) < set(servers["dependencies"])
    assert own["optional-dependencies"]["commands"][0] in servers["dependencies"]
    assert own["optional-dependencies"]["statistics"] == servers["optional-dependencies"]["statistics"]
    assert own["scripts"].items() < servers["scripts"].items()
