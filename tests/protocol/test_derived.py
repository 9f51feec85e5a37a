"""Change, response, remission and band of one participant. Vectors worked by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.definition import Threshold
from app.protocol.derived import Derived, change, derived
from app.protocol.instruments import instrument

MADRS = instrument("MADRS").rule("total")
HALF = Threshold(instrument="MADRS", score="total", remission_max=10, response_fraction=0.5, source="made up")


@pytest.mark.parametrize(
    ("baseline", "value", "expected"),
    [
        (30, 15, Derived(-15, response=True, remission=False, band="mild")),
        (30, 16, Derived(-14, response=False, remission=False, band="mild")),  # 46.7 %
        (29, 14, Derived(-15, response=True, remission=False, band="mild")),  # 51.7 %
        (29, 15, Derived(-14, response=False, remission=False, band="mild")),  # 48.3 %
        (30, 10, Derived(-20, response=True, remission=True, band="mild")),
        (30, 11, Derived(-19, response=True, remission=False, band="mild")),
        (20, 35, Derived(15, response=False, remission=False, band="severe")),
        (12, 6, Derived(-6, response=True, remission=True, band="normal")),
        (0, 0, Derived(0, response=None, remission=True, band="normal")),
        (None, 7, Derived(None, response=None, remission=True, band="mild")),
        (30, None, Derived(None, response=None, remission=None, band=None)),
        (None, None, Derived(None, response=None, remission=None, band=None)),
    ],
)
def test_a_madrs_total_against_its_baseline(baseline: int | None, value: int | None, expected: Derived) -> None:
    assert derived(MADRS, HALF, baseline, value) == expected


def test_without_a_threshold_of_the_protocol_there_is_no_response() -> None:
    assert derived(MADRS, None, 30, 5) == Derived(-25, response=None, remission=None, band="normal")


@given(st.integers(1, 60), st.integers(0, 60))
def test_response_by_half_is_twice_the_value_at_most_the_baseline_in_integers(baseline: int, value: int) -> None:
    assert derived(MADRS, HALF, baseline, value).response is (2 * value <= baseline)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_change_there_and_back_is_none(baseline: int, value: int) -> None:
    there, back = change(baseline, value), change(value, baseline)
    assert there is not None
    assert back is not None
    assert (there + back, baseline + there) == (0, value)
