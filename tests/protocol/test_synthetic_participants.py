"""Twelve invented participants whose group figures equal, to one decimal, those of the Norwegian trial.

Published: Br J Psychiatry 2025, doi 10.1192/bjp.2025.10320 (abstract): MADRS at baseline mean 29.6, SD 4.9;
change to the primary endpoint: MADRS -19.3 (s.e. 2.4), SDS -11.7 (s.e. 2.2). No individual value here is real.
"""

import csv
import json
from pathlib import Path
from statistics import mean, stdev

import pytest

from app.protocol.instruments import instrument
from app.protocol.schedule import shipped_protocols
from app.protocol.scoring import Score, score

DATA = Path(__file__).parent.parent / "data"
ROWS = list(csv.DictReader((DATA / "synthetic12_madrs_sds.csv").read_text().splitlines()))
EXPECTED = json.loads((DATA / "synthetic12_expected.json").read_text())


def madrs(row: dict[str, str]) -> Score:
    return score(instrument("MADRS"), {f"MADRS_{n:02d}": int(row[f"madrs_{n:02d}"]) for n in range(1, 11)})[0]


def sheehan(row: dict[str, str]) -> Score:
    return score(instrument("SHEEHAN_SDS"), {f"SDS_{n:02d}": int(row[f"sds_{n}"]) for n in range(1, 4)})[0]


def totals(scale: str, visit: str) -> list[int]:
    scorer = {"madrs": madrs, "sds": sheehan}[scale]
    found = [scorer(row).value for row in ROWS if row["visit"] == visit]
    return [value for value in found if isinstance(value, int)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['subject']} {row['visit']}")
def test_totals_are_computed_from_the_items(row: dict[str, str]) -> None:
    assert madrs(row).value == int(row["madrs_total"])
    assert sheehan(row).value == int(row["sds_total"])


@pytest.mark.parametrize("scale", ["madrs", "sds"])
def test_group_figures_are_the_expected_ones(scale: str) -> None:
    expected, published = EXPECTED["computed_exact"][scale], EXPECTED["published"][scale]
    before, after = totals(scale, "BASELINE"), totals(scale, "PRIMARY")
    changes = [post - pre for pre, post in zip(before, after, strict=True)]
    assert len(changes) == expected["n"]
    assert (sum(before), sum(after)) == (expected["baseline_sum"], expected["post_sum"])
    assert changes == expected["change_values"]
    assert stdev(changes) == pytest.approx(expected["change_sd"])
    assert round(mean(changes), 1) == published["change_mean"]
    assert round(stdev(changes) / len(changes) ** 0.5, 1) == published["change_se"]


def test_baseline_depression_is_the_published_one() -> None:
    before = totals("madrs", "BASELINE")
    published = EXPECTED["published"]["madrs"]
    assert (round(mean(before), 1), round(stdev(before), 1)) == (
        published["baseline_mean"],
        published["baseline_sd"],
    )


@pytest.mark.parametrize(("visit", "key"), [("BASELINE", "severity_baseline"), ("PRIMARY", "severity_post")])
def test_severity_bands_are_counted_as_expected(visit: str, key: str) -> None:
    bands = [madrs(row).band for row in ROWS if row["visit"] == visit]
    expected = EXPECTED["computed_exact"]["madrs"][key]
    assert {band: bands.count(band) for band in expected} == expected


def test_responders_and_remitters_are_counted_as_expected() -> None:
    threshold = shipped_protocols()["mdma-mdd-generic/1"].thresholds[0]
    expected = EXPECTED["computed_exact"]["madrs"]
    before, after = totals("madrs", "BASELINE"), totals("madrs", "PRIMARY")
    responses = [threshold.response(pre, post) for pre, post in zip(before, after, strict=True)]
    assert responses.count(True) == expected["responders_ge50pct"]
    assert [threshold.remission(post) for post in after].count(True) == expected["remitters_le10"]
