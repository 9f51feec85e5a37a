"""The operator's guide, as pasted: every block of docs/operations.md in its order, on a registry that is served."""

import shutil
from pathlib import Path

import pytest

from tests.pasted import blocks, pasted
from tests.server import running_server
from tests.world import PROTOCOL


def test_the_guide_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(str(PROTOCOL), tmp_path / "protocol.toml")
    monkeypatch.chdir(tmp_path)
    with running_server(tmp_path, f"sqlite:///{tmp_path / 'registry.db'}") as server:
        given = {**server.environment, "API": server.base_url, "no_proxy": "127.0.0.1"}
        printed = pasted(
            blocks("docs/operations.md", "office"), {**given, "REGISTRY_NEW_PASSWORD": "another long password"}
        )
    for said in ("Restored elsewhere, and whole", "every entry is as it was", "nothing would run", "client_secret"):
        assert said in printed
