"""The operator's guide, as pasted: every block of docs/operations.md in its order, on a registry that is served."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import pytest

from tests.server import ROOT, running_server, typed
from tests.test_commands import FENCE
from tests.world import PROTOCOL

PAGE = (ROOT / "docs" / "operations.md").read_text()
LINES = re.sub(r"\\\n *", "", "".join(code for kind, code in FENCE.findall(PAGE) if kind == "office")).splitlines()


def test_the_guide_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(str(PROTOCOL), tmp_path / "protocol.toml")
    monkeypatch.chdir(tmp_path)
    with running_server(tmp_path, f"sqlite:///{tmp_path / 'registry.db'}") as server:
        given = {**server.environment, "API": server.base_url, "no_proxy": "127.0.0.1"}
        given |= {"REGISTRY_NEW_PASSWORD": "another long password"}
        told = ""
        for ours, group in groupby(LINES, lambda line: line.startswith("registry ")):
            lines = list(group)
            told += "".join(registry(line, given) for line in lines) if ours else shell("\n".join(lines), given)
    for said in ("Restored elsewhere, and whole", "every entry is as it was", "nothing would run", "client_secret"):
        assert said in told


def registry(line: str, given: Mapping[str, str]) -> str:
    """One of our commands, in this process: a new one for each would take most of the time."""
    command, _, file = line.partition(" > ")
    _, *arguments = shlex.split(command)
    arguments = [str(path) for one in arguments for path in (sorted(Path().glob(one)) if "*" in one else [one])]
    done = typed(given, *arguments)
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    if file:
        Path(file).write_text(done.stdout)
    return done.stdout


def shell(script: str, given: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (script, done.stdout, done.stderr)
    return done.stdout
