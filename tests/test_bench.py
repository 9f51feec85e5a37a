"""The measuring harness itself: it runs, verifies what it wrote, and gives every figure its floor. No times here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench.run import _busy
from tests.server import ROOT


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The smallest run there is, on SQLite; it fails by itself when an acknowledged visit is not stored."""
    file: Path = tmp_path_factory.mktemp("bench") / "result.json"
    size = ["--rounds", "1", "--seconds", "0.2", "--people", "60", "--clients", "4"]
    command = [sys.executable, "-m", "bench.run", "--engine", "sqlite", *size, "--json", str(file)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    measured: dict[str, Any] = json.loads(file.read_text())
    return measured


def test_every_case_has_its_floor_in_the_same_run(result: dict[str, Any]) -> None:
    rated = {name: case for name, case in result["cases"].items() if "per_second" in case}
    assert "visit POST" in rated
    assert "AE page of 50" in rated
    for name, case in rated.items():
        assert case["answered"] > 0, name
        floor = rated[case["floor"]]["per_second"] if case["floor"] else case["per_second"]
        assert case["ratio_to_floor"] == pytest.approx(case["per_second"] / floor), name


def test_only_writing_cases_store_rows(result: dict[str, Any]) -> None:
    stored = {name for name, case in result["cases"].items() if case.get("stored")}
    assert stored == {"visit POST", "visit POST, idiomatic ORM"}


def test_the_extract_has_every_seeded_score(result: dict[str, Any]) -> None:
    assert result["cases"]["extract, all files"]["rows"] == 60 * 3


def test_the_result_says_on_what_it_was_measured(result: dict[str, Any]) -> None:
    assert {"cpu", "cores", "fdatasync_us", "load_before", "load_after", "versions"} <= result["machine"].keys()


@pytest.mark.parametrize(("foreign", "spread", "busy"), [(0.01, 0.05, False), (0.20, 0.05, True), (0.01, 0.30, True)])
def test_noise_from_others_or_in_the_floor_marks_a_run_busy(foreign: float, spread: float, busy: bool) -> None:
    assert bool(_busy({"bare endpoint": {"foreign_share": foreign, "spread": spread}})) is busy
