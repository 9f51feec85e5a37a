"""Which site reports unusually few or many adverse events, for the time that its participants were watched.

Method: if all sites report at one rate, then of N events a site has a binomial number, with its share of the
participant-time as probability (the conditional test of Przyborowski and Wilenski, Biometrika 1940;31:313-323). Exact,
and free of the site's own weight in the pooled rate. Limits: the 95 % and 99.8 % of funnel plots (Spiegelhalter,
Stat Med 2005;24:1185-1202), half of it at each side. Events of one participant are not independent, so the true spread
is wider: a mark is a reason to look, not a verdict. Sources cited from memory.
"""

from collections.abc import Sequence
from enum import StrEnum
from math import exp, lgamma, log, log1p
from typing import NamedTuple

DAYS_A_MONTH = 365.25 / 12
_TAIL_WARNING, _TAIL_ALARM = 0.025, 0.001


class RateMark(StrEnum):
    usual = "usual"
    low = "low"
    very_low = "very_low"
    high = "high"
    very_high = "very_high"


class SiteRate(NamedTuple):
    events: int
    months: float
    rate: float | None
    """Events per participant-month; None without time."""

    expected: float | None
    """Events, if all sites reported at one rate."""

    mark: RateMark | None
    """None where there is nothing to compare with: no time here, none elsewhere, or no event at all."""


def site_rates(observed: Sequence[tuple[int, float]]) -> list[SiteRate]:
    """One for each (events, participant-months >= 0), in their order. Raises ValueError for a negative number."""
    if any(events < 0 or months < 0 for events, months in observed):
        raise ValueError("Events and participant-months cannot be negative")
    watched = [(events, months) for events, months in observed if months > 0]
    events_in_all, months_in_all = sum(events for events, _ in watched), sum(months for _, months in watched)
    return [_rate(events, months, events_in_all, months_in_all) for events, months in observed]


def _rate(events: int, months: float, events_in_all: int, months_in_all: float) -> SiteRate:
    if months == 0:
        return SiteRate(events, months, None, None, None)
    share = months / months_in_all
    comparable = events_in_all > 0 and share < 1
    mark = _mark(events, events_in_all, share) if comparable else None
    return SiteRate(events, months, events / months, events_in_all * share, mark)


def _mark(events: int, events_in_all: int, share: float) -> RateMark:
    few = binomial_tail(events, events_in_all, share)
    many = binomial_tail(events_in_all - events, events_in_all, 1 - share)
    if few <= _TAIL_WARNING:
        return RateMark.very_low if few <= _TAIL_ALARM else RateMark.low
    if many <= _TAIL_WARNING:
        return RateMark.very_high if many <= _TAIL_ALARM else RateMark.high
    return RateMark.usual


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """P(X <= successes) for X ~ Binomial(trials, probability), 0 < probability < 1."""
    chance, against = log(probability), log1p(-probability)
    terms = (
        lgamma(trials + 1) - lgamma(k + 1) - lgamma(trials - k + 1) + k * chance + (trials - k) * against
        for k in range(successes + 1)
    )
    return min(sum(exp(term) for term in terms), 1.0)
