"""The benchmark runs, counts what it stored, and divides each figure by a floor of the same run. No time asserted."""

import json
import subprocess
import sys
from pathlib import Path

from tests.server import ROOT


def test_a_short_run_gives_every_case_its_floor_and_agrees_with_the_database(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    command = [
        sys.executable,
        "-m",
        "bench.run",
        "--rounds",
        "1",
        "--seconds",
        "0.2",
        "--people",
        "60",
        "--clients",
        "4",
    ]
    done = subprocess.run([*command, "--json", str(result)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    cases = json.loads(result.read_text())["cases"]
    measured = {name: case for name, case in cases.items() if "per_second" in case}
    assert set(measured) > {"bare endpoint", "visit validated, no database", "visit POST", "AE page of 50"}
    assert all(case["floor"] is None or case["floor"] in measured for case in measured.values())
    assert all(case["answered"] > 0 and case["ratio_to_floor"] > 0 for case in measured.values())
    assert measured["visit POST"]["stored"] > 0
    assert cases["extract, all files"]["rows"] == 180
    for name in measured:
        assert name in done.stdout
