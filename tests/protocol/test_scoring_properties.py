"""What holds for every answer sheet of every shipped scale."""

from hypothesis import given
from hypothesis import strategies as st

from app.protocol.instruments import Instrument, instruments, item_faults
from app.protocol.rules import Mean, Sum
from app.protocol.scoring import score

scales = st.sampled_from(sorted(instruments())).map(lambda key: instruments()[key])
summed = st.sampled_from([one for one in instruments().values() if any(isinstance(r, Sum) for r in one.scores)])


@st.composite
def sheets(draw: st.DrawFn, of: st.SearchStrategy[Instrument] = scales) -> tuple[Instrument, dict[str, int]]:
    scale = draw(of)
    return scale, {item.code: draw(st.integers(item.minimum, item.maximum)) for item in scale.items}


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
        if isinstance(rule, Sum) and not rule.reversed_items:
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
        if isinstance(rule, Sum | Mean):
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
