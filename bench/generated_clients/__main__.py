"""`python -m bench.generated_clients`: TypeScript and Python clients are generated, type-checked, and do a round trip.

Needs node and npm, which fetches openapi-typescript, and pip, which fetches openapi-python-client, both as locked here.
Exit code 1 if a client is incomplete, does not compile, or gets a wrong answer.
"""

import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tests.hostile import LiveStudy, live_study
from tests.server import ROOT, served

HERE, DESCRIPTION = Path(__file__).parent, ROOT / "docs" / "openapi.json"


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        place = Path(shutil.copytree(HERE, Path(name) / "clients"))
        try:
            _make_typescript(place)
            python = _make_python(place)
            with served(Path(name), None) as server, live_study(server) as live:
                _run(place, "node", "out/round_trip.js", *_site_app(live))
                _run(place, str(python), "round_trip.py", *_site_app(live))
        except subprocess.CalledProcessError as failed:
            print(f"failed: {' '.join(map(str, failed.cmd[:4]))}", file=sys.stderr)
            return 1
    return 0


def _run(place: Path, *command: str) -> None:
    subprocess.run(command, cwd=place, check=True)


def _make_typescript(place: Path) -> None:
    """Mark fields with a default as optional, which the generator does not conclude by itself."""
    _run(place, "npm", "ci", "--silent")
    types = ["openapi-typescript", str(DESCRIPTION), "--default-non-nullable=false", "-o", "registry.d.ts"]
    _run(place, "npx", *types)
    _run(place, "npx", "tsc")


def _make_python(place: Path) -> Path:
    """The Python of an environment in which the client can be imported. A warning is a route that was left out."""
    venv.create(place / "venv", with_pip=True)
    tools = place / "venv" / "bin"
    locked = ["--require-hashes", "-r", "requirements.txt"]
    _run(place, str(tools / "pip"), "install", "--quiet", *locked)
    generator = [str(tools / "openapi-python-client"), "generate", "--fail-on-warning", "--config", "generator.yml"]
    _run(place, *generator, "--path", str(DESCRIPTION), "--output-path", "generated")
    package = next((place / "generated").glob("*/__init__.py")).parent
    shutil.move(package, place / package.name)
    _run(place, str(tools / "mypy"), "round_trip.py")
    return tools / "python"


def _site_app(live: LiveStudy) -> list[str]:
    """Where the registry is, and a new app that may write there."""
    client = live._made("/v1/clients", {"name": "Generated", "organisation": "Test"})
    grant = {"role": "site_staff", "study": live.study, "sites": [live.site]}
    live._made(f"/v1/clients/{client['client_id']}/grants", grant)
    return [live.server.base_url, client["client_id"], client["client_secret"], live.study, live.site]


if __name__ == "__main__":
    sys.exit(main())
