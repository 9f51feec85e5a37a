"""The measuring harness itself: it runs, verifies what it wrote, and gives every target its floor. No times here."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from app.access import Actor, Place
from app.permissions import Permission
from app.settings import Settings
from bench.ground import Target
from bench.measure import busy
from bench.targets import held
from bench.walls import page
from tests.server import ROOT


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The smallest run there is, on SQLite; it fails by itself when an acknowledged visit is not stored."""
    file: Path = tmp_path_factory.mktemp("bench") / "result.json"
    size = ["--rounds", "1", "--seconds", "0.2", "--people", "60", "--only", "idiomatic", "bulk"]
    command = [sys.executable, "-m", "bench.targets", "--engine", "sqlite", *size, "--json", str(file)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=240, check=False)
    assert ended.returncode in {0, 1, 3}, ended.stderr.decode()[-2000:]
    assert file.exists(), ended.stderr.decode()[-2000:]
    measured: dict[str, Any] = json.loads(file.read_text())
    return measured


def test_every_target_is_a_ratio_of_one_run(result: dict[str, Any]) -> None:
    targets = {one["what"]: one for one in result["targets"]}
    assert "visit POST, durable / validated without database" in targets
    assert "bulk: Python CPU a visit, us" in targets
    assert all(one["ratio"] > 0 for one in targets.values())


def test_what_was_stored_is_what_the_writing_cases_had_acknowledged(result: dict[str, Any]) -> None:
    [stored] = result["stored"].values()
    answered = [result["cases"][name]["answered"] for name in ("visit POST", "visit POST, idiomatic ORM")]
    assert stored >= 1_000 + sum(answered)


def test_the_result_says_on_what_it_was_measured(result: dict[str, Any]) -> None:
    assert {"cpu", "cores", "fdatasync_us", "load_before", "load_after", "versions"} <= result["machine"].keys()


def test_the_walls_ask_for_a_page_as_the_registry_does(tmp_path: Path) -> None:
    """They need PostgreSQL and minutes, so nothing else here notices when the list is asked in another way."""
    sites = {1: Place("study", "A")}
    monitor = Actor(uuid4(), "monitor", "office", Permission.adverse_event_read, {}, sites, frozenset({1}))
    settings = Settings(database_url=f"sqlite:///{tmp_path}/none.db")
    place: Any = SimpleNamespace(settings=settings, seeded=SimpleNamespace(site="A"))
    assert "ORDER BY adverse_event.created_at DESC" in page(place, monitor)


def test_a_target_is_the_median_of_ratios_of_the_same_round() -> None:
    rounds = {"of": [9.0, 1.0, 4.0, 9.0], "floor": [1.0, 2.0, 4.0, 3.0]}  # the first one warms up
    found = {name: [{"per_second": rate} for rate in rates] for name, rates in rounds.items()}
    target = Target("speed", ("of", "per_second"), ("floor", "per_second"), least=0.9)
    assert held(target, found) == {"what": "speed", "least": 0.9, "ratio": 1.0, "range": [0.5, 3.0], "met": True}


@pytest.mark.parametrize(
    ("foreign", "spread", "client", "is_busy"),
    [(0.01, 0.05, 0.4, False), (0.20, 0.05, 0.4, True), (0.01, 0.30, 0.4, True), (0.01, 0.05, 0.9, True)],
)
def test_noise_or_a_load_generator_at_its_limit_allow_no_verdict(
    foreign: float, spread: float, client: float, is_busy: bool
) -> None:
    floor = {"foreign_share": foreign, "spread": spread, "client_share": client}
    assert bool(busy({"bare endpoint": floor}, "bare endpoint")) is is_busy
