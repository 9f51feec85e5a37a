"""The operator's guide, as pasted: every block of docs/operations.md in its order, on a registry that is served."""

import shutil
from pathlib import Path

import pytest

from app.security import rotation
from tests.pasted import blocks, inline, pasted
from tests.server import running_server, typed
from tests.test_account_commands import variables
from tests.world import PROTOCOL

GUIDE = "docs/operations.md"


def test_the_guide_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(str(PROTOCOL), tmp_path / "protocol.toml")
    (tmp_path / "backups" / "database" / "2026-03-01T020000Z").mkdir(parents=True)  # of a night that was interrupted
    monkeypatch.chdir(tmp_path)
    with running_server(tmp_path, f"sqlite:///{tmp_path / 'registry.db'}") as server:
        given = {**server.environment, "API": server.base_url, "no_proxy": "127.0.0.1"}
        given["REGISTRY_NEW_PASSWORD"] = "another long password"
        printed = pasted([*blocks(GUIDE, "office"), *inline(GUIDE)], given)
    for said in ("Restored elsewhere, and whole", "every entry is as it was", "nothing would run", "client_secret"):
        assert said in printed


@pytest.mark.parametrize(("kind", "old"), [("signing", None), ("kek", "retired")])
def test_a_key_that_leaked_is_out_of_use_when_the_guide_was_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, old: str | None
) -> None:
    """Its ten seconds are one here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rotation, "SPREAD_SECONDS", 1)
    given = variables(tmp_path, f"sqlite:///{tmp_path / 'registry.db'}")
    assert typed(given, "init").returncode == 0
    before, block = states(given, kind), blocks(GUIDE, f"leaked_{kind}")
    (leaked,) = before
    pasted([line.replace("KID", leaked).replace("sleep 10", "sleep 1") for line in block], given)
    after = states(given, kind)
    assert (len(before), after.pop(leaked, None), list(after.values())) == (1, old, ["active"])


def states(given: dict[str, str], kind: str) -> dict[str, str]:
    """Of the keys of a kind, by their ids."""
    rows = [line.split() for line in typed(given, "keys", "show").stdout.splitlines()]
    return {kid: state for of, kid, state, *_ in rows if of == kind}
