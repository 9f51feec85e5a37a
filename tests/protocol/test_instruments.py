"""Instrument files: what ships, and that a broken file says exactly what is wrong."""

from pathlib import Path
from typing import Any

import pytest

from app.protocol.base import ProtocolInvalid, read_folder
from app.protocol.instruments import (
    ItemFault,
    UnknownInstrument,
    instrument,
    instruments,
    item_faults,
    load_instrument,
    parse_instrument,
)
from app.protocol.rules import bounds

FILE = """
code = "SLEEPQ"
version = "1"
title = "A made-up sleep scale"
direction = "higher_is_worse"
licence = "none"
source = "made up"
items = [
    { code = "S1", label = "nights awake", minimum = 0, maximum = 1 },
    { code = "S2", label = "hours awake", minimum = 0, maximum = 4 },
]
[[scores]]
name = "total"
rule = "sum"
items = ["S1", "S2"]
bands = [{ label = "good", minimum = 0, maximum = 2 }, { label = "bad", minimum = 3, maximum = 5 }]
source = "made up"
"""


def test_the_scales_of_the_trial_are_shipped() -> None:
    expected = {"MADRS", "SHEEHAN_SDS", "PHQ9", "GAD7", "ISI", "WHO5", "PCL5", "CSSRS_SLV", "CSSRS_LIFE"}
    assert expected <= {one.code for one in instruments().values()}


@pytest.mark.parametrize("key", sorted(instruments()))
def test_every_score_of_a_shipped_instrument_cites_a_source(key: str) -> None:
    scale = instruments()[key]
    assert scale.source
    assert scale.licence
    assert all(len(rule.source) > 10 for rule in scale.scores)


@pytest.mark.parametrize(
    ("code", "score", "lowest", "highest"),
    [
        ("MADRS", "total", 0, 60),
        ("SHEEHAN_SDS", "total", 0, 30),
        ("PHQ9", "total", 0, 27),
        ("GAD7", "total", 0, 21),
        ("ISI", "total", 0, 28),
        ("WHO5", "raw", 0, 25),
        ("WHO5", "percentage", 0, 100),
        ("PCL5", "total", 0, 80),
        ("PCL5", "cluster_d", 0, 7),
        ("PCL5", "provisional_diagnosis", 0, 1),
        ("CSSRS_SLV", "ideation_level", 0, 5),
        ("CSSRS_SLV", "any_behaviour", 0, 1),
    ],
)
def test_scores_reach_as_far_as_the_literature_says(code: str, score: str, lowest: int, highest: int) -> None:
    assert instrument(code).bounds(score) == (lowest, highest)


def test_only_who5_among_the_trial_scales_is_better_when_higher() -> None:
    codes = ["MADRS", "SHEEHAN_SDS", "PHQ9", "GAD7", "ISI", "PCL5", "CSSRS_SLV", "CSSRS_LIFE", "WHO5"]
    assert [code for code in codes if instrument(code).direction == "higher_is_better"] == ["WHO5"]


def test_a_form_that_is_given_again_asks_and_scores_the_same() -> None:
    again = [one for one in instruments().values() if one.form_of]
    assert [one.key for one in again] == ["CSSRS_SLV_END/1"]
    for one in again:
        first = instrument(str(one.form_of))
        assert (one.items, one.scores, one.done_by) == (first.items, first.scores, first.done_by)


def test_day_counts_and_difficulty_items_may_be_left_out() -> None:
    optional = {code: [item.code for item in instrument(code).items if item.optional] for code in ("PHQ9", "GAD7")}
    assert optional == {"PHQ9": ["PHQ9_10"], "GAD7": ["GAD7_08"]}
    assert [item.optional for item in instrument("SHEEHAN_SDS").items] == [True, False, False, True, True]


@pytest.mark.parametrize(("code", "version"), [("NO_SUCH", None), ("MADRS", "99")])
def test_an_unknown_instrument_or_version_is_refused(code: str, version: str | None) -> None:
    with pytest.raises(UnknownInstrument) as refused:
        instrument(code, version)
    assert code not in str(refused.value)


def test_without_a_version_the_newest_counts_as_number_not_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = [load_instrument(FILE.replace('version = "1"', f'version = "{v}"')) for v in ("9", "10", "9.5")]
    monkeypatch.setattr("app.protocol.instruments.instruments", lambda: {one.key: one for one in versions})
    assert instrument("SLEEPQ").version == "10"
    assert instrument("SLEEPQ", "9").version == "9"


def test_answers_in_range_or_missing_are_no_fault() -> None:
    assert item_faults(instrument("MADRS"), {"MADRS_01": 0, "MADRS_02": 6, "MADRS_03": None}) == []


@pytest.mark.parametrize("answer", [-1, 7, 10**30])
def test_an_answer_out_of_range_names_the_range_only(answer: int) -> None:
    expected = ItemFault("MADRS_01", "out_of_range", "Must lie between 0 and 6")
    assert item_faults(instrument("MADRS"), {"MADRS_01": answer}) == [expected]


@pytest.mark.parametrize("answer", [3, None])
def test_an_item_of_another_scale_is_unknown(answer: int | None) -> None:
    (fault,) = item_faults(instrument("MADRS"), {"PHQ9_01": answer})
    assert (fault.item, fault.code) == ("PHQ9_01", "unknown_item")


def test_adding_an_instrument_is_adding_a_file(tmp_path: Path) -> None:
    (tmp_path / "sleepq-1.toml").write_text(FILE)
    (tmp_path / "notes.txt").write_text("not a definition")
    found = read_folder(tmp_path, load_instrument)
    assert list(found) == ["SLEEPQ/1"]
    assert found["SLEEPQ/1"].bounds("total") == (0, 5)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "sleepq-1.toml").write_text(FILE.replace("minimum = 3", "minimum = 4"))
    with pytest.raises(ProtocolInvalid) as refused:
        read_folder(tmp_path, load_instrument)
    assert str(refused.value).splitlines() == [
        "sleepq-1.toml:",
        "/scores/0/bands/1/minimum: total: bad starts at 4, expected 3 (band_gap)",
    ]


def test_a_form_is_done_by_scores_that_it_has() -> None:
    with pytest.raises(ProtocolInvalid, match="/done_by/1: mood is no score"):
        load_instrument(FILE.replace("items =", 'done_by = ["total", "mood"]\nitems =', 1))


AGAIN = FILE[: FILE.index("items =")] + 'form_of = "CSSRS_SLV/1"\n'


def test_a_form_that_is_given_again_has_what_that_version_of_it_has_and_does_not_say_it_twice() -> None:
    again, form = load_instrument(AGAIN), instrument("CSSRS_SLV", "1")
    assert (again.key, again.form_of, again.items, again.scores) == ("SLEEPQ/1", "CSSRS_SLV", form.items, form.scores)


@pytest.mark.parametrize("said", ['"CSSRS_SLV/99"', '"CSSRS_SLV"', "7"])
def test_an_instrument_is_the_form_of_one_version_that_is_shipped(said: str) -> None:
    with pytest.raises(ProtocolInvalid, match=r"/form_of: .* \(unknown_instrument\)"):
        load_instrument(AGAIN.replace('"CSSRS_SLV/1"', said))


@pytest.mark.parametrize("own", ["items = []", "scores = []", 'done_by = ["total"]'])
def test_a_form_that_is_given_again_asks_and_scores_nothing_of_its_own(own: str) -> None:
    with pytest.raises(ProtocolInvalid, match=r"has them \(of_its_form\)"):
        load_instrument(AGAIN + own)


def test_two_files_cannot_be_the_same_version(tmp_path: Path) -> None:
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(FILE)
    with pytest.raises(ProtocolInvalid, match=r"b\.toml:\n/version: SLEEPQ/1 is in another file too"):
        read_folder(tmp_path, load_instrument)


def item(code: str, maximum: int = 4, **more: Any) -> dict[str, Any]:
    return {"code": code, "label": code, "minimum": 0, "maximum": maximum} | more


def rule(**more: Any) -> dict[str, Any]:
    return {"name": "total", "rule": "sum", "items": ["S1", "S2"], "source": "made up"} | more


def band(minimum: int, maximum: int) -> dict[str, Any]:
    return {"label": f"{minimum} to {maximum}", "minimum": minimum, "maximum": maximum}


def faults(items: list[dict[str, Any]], *scores: dict[str, Any]) -> list[tuple[str, str]]:
    head = {"code": "Q", "version": "1", "title": "Q", "source": "made up", "licence": "none"}
    with pytest.raises(ProtocolInvalid) as refused:
        parse_instrument(head | {"direction": "higher_is_worse", "items": items, "scores": list(scores)})
    return [(fault.path, fault.code) for fault in refused.value.faults]


TWO = [item("S1"), item("S2")]
YES_NO = [item("S1", 1), item("S2", 1)]


def test_an_item_code_is_used_once() -> None:
    assert faults([item("S1"), item("S1")]) == [("/items/1/code", "duplicate_item")]


def test_a_score_name_is_used_once() -> None:
    assert faults(TWO, rule(), rule()) == [("/scores/1/name", "duplicate_score")]


def test_an_item_needs_a_range() -> None:
    assert faults([item("S1", 0)]) == [("/items/0/minimum", "empty_range")]


@pytest.mark.parametrize(
    ("items", "asked_if"),
    [(YES_NO, "S3"), (YES_NO, "S9"), (TWO, "S1")],
    ids=["itself", "unknown", "not yes/no"],
)
def test_a_condition_needs_another_yes_no_item(items: list[dict[str, Any]], asked_if: str) -> None:
    found = faults([*items, item("S3", 1, asked_if=asked_if)])
    assert found == [("/items/2/asked_if", "unusable_condition")]


def test_only_a_yes_no_item_can_be_skipped_as_no() -> None:
    found = faults([*YES_NO, item("S3", 4, asked_if="S1")])
    assert found == [("/items/2/asked_if", "unusable_condition")]


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (rule(rule="guess"), ("/scores/0", "union_tag_invalid")),
        (rule(threshold=2), ("/scores/0/sum/threshold", "extra_forbidden")),
        (rule(items=["S1", "S7"]), ("/scores/0/items/1", "unknown_item")),
        (rule(items=["S1", "S1"]), ("/scores/0/items/1", "duplicate_item")),
        (rule(items=[]), ("/scores/0/sum/items", "too_short")),
        (rule(reversed_items=["S7"]), ("/scores/0/reversed_items/0", "unknown_item")),
        (rule(prorate_missing=2), ("/scores/0/prorate_missing", "nothing_to_prorate")),
        (rule(scores=["other"]), ("/scores/0/scores/0", "unknown_score")),
        (rule(scores=["total"]), ("/scores/0/scores/0", "unknown_score")),
        (rule(rule="maximum", needed=3), ("/scores/0/needed", "too_many_needed")),
        (rule(rule="steps", cuts=[3, 3]), ("/scores/0/cuts", "cuts_not_ascending")),
        (rule(rule="steps", cuts=[3], percent_of="S7"), ("/scores/0/percent_of", "unusable_whole")),
        (rule(rule="steps", cuts=[3], percent_of="S1"), ("/scores/0/percent_of", "unusable_whole")),
        (rule(rule="steps", cuts=[3], percent_at_most=100), ("/scores/0/percent_at_most", "unusable_whole")),
        (rule(rule="flag"), ("/scores/0/items/0", "not_yes_no")),
        (rule(rule="highest_yes", items=["S2"]), ("/scores/0/items/0", "not_yes_no")),
        (rule(bands=[band(0, 3), band(5, 8)]), ("/scores/0/bands/1/minimum", "band_gap")),
        (rule(bands=[band(0, 3), band(3, 8)]), ("/scores/0/bands/1/minimum", "band_overlap")),
        (rule(bands=[band(1, 8)]), ("/scores/0/bands/0/minimum", "band_gap")),
        (rule(bands=[band(0, 7)]), ("/scores/0/bands", "band_gap")),
        (rule(bands=[band(0, 9)]), ("/scores/0/bands", "band_overlap")),
        (rule(bands=[band(0, 8), band(9, 8)]), ("/scores/0/bands/1/maximum", "empty_range")),
    ],
)
def test_a_broken_score_is_refused_at_its_place(broken: dict[str, Any], expected: tuple[str, str]) -> None:
    assert expected in faults(TWO, broken)


def test_a_score_reads_something() -> None:
    empty = {"name": "total", "rule": "sum", "source": "made up"}
    assert faults(TWO, empty) == [("/scores/0", "nothing_read")]


def test_a_score_reads_another_once() -> None:
    twice = rule(name="both", scores=["total", "total"])
    assert faults(TWO, rule(), twice) == [("/scores/1/scores/1", "duplicate_score")]


def test_a_score_cannot_rest_on_a_broken_one() -> None:
    resting = {"name": "both", "rule": "sum", "scores": ["total"], "source": "made up"}
    assert faults(TWO, rule(items=["S7"]), resting) == [
        ("/scores/0/items/0", "unknown_item"),
        ("/scores/1/scores/0", "unknown_score"),
    ]


def test_scores_of_scores_reach_as_far_as_what_they_read() -> None:
    text = (
        FILE.split("[[scores]]", maxsplit=1)[0]
        + """
[[scores]]
name = "either"
rule = "maximum"
items = ["S1", "S2"]
needed = 1
source = "made up"
[[scores]]
name = "cut"
rule = "steps"
items = ["S2"]
cuts = [1, 3]
source = "made up"
[[scores]]
name = "both"
rule = "mean"
items = ["S1"]
scores = ["either", "cut"]
source = "made up"
"""
    )
    scale = load_instrument(text)
    assert [scale.bounds(name) for name in ("either", "cut", "both")] == [(0, 4), (0, 2), (0, pytest.approx(7 / 3))]


def test_clusters_read_scores_declared_before_them() -> None:
    needed = [{"score": "total", "at_least": 1}]
    early = {"name": "all", "rule": "all_clusters", "clusters": needed, "source": "made up"}
    assert faults(TWO, early, rule()) == [("/scores/0/clusters/0/score", "unknown_score")]


def test_an_unknown_rule_is_named_with_the_known_ones() -> None:
    with pytest.raises(ProtocolInvalid, match=r"'guess'.*'sum', 'mean', 'maximum', 'steps', 'highest_yes'"):
        load_instrument(FILE.replace('rule = "sum"', 'rule = "guess"'))


def test_a_mean_reaches_as_far_as_its_items() -> None:
    text = FILE.replace('rule = "sum"', 'rule = "mean"').replace("bands", "# bands")
    assert load_instrument(text).bounds("total") == (0, 2.5)


def test_a_maximum_reaches_as_far_as_its_widest_item() -> None:
    text = FILE.replace('rule = "sum"', 'rule = "maximum"').replace("bands", "# bands")
    scale = load_instrument(text)
    assert bounds(scale.scores[0], scale.by_code) == (0, 4)
