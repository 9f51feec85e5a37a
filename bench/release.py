"""`python -m bench.release`: keep what this version stores, for every later version to load. Run once at each release.

Writes tests/data/released/<version>/<engine>: four of the demo's synthetic participants as a backup of this version,
and its keys. An archive of pg_dump is restored by its own version or a newer one: take the oldest PostgreSQL that is
supported (REGISTRY_TEST_POSTGRES_URL, with its client programs first on the PATH).
"""

import lzma
import subprocess
import tempfile
from pathlib import Path

from app import __version__
from app.demo.caller import Caller
from app.demo.course import courses
from app.demo.demo_file import DemoAccount
from app.demo.load import say, site_apps
from app.demo.setup import STUDY, make_accounts, make_study
from app.demo.site_app import post_all
from tests.postgres import postgres_server
from tests.server import ADMIN, PASSWORD, ROOT, registry_command, served

KEPT = ROOT / "tests" / "data" / "released"


def main() -> None:
    with postgres_server() as url:
        for engine, server_url in (("sqlite", None), ("postgresql", url)):
            target = KEPT / __version__ / engine
            target.mkdir(parents=True)
            with tempfile.TemporaryDirectory(prefix="registry-release-") as place:
                folder = Path(place)
                with served(folder, server_url) as server:
                    loaded(server.base_url)
                    command = registry_command("backup", "make", str(folder / "backup"))
                    subprocess.run(command, env=server.environment, check=True)
                for file in (folder / "backup").iterdir():
                    packed = file.suffix != ".json"
                    content = lzma.compress(file.read_bytes()) if packed else file.read_bytes()
                    (target / (f"{file.name}.xz" if packed else file.name)).write_bytes(content)
                (target / "keys.json").write_bytes((folder / "keys.json").read_bytes())


def loaded(base_url: str) -> None:
    """A whole course, one that ended early, one that was not eligible; and an extract that waits for its decision."""
    admin = DemoAccount(role="admin", organisation="Registry office", username=ADMIN, password=PASSWORD)
    with Caller.signed_in(base_url, admin) as caller:
        make_study(caller)
        accounts = make_accounts(caller, base_url)
    post_all(base_url, site_apps(accounts), courses()[-4:], say)
    with Caller.signed_in(base_url, next(one for one in accounts if one.role == "analyst")) as analyst:
        analyst.post("/v1/extracts", {"study": STUDY, "purpose": "Course of MADRS (synthetic)"})


if __name__ == "__main__":
    main()
