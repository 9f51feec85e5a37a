"""What holds for each shipped scale, one by one: its items, its ends, and what an empty item costs."""

from collections import Counter

import pytest

from app.protocol.instruments import Instrument, instrument, instruments, item_faults
from app.protocol.rules import AllClusters, Flag, HighestYes
from app.protocol.scoring import ItemsInvalid, score
from tests.protocol.sheets import Sheet, highest, lowest

every = pytest.mark.parametrize("key", sorted(instruments()))

SPARED = {
    ("PHQ9", "total"): "up to two items are prorated",
    ("DAD", "total"): "items that do not apply are left out",
    ("QIDS_SR16", "appetite"): "less or more",
    ("QIDS_SR16", "weight"): "less or more",
}
"""Scores that one empty item does not cost."""


def item_codes(scale: Instrument, name: str) -> set[str]:
    """Every item behind a score, also through the scores that it reads."""
    rule = scale.rule(name)
    if isinstance(rule, AllClusters):
        return {code for cluster in rule.clusters for code in item_codes(scale, cluster.score)}
    through = {code for other in getattr(rule, "scores", ()) for code in item_codes(scale, other)}
    return {*rule.items, *through} | ({whole} if (whole := getattr(rule, "percent_of", None)) else set())


@pytest.mark.parametrize(
    ("code", "ranges"),
    [
        ("HAMA", {(0, 4): 14}),
        ("HAMD17", {(0, 4): 9, (0, 2): 8}),
        ("QIDS_SR16", {(0, 3): 16}),
        ("PSQI", {(0, 3): 14, (0, 1440): 2, (1, 1440): 1}),
        ("CTQ_SF", {(1, 5): 28}),
        ("ACE", {(0, 1): 10}),
        ("DES_II", {(0, 100): 28}),
        ("ITQ", {(0, 4): 18}),
        ("CGI_S", {(1, 7): 1}),
        ("CGI_I", {(1, 7): 1}),
        ("EQ5D5L", {(1, 5): 5, (0, 100): 1}),
        ("SCS_SF", {(1, 5): 12}),
        ("MEQ30", {(0, 5): 30}),
        ("SEVAS_DOSE", {(0, 100): 15}),
        ("SEVAS_SUPP", {(0, 100): 15}),
        ("SEVAS_END", {(0, 100): 15}),
        ("CSSRS_SLV", {(0, 1): 10, (1, 5): 2, (0, 5): 4, (0, 2): 1}),
        ("CSSRS_SLV_END", {(0, 1): 10, (1, 5): 2, (0, 5): 4, (0, 2): 1}),
        ("CSSRS_LIFE", {(0, 1): 10, (1, 5): 2, (0, 5): 4, (0, 2): 1}),
    ],
)
def test_items_have_the_ranges_of_the_form(code: str, ranges: dict[tuple[int, int], int]) -> None:
    assert Counter((item.minimum, item.maximum) for item in instrument(code).items) == ranges


@every
def test_every_item_takes_both_ends_of_its_range_and_nothing_beyond(key: str) -> None:
    scale = instruments()[key]
    for item in scale.items:
        assert item_faults(scale, {item.code: item.minimum}) == item_faults(scale, {item.code: item.maximum}) == []
        for beyond in (item.minimum - 1, item.maximum + 1):
            with pytest.raises(ItemsInvalid) as refused:
                score(scale, {item.code: beyond})
            assert [(fault.item, fault.code) for fault in refused.value.faults] == [(item.code, "out_of_range")]


@every
def test_an_item_of_no_scale_is_refused(key: str) -> None:
    with pytest.raises(ItemsInvalid) as refused:
        score(instruments()[key], lowest(instruments()[key]) | {"NO_SUCH_ITEM": 1})
    assert [(fault.item, fault.code) for fault in refused.value.faults] == [("NO_SUCH_ITEM", "unknown_item")]


@every
def test_every_scale_has_a_score_since_only_scores_reach_an_analyst(key: str) -> None:
    assert instruments()[key].scores


@every
def test_one_empty_item_costs_exactly_the_scores_behind_which_it_stands(key: str) -> None:
    """Yes/no rules are left to test_scoring.py: there, the answers given can settle the score."""
    scale = instruments()[key]
    for item in scale.items:
        sheet: Sheet = highest(scale) | {item.code: None}
        for one in score(scale, sheet):
            if isinstance(scale.rule(one.name), HighestYes | Flag):
                continue
            behind = item.code in item_codes(scale, one.name)
            spared = (scale.code, one.name) in SPARED or (scale.code == "QIDS_SR16" and item.optional)
            assert (one.value is None) == (behind and not spared), (item.code, one.name)
            assert (one.reason is not None) or one.value is not None


@every
def test_an_all_empty_form_has_no_value_but_a_reason_for_each_score(key: str) -> None:
    scale = instruments()[key]
    for sheet in ({}, dict.fromkeys(scale.by_code)):
        for one in score(scale, sheet):
            assert (one.value, one.band) == (None, None)
            assert one.reason is not None
            assert one.reason.startswith("missing ")


@every
def test_bands_name_every_value_of_the_range(key: str) -> None:
    scale = instruments()[key]
    for rule in scale.scores:
        low, high = scale.bounds(rule.name)
        if rule.bands:
            assert rule.band(low) == rule.bands[0].label
            assert rule.band(high) == rule.bands[-1].label
            assert len({band.label for band in rule.bands}) == len(rule.bands)
