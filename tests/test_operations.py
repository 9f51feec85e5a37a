"""The operator's guide, as pasted: every block of docs/operations.md in its order, on a registry that is served."""

import shutil
import subprocess
from pathlib import Path

from tests.server import ROOT, registry_command, running_server
from tests.test_commands import FENCE
from tests.world import PROTOCOL


def test_the_guide_runs_as_written(tmp_path: Path) -> None:
    script = "".join(
        code for kind, code in FENCE.findall((ROOT / "docs/operations.md").read_text()) if kind == "office"
    )
    registry = " ".join(f"'{part}'" for part in registry_command())
    shutil.copy(str(PROTOCOL), tmp_path / "protocol.toml")
    with running_server(tmp_path, f"sqlite:///{tmp_path / 'registry.db'}") as server:
        given = {**server.environment, "API": server.base_url, "REGISTRY_NEW_PASSWORD": "another long password"}
        given |= {"no_proxy": "127.0.0.1", "PYTHONPATH": str(ROOT)}
        command = ["bash", "-euo", "pipefail", "-c", f'registry() {{ {registry} "$@"; }}\n{script}']
        done = subprocess.run(command, env=given, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for told in (
        "Restored elsewhere, and whole",
        "every entry is as it was written",
        "nothing would run",
        "client_secret",
    ):
        assert told in done.stdout
