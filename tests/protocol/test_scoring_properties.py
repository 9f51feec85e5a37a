"""What holds for every answer sheet of every shipped scale."""

from hypothesis import given
from hypothesis import strategies as st

from app.protocol.instruments import Instrument, instrument, instruments, item_faults
from app.protocol.rules import Mean, Steps, Sum
from app.protocol.scoring import score

scales = st.sampled_from(sorted(instruments())).map(lambda key: instruments()[key])
reversing = st.sampled_from([instrument("CTQ_SF"), instrument("SCS_SF")])
summed = st.sampled_from([one for one in instruments().values() if any(isinstance(r, Sum) for r in one.scores)])


@st.composite
def sheets(draw: st.DrawFn, of: st.SearchStrategy[Instrument] = scales) -> tuple[Instrument, dict[str, int]]:
    """A full sheet that can be true: no part is larger than its whole."""
    scale = draw(of)
    items = {item.code: draw(st.integers(item.minimum, item.maximum)) for item in scale.items}
    for rule in scale.scores:
        if isinstance(rule, Steps) and rule.percent_of is not None and rule.percent_at_most is not None:
            (part,) = rule.items
            items[part] = min(items[part], items[rule.percent_of] * rule.percent_at_most // 100)
    return scale, items


@given(sheets())
def test_every_score_of_a_full_sheet_has_a_value_within_its_bounds(
    sheet: tuple[Instrument, dict[str, int]],
) -> None:
    scale, items = sheet
    for one in score(scale, items):
        lowest, highest = scale.bounds(one.name)
        assert one.value is not None
        assert lowest <= one.value <= highest
        assert one.reason is None


@given(sheets(), st.data())
def test_the_order_of_the_answers_does_not_matter(
    sheet: tuple[Instrument, dict[str, int]], data: st.DataObject
) -> None:
    scale, items = sheet
    shuffled = data.draw(st.permutations(list(items.items())))
    assert score(scale, dict(shuffled)) == score(scale, items)


@given(sheets(summed), st.data())
def test_a_higher_answer_never_lowers_a_sum(sheet: tuple[Instrument, dict[str, int]], data: st.DataObject) -> None:
    scale, items = sheet
    item = data.draw(st.sampled_from(scale.items))
    raised = items | {item.code: data.draw(st.integers(items[item.code], item.maximum))}
    for rule, before, after in zip(scale.scores, score(scale, items), score(scale, raised), strict=True):
        if isinstance(rule, Sum) and not rule.reversed_items and not rule.scores:
            assert before.value is not None
            assert after.value is not None
            assert before.value <= after.value
            assert after.value > before.value or raised == items or item.code not in rule.items


@given(sheets(summed), st.data())
def test_without_prorating_one_missing_item_leaves_no_sum(
    sheet: tuple[Instrument, dict[str, int]], data: st.DataObject
) -> None:
    scale, items = sheet
    for rule in scale.scores:
        if isinstance(rule, Sum | Mean) and rule.items:
            blank = data.draw(st.sampled_from(rule.items))
            found = {one.name: one for one in score(scale, items | {blank: None})}[rule.name]
            assert (found.value is None) == (rule.prorate_missing == 0)
            assert found.reason is not None


@given(sheets(), st.data())
def test_a_prorated_score_stays_within_its_bounds(
    sheet: tuple[Instrument, dict[str, int]], data: st.DataObject
) -> None:
    scale, items = sheet
    blanks = data.draw(st.sets(st.sampled_from(sorted(items))))
    for one in score(scale, items | dict.fromkeys(blanks)):
        lowest, highest = scale.bounds(one.name)
        assert one.value is None or lowest <= one.value <= highest
        assert one.value is not None or (one.reason is not None and one.band is None)


@given(scales, st.data())
def test_an_answer_outside_the_range_is_named_but_not_repeated(scale: Instrument, data: st.DataObject) -> None:
    item = data.draw(st.sampled_from(scale.items))
    wrong = data.draw(st.integers(min_value=item.maximum + 1_000) | st.integers(max_value=item.minimum - 1_000))
    (fault,) = item_faults(scale, {item.code: wrong})
    assert (fault.item, fault.code) == (item.code, "out_of_range")
    assert str(wrong) not in fault.message


@given(sheets(reversing), st.data())
def test_a_higher_answer_on_a_reversed_item_never_raises_its_score(
    sheet: tuple[Instrument, dict[str, int]], data: st.DataObject
) -> None:
    scale, items = sheet
    rule = data.draw(st.sampled_from([one for one in additive(scale) if one.reversed_items]))
    code = data.draw(st.sampled_from(rule.reversed_items))
    raised = items | {code: data.draw(st.integers(items[code], scale.by_code[code].maximum))}
    assert value(scale, rule.name, raised) <= value(scale, rule.name, items)


@given(sheets(reversing))
def test_reversed_twice_is_as_answered(sheet: tuple[Instrument, dict[str, int]]) -> None:
    """Mirroring the answers of the reversed items and scoring them as they stand gives the same score."""
    scale, items = sheet
    for rule in [one for one in additive(scale) if not one.scores]:
        ends = {code: scale.by_code[code] for code in rule.reversed_items}
        mirrored = items | {code: one.minimum + one.maximum - items[code] for code, one in ends.items()}
        plain = scale.model_copy(update={"scores": (rule.model_copy(update={"reversed_items": ()}),)})
        assert value(plain, rule.name, mirrored) == value(scale, rule.name, items)


@given(sheets(st.sampled_from([instrument("QIDS_SR16"), instrument("PSQI")])), st.data())
def test_more_complaints_never_lower_a_score_that_is_built_of_scores(
    sheet: tuple[Instrument, dict[str, int]], data: st.DataObject
) -> None:
    scale, items = sheet
    if scale.code == "PSQI":
        items = items | {"PSQI_ASLEEP": min(items["PSQI_ASLEEP"], items["PSQI_IN_BED"])}
    worse_when_less = {"PSQI_ASLEEP"}
    code = data.draw(st.sampled_from(sorted(scale.by_code)))
    item = scale.by_code[code]
    worse = (
        st.integers(item.minimum, items[code]) if code in worse_when_less else st.integers(items[code], item.maximum)
    )
    changed = items | {code: data.draw(worse)}
    assert value(scale, "total", items) <= value(scale, "total", changed)


@given(sheets(st.sampled_from([instrument("CSSRS_SLV", "1"), instrument("CSSRS_LIFE", "1")])), st.data())
def test_the_second_version_of_the_cssrs_scores_levels_and_behaviour_as_the_first(
    sheet: tuple[Instrument, dict[str, int]], data: st.DataObject
) -> None:
    first, full = sheet
    blanks = data.draw(st.sets(st.sampled_from(sorted(full))))
    items = full | dict.fromkeys(blanks)
    later = {one.name: one for one in score(instrument(first.code, "2"), items)}
    for one in score(first, items):
        assert (later[one.name].value, later[one.name].reason) == (one.value, one.reason)


@given(sheets(st.just(instrument("PSQI", "1"))))
def test_the_second_version_of_the_psqi_scores_as_the_first_if_sleep_is_not_longer_than_time_in_bed(
    sheet: tuple[Instrument, dict[str, int]],
) -> None:
    first, items = sheet
    possible = items["PSQI_ASLEEP"] <= items["PSQI_IN_BED"]
    later = {one.name: one.value for one in score(instrument("PSQI", "2"), items)}
    for one in score(first, items):
        assert later[one.name] == (one.value if possible or one.name not in {"efficiency", "total"} else None)


def additive(scale: Instrument) -> list[Sum | Mean]:
    return [rule for rule in scale.scores if isinstance(rule, Sum | Mean)]


def value(scale: Instrument, name: str, items: dict[str, int]) -> float:
    found = next(one.value for one in score(scale, items) if one.name == name)
    assert found is not None
    return found
