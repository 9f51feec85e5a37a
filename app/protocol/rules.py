"""The declared set of scoring rules. A file picks one for each score; nothing else is computed."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field

from app.protocol.base import Code, Definition, Listed, Text, Title

Number = int | float
Codes = Annotated[tuple[Code, ...], Listed, Field(min_length=1)]


class Item(Definition):
    """One question of an instrument: whole numbers from `minimum` to `maximum`."""

    code: Code
    label: Title
    minimum: int
    maximum: int
    optional: bool = False
    """May be left out without being missing data: "not applicable", or not part of any score."""

    asked_if: Code | None = None
    """The form asks this yes/no item only after a yes on the named one; skipped after a no, it counts as no."""

    @property
    def yes_no(self) -> bool:
        return (self.minimum, self.maximum) == (0, 1)


class Band(Definition):
    """A named part of a score's range, both ends included."""

    label: Title
    minimum: int
    maximum: int


class _Scored(Definition):
    name: Code
    bands: Annotated[tuple[Band, ...], Listed] = ()
    source: Text


class _OverItems(_Scored):
    items: Codes


class _Additive(_OverItems):
    reversed_items: Annotated[tuple[Code, ...], Listed] = ()
    """Counted as minimum + maximum - answer."""

    multiplier: Annotated[int, Field(ge=1)] = 1
    prorate_missing: Annotated[int, Field(ge=0)] = 0
    """Up to so many missing items take the mean of the answered ones; beyond, there is no score."""


class Sum(_Additive):
    rule: Literal["sum"]


class Mean(_Additive):
    rule: Literal["mean"]


class Maximum(_OverItems):
    """The highest answer."""

    rule: Literal["maximum"]


class HighestYes(_OverItems):
    """The position, from 1, of the last item answered yes; 0 where all are no. Levels are never summed."""

    rule: Literal["highest_yes"]


class Flag(_OverItems):
    """1 where any item is yes, else 0."""

    rule: Literal["flag"]


class CountAtLeast(_OverItems):
    """How many items reach `threshold`: symptoms in a cluster."""

    rule: Literal["count_at_least"]
    threshold: int


class Cluster(Definition):
    score: Code
    at_least: int


class AllClusters(_Scored):
    """1 where every named score, declared before this one, reaches its number; else 0."""

    rule: Literal["all_clusters"]
    clusters: Annotated[tuple[Cluster, ...], Listed, Field(min_length=1)]


ScoreRule = Annotated[
    Sum | Mean | Maximum | HighestYes | Flag | CountAtLeast | AllClusters, Field(discriminator="rule")
]


def bounds(rule: ScoreRule, items: Mapping[str, Item]) -> tuple[Number, Number]:
    """The lowest and highest value that the score can take; `items` are the instrument's, by code."""
    match rule:
        case Sum() | Mean():
            shares = Fraction(rule.multiplier, len(rule.items) if isinstance(rule, Mean) else 1)
            lowest = shares * sum(items[code].minimum for code in rule.items)
            return number(lowest), number(shares * sum(items[code].maximum for code in rule.items))
        case Maximum():
            return max(items[code].minimum for code in rule.items), max(items[code].maximum for code in rule.items)
        case HighestYes() | CountAtLeast():
            return 0, len(rule.items)
    return 0, 1  # Flag, AllClusters


def number(value: Fraction) -> Number:
    """A whole number stays an integer; anything else is the nearest float, unrounded."""
    return value.numerator if value.denominator == 1 else float(value)
