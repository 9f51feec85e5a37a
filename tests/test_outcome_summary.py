"""Scores against the baseline: a participant's response, and a study by visit, which agrees with known answers."""

import csv
import json
import math
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from scipy import stats

from tests.world import World, madrs, protocol_definition

DATA = Path(__file__).parent / "data"
EXPECTED = json.loads((DATA / "synthetic12_expected.json").read_text())["computed_exact"]


def held(world: World, pid: str, code: str, day: str, items: dict[str, Any] | None) -> None:
    visit = world.visit(pid, code, day, deviation_reason="in this test", outcomes=[items] if items else [])
    answer = world.staff_a.post("/v1/visits", visit)
    assert answer.status_code == 201, answer.text


def totals(*values: int) -> dict[str, Any]:
    """A MADRS administration with this total."""
    (total,) = values
    items = [min(6, max(0, total - 6 * place)) for place in range(10)]
    return madrs(*items)


def response(world: World, pid: str, **query: str) -> list[tuple[str, Any, Any, Any, Any, Any]]:
    read = world.monitor.get(f"/v1/participants/{pid}/response", **query).json()
    names = ("visit_code", "value", "change", "response", "remission", "band")
    return [tuple(item[name] for name in names) for item in read["items"]]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("baseline", "later", "expected"),
    [
        (30, 15, (-15, True, False)),  # half is response
        (30, 16, (-14, False, False)),
        (29, 14, (-15, True, False)),  # 2 * 14 <= 29
        (29, 15, (-14, False, False)),
        (30, 10, (-20, True, True)),  # remission at 10 and below
        (30, 11, (-19, True, False)),
        (30, 34, (4, False, False)),
    ],
)
def test_response_is_half_of_baseline_in_whole_numbers_and_remission_a_limit(
    world: World, baseline: int, later: int, expected: tuple[int, bool, bool]
) -> None:
    pid = world.enrolled()
    held(world, pid, "BL", "2025-01-25", totals(baseline))
    held(world, pid, "UNS", "2025-03-25", totals(later))
    at_baseline, after = response(world, pid, instrument="MADRS")
    assert at_baseline[:3] == ("BL", baseline, 0)
    assert after[:5] == ("UNS", later, *expected)


def test_a_change_that_cannot_be_computed_is_null(world: World) -> None:
    pid = world.enrolled()
    held(world, pid, "UNS", "2025-03-25", totals(20))
    held(world, pid, "ET", "2025-04-25", {"instrument": "MADRS", "items": {"MADRS_01": 1}})
    assert response(world, pid) == [("UNS", 20, None, None, False, "moderate"), ("ET", None, None, None, None, None)]


def test_a_band_is_named_as_the_study_names_it(world: World) -> None:
    bands = [{"label": "below the entry limit", "minimum": 0, "maximum": 27}]
    bands += [{"label": "as at entry", "minimum": 28, "maximum": 60}]
    madrs_of_study = {**protocol_definition()["thresholds"][0], "bands": bands}
    pid = world.enrolled(protocol_version=new_version(world, thresholds=[madrs_of_study]))
    held(world, pid, "BL", "2025-01-25", totals(28))
    held(world, pid, "UNS", "2025-03-25", totals(27))
    assert [row[-1] for row in response(world, pid)] == ["as at entry", "below the entry limit"]


def new_version(world: World, **changes: Any) -> str:
    """A protocol version of the study that differs in this from the generic one."""
    version = uuid4().hex
    body = {**protocol_definition(), "version": version, **changes}
    answer = world.admin.post(f"/v1/studies/{world.study}/protocols", body)
    assert answer.status_code == 201, answer.text
    return version


def test_a_corrected_baseline_moves_every_change_at_once(world: World) -> None:
    pid = world.enrolled()
    held(world, pid, "BL", "2025-01-25", totals(30))
    held(world, pid, "UNS", "2025-03-25", totals(15))
    (outcome,) = world.staff_a.get("/v1/outcomes", participant=pid, visit_code="BL").json()["items"]
    path = f"/v1/outcomes/{outcome['id']}"
    body = {"reason": "misread", "items": {"MADRS_05": 5}}
    assert world.staff_a.patch(path, body, world.staff_a.get(path).headers["ETag"]).is_success
    assert response(world, pid)[1][2:4] == (-14, False)


def test_the_synthetic_twelve_give_the_known_answer_and_scipys(world: World) -> None:
    changes: list[int] = []
    with (DATA / "synthetic12_madrs_sds.csv").open() as file:
        rows = list(csv.DictReader(file))
    people = {row["subject"]: world.enrolled() for row in rows}
    for row in rows:
        code, day = {"BASELINE": ("BL", "2025-01-25"), "PRIMARY": ("PRIM", "2025-05-20")}[row["visit"]]
        items = madrs(*(int(row[f"madrs_{number:02d}"]) for number in range(1, 11)))
        held(world, people[row["subject"]], code, day, items)
    by_subject = {(row["subject"], row["visit"]): int(row["madrs_total"]) for row in rows}
    changes = [by_subject[subject, "PRIMARY"] - by_subject[subject, "BASELINE"] for subject in people]
    read = world.monitor.get("/v1/outcomes/summary", study=world.study, instrument="MADRS").json()
    baseline, primary = read["items"]
    known = EXPECTED["madrs"]
    assert (baseline["visit_code"], primary["visit_code"], read["baseline"]) == ("BL", "PRIM", "BL")
    assert (baseline["value"]["mean"], baseline["value"]["sd"]) == pytest.approx(
        (known["baseline_mean"], known["baseline_sd"])
    )
    assert (primary["value"]["n"], primary["value"]["mean"], primary["value"]["sd"]) == pytest.approx(
        (12, known["post_mean"], known["post_sd"])
    )
    change = primary["change"]
    assert (change["mean"], change["se"]) == pytest.approx((known["change_mean"], known["change_se"]))
    assert (change["ci_low"], change["ci_high"]) == pytest.approx(known["ci95_t"])
    assert change["ci_method"] == "paired Student t, two-sided, 95 %"
    low, high = stats.t.interval(0.95, 11, loc=sum(changes) / 12, scale=stats.tstd(changes) / math.sqrt(12))
    assert (change["ci_low"], change["ci_high"]) == pytest.approx((low, high))
    response = sum(2 * by_subject[one, "PRIMARY"] <= by_subject[one, "BASELINE"] for one in people)
    assert primary["responders"] == response
    assert primary["remitters"] == sum(by_subject[one, "PRIMARY"] <= 10 for one in people)


def test_a_summary_counts_only_sites_in_reach_and_first_occurrences(world: World) -> None:
    mine = world.enrolled()
    held(world, mine, "BL", "2025-01-25", totals(30))
    for occurrence in (1, 2):
        body = world.visit(mine, "UNS", "2025-03-25", occurrence=occurrence, outcomes=[totals(10 * occurrence)])
        assert world.staff_a.post("/v1/visits", body).status_code == 201
    other = world.visit(world.enrolled("B"), outcomes=[totals(50)])
    assert world.staff_b.post("/v1/visits", other).status_code == 201

    def baseline(caller: Any) -> tuple[int, float]:
        read = caller.get("/v1/outcomes/summary", study=world.study, instrument="MADRS").json()
        values = {item["visit_code"]: (item["value"]["n"], item["value"]["mean"]) for item in read["items"]}
        assert values.get("UNS", (1, 10)) == (1, 10)
        found: tuple[int, float] = values["BL"]
        return found

    assert baseline(world.monitor_a) == (1, 30)
    assert baseline(world.staff_b) == (1, 50)
    assert baseline(world.monitor) == (2, 40)


def test_a_summary_has_the_visits_in_the_order_of_the_newest_protocol_in_use(world: World) -> None:
    visits = protocol_definition()["visits"]
    unscheduled_first = sorted(visits, key=lambda visit: visit["code"] != "UNS")
    newest = world.enrolled("A", protocol_version=new_version(world, visits=unscheduled_first))
    held(world, newest, "BL", "2025-01-25", totals(30))
    held(world, newest, "UNS", "2025-03-25", totals(20))
    world.enrolled("B", protocol_version="1")
    read = world.monitor.get("/v1/outcomes/summary", study=world.study, instrument="MADRS").json()
    assert [item["visit_code"] for item in read["items"]] == ["UNS", "BL"]


def test_a_summary_leaves_out_who_was_screened_and_never_enrolled(world: World) -> None:
    held(world, world.enrolled(), "BL", "2025-01-25", totals(30))
    unmet = {"met": False, "unmet": ["INCL03"]}
    held(world, world.enrolled(enrolled_on=None, eligibility=unmet), "BL", "2025-01-25", totals(10))
    read = world.monitor.get("/v1/outcomes/summary", study=world.study, instrument="MADRS").json()
    assert [(item["administered"], item["value"]["mean"]) for item in read["items"]] == [(1, 30)]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"instrument": "NONE"}, "instrument_unknown"),
        ({"instrument": "MADRS", "score": "sum"}, "score_unknown"),
        ({"instrument": "MADRS", "by": "arm"}, "validation_failed"),
    ],
)
def test_a_summary_of_what_there_is_not_is_refused(world: World, query: dict[str, str], code: str) -> None:
    answer = world.monitor.get("/v1/outcomes/summary", study=world.study, **query)
    assert (answer.status_code, answer.json()["code"]) == (422, code)


def test_trauma_and_suicidality_scores_are_in_no_extract(world: World) -> None:
    """Even a lone score could be known of one person."""
    pid, *_ = (world.enrolled() for _ in range(12))
    pcl5 = {"instrument": "PCL5", "items": {f"PCL5_{number:02d}": 2 for number in range(1, 21)}}
    slv = {"instrument": "CSSRS_SLV", "items": {f"CSSRS_SLV_{number:02d}": 0 for number in range(1, 11)}}
    body = world.visit(pid, "BL", "2025-01-25", outcomes=[pcl5, slv, totals(30)])
    assert world.staff_a.post("/v1/visits", body).status_code == 201
    asked = world.analyst.post("/v1/extracts", {"study": world.study, "purpose": "A question"})
    path = asked.headers["Location"]
    assert world.custodian.post(f"{path}/approval", {"decision": "approve", "reason": "agreed use"}).is_success
    rows = list(csv.DictReader(world.analyst.get(f"{path}/files/outcomes.csv").text.splitlines()))
    assert {row["instrument"] for row in rows} == {"MADRS"}
    assert {row["origin"] for row in rows} == {"items"}
