"""Sites that report unusually few or many adverse events: compared with values computed exactly elsewhere."""

from fractions import Fraction
from math import comb, isclose

import pytest

from app.protocol.site_rates import RateMark, binomial_tail, site_rates


@pytest.mark.parametrize(
    ("successes", "trials", "chance"),
    [(0, 10, Fraction(1, 2)), (3, 10, Fraction(1, 2)), (10, 10, Fraction(1, 3)), (7, 200, Fraction(1, 20))],
)
def test_the_tail_equals_the_sum_in_whole_fractions(successes: int, trials: int, chance: Fraction) -> None:
    exact = sum(comb(trials, k) * chance**k * (1 - chance) ** (trials - k) for k in range(successes + 1))
    assert isclose(binomial_tail(successes, trials, float(chance)), float(exact), rel_tol=1e-9)


@pytest.mark.parametrize(
    ("events", "mark"),
    [
        (13, RateMark.very_low),
        (25, RateMark.low),
        (30, RateMark.usual),
        (40, RateMark.usual),
        (60, RateMark.high),
        (75, RateMark.very_high),
    ],
)
def test_a_sites_events_are_compared_with_its_share_of_the_time(events: int, mark: RateMark) -> None:
    rates = site_rates([(events, 100.0), (40, 100.0), (40, 100.0), (40, 100.0)])
    assert rates[0].mark is mark
    assert isclose(rates[0].expected or 0, (events + 120) / 4)
    assert rates[0].rate == events / 100


def test_the_limits_are_one_fortieth_and_one_thousandth_at_each_side() -> None:
    """Of 20 events, with half of the time: P(X <= 5) = 0.0207, P(X <= 2) = 0.0002 (exact fractions of 2^20)."""
    marks = {events: site_rates([(events, 10.0), (20 - events, 10.0)])[0].mark for events in range(21)}
    assert [events for events, mark in marks.items() if mark is RateMark.very_low] == [0, 1, 2]
    assert [events for events, mark in marks.items() if mark is RateMark.low] == [3, 4, 5]
    assert [events for events, mark in marks.items() if mark is RateMark.high] == [15, 16, 17]
    assert [events for events, mark in marks.items() if mark is RateMark.very_high] == [18, 19, 20]


def test_nothing_is_marked_without_something_to_compare_with() -> None:
    assert site_rates([]) == []
    assert [site.mark for site in site_rates([(5, 10.0)])] == [None]
    assert [site.mark for site in site_rates([(0, 10.0), (0, 5.0)])] == [None, None]
    silent, busy = site_rates([(0, 0.0), (4, 10.0)])
    assert (silent.rate, silent.expected, silent.mark, busy.mark) == (None, None, None, None)
    with pytest.raises(ValueError, match="negative"):
        site_rates([(1, -1.0)])


def test_a_silent_site_among_many_is_found() -> None:
    marks = [site.mark for site in site_rates([(0, 120.0), *[(60, 120.0)] * 9])]
    assert marks[0] is RateMark.very_low
    assert set(marks[1:]) == {RateMark.usual}
