"""Known answers of the shipped scales. Vectors are arithmetic by hand; bands are those cited in the files."""

from typing import Any

import pytest

from app.protocol.instruments import Instrument, instrument, instruments, parse_instrument
from app.protocol.scoring import ItemsInvalid, Score, done, score


def answers(scale: Instrument, *values: int | None) -> dict[str, int | None]:
    """The first items of a scale in order."""
    return dict(zip((item.code for item in scale.items), values, strict=False))


def scored(code: str, *values: int | None) -> dict[str, Score]:
    scale = instrument(code)
    return {one.name: one for one in score(scale, answers(scale, *values))}


@pytest.mark.parametrize(
    ("code", "values", "name", "value", "band"),
    [
        ("MADRS", [0] * 10, "total", 0, "normal"),
        ("MADRS", [3] * 10, "total", 30, "moderate"),
        ("MADRS", [2] * 10, "total", 20, "moderate"),
        ("MADRS", [1] + [2] * 9, "total", 19, "mild"),
        ("MADRS", [6] * 10, "total", 60, "severe"),
        ("SHEEHAN_SDS", [10, 9, 8], "total", 27, None),
        ("SHEEHAN_SDS", [1, 2, 3, 7, 7], "total", 6, None),
        ("PHQ9", [3] * 9, "total", 27, "severe"),
        ("PHQ9", [1] * 9 + [3], "total", 9, "mild"),
        ("GAD7", [1] * 7 + [3], "total", 7, "mild"),
        ("ISI", [2] * 7, "total", 14, "subthreshold"),
        ("WHO5", [3] * 5, "raw", 15, None),
        ("WHO5", [3] * 5, "percentage", 60, "not low"),
        ("WHO5", [5] * 5, "percentage", 100, "not low"),
    ],
)
def test_a_complete_scale_has_the_total_that_a_clinician_adds_up(
    code: str, values: list[int], name: str, value: int, band: str | None
) -> None:
    found = scored(code, *values)[name]
    assert (found.value, found.band, found.reason) == (value, band, None)
    assert type(found.value) is int


@pytest.mark.parametrize(
    ("code", "cut", "below", "above"),
    [
        ("MADRS", 7, "normal", "mild"),
        ("MADRS", 20, "mild", "moderate"),
        ("MADRS", 35, "moderate", "severe"),
        ("PHQ9", 5, "minimal", "mild"),
        ("PHQ9", 10, "mild", "moderate"),
        ("PHQ9", 15, "moderate", "moderately severe"),
        ("PHQ9", 20, "moderately severe", "severe"),
        ("GAD7", 5, "minimal", "mild"),
        ("GAD7", 10, "mild", "moderate"),
        ("GAD7", 15, "moderate", "severe"),
        ("ISI", 8, "none", "subthreshold"),
        ("ISI", 15, "subthreshold", "moderate"),
        ("ISI", 22, "moderate", "severe"),
    ],
)
def test_a_band_begins_exactly_at_its_cut(code: str, cut: int, below: str, above: str) -> None:
    assert scored(code, *spread(code, cut - 1))["total"].band == below
    assert scored(code, *spread(code, cut))["total"].band == above


def spread(code: str, total: int) -> list[int]:
    """Items that add up to `total`, each as full as can be before the next starts."""
    scale, values = instrument(code), []
    for item in scale.items:
        values.append(min(total, item.maximum))
        total -= values[-1]
    return values


@pytest.mark.parametrize(("raw", "band"), [(7, "likely depression"), (8, "low"), (12, "low"), (13, "not low")])
def test_who5_bands_are_cut_on_the_percentage(raw: int, band: str) -> None:
    found = scored("WHO5", *spread("WHO5", raw))["percentage"]
    assert (found.value, found.band) == (raw * 4, band)


@pytest.mark.parametrize("code", ["MADRS", "GAD7", "ISI", "WHO5"])
def test_one_missing_item_leaves_no_total_and_says_so(code: str) -> None:
    found = score(instrument(code), answers(instrument(code), None, 1, 1, 1, 1, 1, 1, 1, 1, 1))
    assert {(one.value, one.band, one.reason) for one in found} == {(None, None, "missing items: 1")}


def test_an_absent_item_is_a_missing_one() -> None:
    assert scored("MADRS", 6, 6)["total"].reason == "missing items: 8"


@pytest.mark.parametrize("key", sorted(instruments()))
def test_an_empty_form_has_no_values(key: str) -> None:
    assert {one.value for one in score(instruments()[key], {})} <= {None}


def test_work_that_does_not_apply_leaves_no_sheehan_total() -> None:
    found = scored("SHEEHAN_SDS", None, 5, 5, 0, 0)["total"]
    assert (found.value, found.reason) == (None, "missing items: 1")


def test_phq9_takes_up_to_two_missing_items_at_the_mean_of_the_others() -> None:
    one, two, three = (scored("PHQ9", *[None] * n, *[2] * (9 - n))["total"] for n in (1, 2, 3))
    assert (one.value, one.band, one.reason) == (18, "moderately severe", "prorated, missing items: 1")
    assert (two.value, two.reason) == (18, "prorated, missing items: 2")
    assert (three.value, three.reason) == (None, "missing items: 3")


@pytest.mark.parametrize(
    ("answered", "value", "band"),
    [
        ([3, 3, 2, 1, 0, 0, 0, 0], 10.125, "moderate"),
        ([3, 3, 1, 1, 0, 0, 0, 0], 9, "mild"),
        ([1, 1, 1, 1, 0, 0, 0, 0], 4.5, "minimal"),
        ([3, 3, 1, 1, 1, 1, 1, 0], 12.375, "moderate"),
    ],
)
def test_a_prorated_total_enters_a_band_only_where_it_reaches_it(answered: list[int], value: float, band: str) -> None:
    found = scored("PHQ9", None, *answered)["total"]
    assert (found.value, found.band) == (value, band)


def test_ptsd_can_be_provisional_far_below_the_cut_point() -> None:
    items = {f"PCL5_{n:02d}": 2 if n in {1, 6, 8, 9, 15, 16} else 0 for n in range(1, 21)}
    found = {one.name: one.value for one in score(instrument("PCL5"), items)}
    assert found == {
        "total": 12,
        "cluster_b": 1,
        "cluster_c": 1,
        "cluster_d": 2,
        "cluster_e": 2,
        "provisional_diagnosis": 1,
    }


@pytest.mark.parametrize(
    ("cluster", "items"), [("b", range(1, 6)), ("c", range(6, 8)), ("d", range(8, 15)), ("e", range(15, 21))]
)
def test_each_pcl5_item_belongs_to_its_cluster_only(cluster: str, items: range) -> None:
    for item in items:
        found = scored("PCL5", *(2 if n == item else 1 for n in range(1, 21)))
        counts = {name: found[f"cluster_{name}"].value for name in "bcde"}
        assert counts == {name: int(name == cluster) for name in "bcde"}


@pytest.mark.parametrize("dropped", [1, 6, 8, 9, 15, 16])
def test_each_cluster_of_pcl5_is_needed(dropped: int) -> None:
    items = {f"PCL5_{n:02d}": 2 if n in {1, 6, 8, 9, 15, 16} - {dropped} else 1 for n in range(1, 21)}
    found = {one.name: one.value for one in score(instrument("PCL5"), items)}
    assert found["provisional_diagnosis"] == 0


def test_a_missing_pcl5_item_blanks_its_cluster_and_the_diagnosis_only() -> None:
    found = scored("PCL5", None, *[4] * 19)
    assert found["cluster_b"].reason == "missing items: 1"
    assert found["cluster_c"].value == 2
    assert (found["provisional_diagnosis"].value, found["provisional_diagnosis"].reason) == (
        None,
        "missing scores: 1",
    )


@pytest.mark.parametrize("form", ["CSSRS_SLV", "CSSRS_LIFE"])
@pytest.mark.parametrize(
    ("ideation", "level"),
    [
        ([0, 0, 0, 0, 0], 0),
        ([1, 0, 0, 0, 0], 1),
        ([0, 1, 0, 1, 0], 4),
        ([1, 1, 1, 1, 1], 5),
        ([0, 0, None, None, None], 0),
        ([1, 0, None, None, None], 1),
    ],
)
def test_ideation_is_the_highest_level_answered_yes(form: str, ideation: list[int | None], level: int) -> None:
    found = scored(form, *ideation, 0, 0, 0, 0, 0)["ideation_level"]
    assert (found.value, found.reason) == (level, None)


@pytest.mark.parametrize(
    ("ideation", "value", "reason"),
    [
        ([1, 1, 1, 1, None], None, "missing items: 1; at least level 4"),
        ([0, None, None, None, None], None, "missing items: 4"),
        ([None, 1, 0, 0, 1], 5, "missing items: 1"),
        ([1, 1, None, 0, 0], None, "missing items: 1; at least level 2"),
    ],
)
def test_a_blank_matters_only_above_the_highest_yes(ideation: list[int | None], value: int | None, reason: str) -> None:
    found = scored("CSSRS_SLV", *ideation, 0, 0, 0, 0, 0)["ideation_level"]
    assert (found.value, found.reason) == (value, reason)


@pytest.mark.parametrize("form", ["CSSRS_SLV", "CSSRS_LIFE"])
@pytest.mark.parametrize(
    ("behaviour", "value", "reason"),
    [
        ([0, 0, 0, 0, 0], 0, None),
        ([1, 0, 0, 0, 0], 1, None),
        ([0, 1, 0, 0, 0], 1, None),
        ([0, 0, 1, 0, 0], 1, None),
        ([0, 0, 0, 1, 0], 1, None),
        ([0, 0, 0, 0, 1], 0, None),
        ([0, 0, 0, 0, None], 0, None),
        ([1, None, 0, 0, 0], 1, "missing items: 1"),
        ([0, None, 0, 0, 0], None, "missing items: 1"),
    ],
)
def test_any_suicidal_behaviour_counts_and_self_injury_alone_does_not(
    form: str, behaviour: list[int | None], value: int | None, reason: str | None
) -> None:
    found = scored(form, 0, 0, 0, 0, 0, *behaviour)["any_behaviour"]
    assert (found.value, found.reason) == (value, reason)


@pytest.mark.parametrize("form", ["CSSRS_SLV", "CSSRS_SLV_END", "CSSRS_LIFE"])
@pytest.mark.parametrize(
    ("sheet", "is_done"),
    [
        ([], False),
        ([0, 0, None, None, None, 0, 0, 0, 0], True),  # 3 to 5 are asked after a yes on 2
        ([1, 0, None, None, None, 0, 0, 0, 0], True),
        ([0, 0], False),
        ([None, None, None, None, None, 0, 0, 0, 0, 0], False),
        ([0, 1, 0, None, None, 0, 0, 0, 0], False),  # nobody asked about intent and plan
        ([0, 1, 0, 1, 0, 1, None, None, None], True),
        ([0, 0, None, None, None, 0, 0, None, 0], False),
        ([*[None] * 16, 0], False),
    ],
)
def test_a_c_ssrs_counts_once_ideation_and_behaviour_are_answered(
    form: str, sheet: list[int | None], is_done: bool
) -> None:
    assert done(instrument(form), answers(instrument(form), *sheet)) is is_done


def test_any_other_form_was_done_once_it_has_an_answer() -> None:
    assert {one.code for one in instruments().values() if one.done_by} == {"CSSRS_SLV", "CSSRS_SLV_END", "CSSRS_LIFE"}
    assert done(instrument("MADRS"), {"MADRS_03": 0})
    assert not done(instrument("MADRS"), {"MADRS_03": None})


def test_a_score_names_instrument_and_rule_with_their_versions() -> None:
    assert scored("MADRS", *[0] * 10)["total"].rule == "MADRS/1 sum/1"
    assert scored("CSSRS_SLV", *[0] * 10)["ideation_level"].rule == "CSSRS_SLV/2 highest_yes/1"


def test_answers_that_the_scale_does_not_know_are_not_scored() -> None:
    with pytest.raises(ItemsInvalid) as refused:
        scored("MADRS", 7, *[0] * 9)
    assert [fault.code for fault in refused.value.faults] == ["out_of_range"]


def scale(*scores: dict[str, Any]) -> Instrument:
    items = [{"code": f"Q{n}", "label": f"question {n}", "minimum": 1, "maximum": 5} for n in range(1, 5)]
    head = {"code": "Q", "version": "1", "title": "Q", "source": "made up", "licence": "none"}
    rules = [{"items": ["Q1", "Q2", "Q3", "Q4"], "source": "made up", "name": "s"} | one for one in scores]
    return parse_instrument(head | {"direction": "higher_is_better", "items": items, "scores": rules})


def one_score(rule: dict[str, Any], *values: int | None) -> Score:
    questions = scale(rule)
    return score(questions, answers(questions, *values))[0]


def test_a_reversed_item_counts_from_the_other_end() -> None:
    rule = {"rule": "sum", "reversed_items": ["Q2", "Q4"]}
    assert one_score(rule, 1, 1, 2, 4).value == 1 + 5 + 2 + 2


def test_a_mean_stays_whole_where_it_is() -> None:
    assert one_score({"rule": "mean"}, 1, 2, 3, 4).value == 2.5
    assert type(one_score({"rule": "mean"}, 2, 2, 4, 4).value) is int


def test_a_mean_is_prorated_over_the_answered_items() -> None:
    found = one_score({"rule": "mean", "prorate_missing": 1}, None, 2, 3, 4)
    assert (found.value, found.reason) == (3, "prorated, missing items: 1")


def test_a_mean_between_two_bands_belongs_to_the_lower() -> None:
    bands = [{"label": "low", "minimum": 1, "maximum": 2}, {"label": "high", "minimum": 3, "maximum": 5}]
    assert one_score({"rule": "mean", "bands": bands}, 2, 3, 3, 3).band == "low"
    assert one_score({"rule": "mean", "bands": bands}, 3, 3, 3, 3).band == "high"


def test_the_maximum_needs_every_item() -> None:
    assert one_score({"rule": "maximum"}, 1, 5, 2, 2).value == 5
    assert one_score({"rule": "maximum"}, 1, None, 2, 2).reason == "missing items: 1"


def test_one_answer_is_enough_where_the_form_asks_for_one_or_another() -> None:
    rule = {"rule": "maximum", "needed": 1}
    assert (one_score(rule, None, 3, None, 2).value, one_score(rule, None, 3, None, 2).reason) == (3, None)
    assert one_score(rule, None, None, None, None).reason == "missing items: 4"


@pytest.mark.parametrize(("total", "rising", "falling"), [(4, 0, 2), (7, 0, 2), (8, 1, 1), (11, 1, 1), (12, 2, 0)])
def test_steps_count_the_cuts_that_are_reached_or_not(total: int, rising: int, falling: int) -> None:
    given = [total - 9, 3, 3, 3] if total > 9 else [total - 3, 1, 1, 1]
    assert one_score({"rule": "steps", "cuts": [8, 12]}, *given).value == rising
    assert one_score({"rule": "steps", "cuts": [8, 12], "falling": True}, *given).value == falling


def test_a_sum_of_scores_adds_them_as_they_are() -> None:
    parts = [{"name": "first", "items": ["Q1", "Q2"], "rule": "mean"}, {"name": "last", "items": ["Q4"], "rule": "sum"}]
    both = {"name": "both", "items": ["Q3"], "rule": "sum", "scores": ["first", "last"], "multiplier": 2}
    questions = scale(*parts, both)
    assert score(questions, answers(questions, 1, 2, 3, 4))[2].value == 2 * (3 + 1.5 + 4)
    assert score(questions, answers(questions, 1, None, 3, 4))[2].reason == "missing scores: 1"
