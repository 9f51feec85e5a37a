"""Group statistics: equal to SciPy's for any sample, and to the known answers of the synthetic participants."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from app.protocol.descriptive import CI_METHOD, CI_OF_CHANGE_METHOD, Description, describe, describe_change, student_t

EXPECTED = json.loads((Path(__file__).parent.parent / "data" / "synthetic12_expected.json").read_text())
scores = st.integers(0, 60) | st.floats(0, 60).map(lambda value: round(value, 3))


@pytest.mark.parametrize("scale", ["madrs", "sds"])
def test_the_change_of_the_synthetic_participants_is_the_known_one(scale: str) -> None:
    known, published = EXPECTED["computed_exact"][scale], EXPECTED["published"][scale]
    found = describe_change([(0, change) for change in known["change_values"]])
    assert (found.n, found.ci_method) == (known["n"], CI_OF_CHANGE_METHOD)
    assert found.mean == pytest.approx(known["change_mean"], rel=1e-12)
    assert found.sd == pytest.approx(known["change_sd"], rel=1e-12)
    assert found.se == pytest.approx(known["change_se"], rel=1e-12)
    assert [found.ci_low, found.ci_high] == pytest.approx(known["ci95_t"], rel=1e-10)
    assert found.mean is not None
    assert found.se is not None
    assert (round(found.mean, 1), round(found.se, 1)) == (published["change_mean"], published["change_se"])


def test_a_sample_worked_by_hand() -> None:
    # 2, 4, 4, 6: mean 16 / 4 = 4; SD = root of (4 + 0 + 0 + 4) / 3 = 1.632993; SE = SD / 2 = 0.816497.
    # t with 3 degrees of freedom is 3.182446 (tables have 3.182): 4 -+ 2.598457.
    found = describe([2, 4, 4, 6])
    assert (found.n, found.mean, found.ci_method) == (4, 4, CI_METHOD)
    assert [found.sd, found.se] == pytest.approx([1.632993, 0.816497], abs=1e-6)
    assert [found.ci_low, found.ci_high] == pytest.approx([1.401543, 6.598457], abs=1e-6)


@given(st.lists(scores, min_size=2, max_size=40).filter(lambda values: max(values) - min(values) >= 0.001))
def test_a_description_is_that_of_scipy(values: list[float]) -> None:
    found = describe(values)
    assert found.mean == pytest.approx(stats.tmean(values), abs=1e-9)
    assert found.sd == pytest.approx(stats.tstd(values), abs=1e-7)
    assert found.se == pytest.approx(stats.sem(values), abs=1e-7)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=found.mean, scale=found.se)
    assert [found.ci_low, found.ci_high] == pytest.approx([low, high], abs=1e-8)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=2, max_size=40).filter(
        lambda pairs: len({post - pre for pre, post in pairs}) > 1
    )
)
def test_a_change_is_scipys_paired_interval(pairs: list[tuple[int, int]]) -> None:
    found = describe_change(pairs)
    interval = stats.ttest_rel([post for _, post in pairs], [pre for pre, _ in pairs]).confidence_interval(0.95)
    assert [found.ci_low, found.ci_high] == pytest.approx([interval.low, interval.high], abs=1e-8)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99, 0.999])
@pytest.mark.parametrize("degrees", [*range(1, 40), 99, 100, 253, 1000, 5001])
def test_students_t_is_scipys(degrees: int, confidence: float) -> None:
    assert student_t(degrees, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-10)


@pytest.mark.parametrize(("degrees", "confidence"), [(0, 0.95), (-1, 0.95), (3, 0), (3, 1), (3, 95)])
def test_students_t_needs_degrees_and_a_confidence(degrees: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="degree of freedom"):
        student_t(degrees, confidence)


@pytest.mark.parametrize("values", [[], [None, None]])
def test_a_group_without_values_has_only_a_count(values: list[None]) -> None:
    assert describe(values) == Description(0)


def test_one_value_has_a_mean_but_no_spread() -> None:
    assert describe([None, 7]) == Description(1, 7.0)


def test_equal_values_have_an_interval_without_width() -> None:
    found = describe([7, 7, 7])
    assert (found.sd, found.se, found.ci_low, found.ci_high) == (0, 0, 7, 7)


def test_a_participant_without_one_of_the_two_values_has_no_change() -> None:
    found = describe_change([(30, 15), (28, None), (None, 12), (20, 10)])
    assert (found.n, found.mean) == (2, -12.5)
