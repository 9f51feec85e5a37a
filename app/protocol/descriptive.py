"""Descriptive statistics of a group: of its scores at one visit, and of its change from baseline.

Intervals are Student's t around the mean, of those with a value only: nothing is modelled or imputed. They are wider
than the intervals of a mixed model and must not be shown beside those under one name.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import cos, pi, sin, sqrt, tan
from statistics import fmean, stdev
from typing import NamedTuple

from app.protocol.rules import Number

CI_METHOD = "Student t, two-sided, 95 %"
CI_OF_CHANGE_METHOD = "paired Student t, two-sided, 95 %"
CONFIDENCE = 0.95


class Description(NamedTuple):
    """`mean` is None without values; the rest also with one value, which has no spread."""

    n: int
    mean: float | None = None
    sd: float | None = None
    """Of the sample: n - 1 in the denominator."""

    se: float | None = None
    """Standard error of the mean."""

    ci_low: float | None = None
    ci_high: float | None = None
    ci_method: str | None = None


def describe(values: Iterable[Number | None], ci_method: str = CI_METHOD) -> Description:
    """Describe the values that are not None, as a sample."""
    sample = [float(value) for value in values if value is not None]
    if len(sample) < 2:
        return Description(len(sample), fmean(sample) if sample else None)
    mean, sd = fmean(sample), stdev(sample)
    se = sd / sqrt(len(sample))
    reach = student_t(len(sample) - 1, CONFIDENCE) * se
    return Description(len(sample), mean, sd, se, mean - reach, mean + reach, ci_method)


def describe_change(pairs: Sequence[tuple[Number | None, Number | None]]) -> Description:
    """Value minus baseline of each participant who has both: pairs are (baseline, value)."""
    return describe(
        [value - baseline for baseline, value in pairs if baseline is not None and value is not None],
        CI_OF_CHANGE_METHOD,
    )


@lru_cache(maxsize=1024)
def student_t(degrees: int, confidence: float) -> float:
    """The t between whose negative and positive value Student's distribution has `confidence`, 0 to 1, exclusive.

    Raises ValueError below one degree of freedom or for any other confidence.
    """
    if degrees < 1 or not 0 < confidence < 1:
        raise ValueError("Needs at least one degree of freedom, and a confidence between 0 and 1")
    low, high = 0.0, pi / 2
    for _ in range(64):  # halving the angle's range until a float has no more digits
        middle = (low + high) / 2
        low, high = (middle, high) if _share_within(middle, degrees) < confidence else (low, middle)
    return sqrt(degrees) * tan(low)


def _share_within(angle: float, degrees: int) -> float:
    """The share of the distribution within -t and t, where tan(angle) is t over the root of `degrees`.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4: a finite sum for whole degrees.
    """
    odd, square = degrees % 2, cos(angle) ** 2
    term = cos(angle) if odd else 1.0
    total = 0.0 if degrees == 1 else term
    for step in range(2 + odd, degrees - 1, 2):
        term *= square * (step - 1) / step
        total += term
    return (angle + sin(angle) * total) * 2 / pi if odd else sin(angle) * total
