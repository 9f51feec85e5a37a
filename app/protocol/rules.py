"""The declared set of scoring rules. A file picks one for each score; nothing else is computed."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field

from app.protocol.base import Code, Codes, Definition, Listed, SomeCodes, Text, Title

Number = int | float
Bounds = tuple[Number, Number]
Direction = Literal["higher_is_worse", "higher_is_better", "neither"]


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


def reached(bands: Sequence[Band], value: Number | Fraction | None) -> str | None:
    """The label of the last of these bands that a value reaches; None without a value or without bands."""
    labels = [band.label for band in bands if value is not None and band.minimum <= value]
    return labels[-1] if labels else None


class _Scored(Definition):
    name: Code
    direction: Direction | None = None
    """None: the instrument's."""

    bands: Annotated[tuple[Band, ...], Listed] = ()
    source: Text

    def band(self, value: Number | Fraction | None) -> str | None:
        return reached(self.bands, value)


class _OverItems(_Scored):
    items: SomeCodes


class _Combined(_Scored):
    items: SomeCodes = ()
    scores: SomeCodes = ()
    """Scores declared before this one, read like further items: a domain, a component."""


class _Additive(_Combined):
    reversed_items: Codes = ()
    """Counted as minimum + maximum - answer."""

    multiplier: Annotated[int, Field(ge=1)] = 1
    prorate_missing: Annotated[int, Field(ge=0)] = 0
    """Up to so many missing items take the mean of the answered ones; beyond, there is no score. Never scores."""


class Sum(_Additive):
    rule: Literal["sum"]


class Mean(_Additive):
    rule: Literal["mean"]


class Maximum(_Combined):
    """The highest answer."""

    rule: Literal["maximum"]
    needed: Annotated[int, Field(ge=1)] | None = None
    """So many answers are enough, where the form asks for one item or another; None: all."""


class Steps(_Combined):
    """How many of the `cuts` the sum reaches or, `falling`, how many it stays below: minutes as a component."""

    rule: Literal["steps"]
    cuts: Annotated[tuple[int, ...], Listed, Field(min_length=1)]
    falling: bool = False
    percent_of: Code | None = None
    """The sum is first taken as per cent of this item, unrounded."""

    percent_at_most: int | None = None
    """More than so many per cent cannot be true, and has no score."""


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
    Sum | Mean | Maximum | Steps | HighestYes | Flag | CountAtLeast | AllClusters, Field(discriminator="rule")
]


def bounds(rule: ScoreRule, items: Mapping[str, Item], earlier: Mapping[str, Bounds] = MappingProxyType({})) -> Bounds:
    """The lowest and highest value that the score can take.

    `items` are the instrument's, by code; `earlier` has the bounds of the scores declared before this one.
    """
    match rule:
        case Sum() | Mean():
            lows, highs = _reach(rule, items, earlier)
            share = Fraction(rule.multiplier, len(lows) if isinstance(rule, Mean) else 1)
            return number(share * sum(lows)), number(share * sum(highs))
        case Maximum():
            lows, highs = _reach(rule, items, earlier)
            lowest = sorted(lows)[(rule.needed or len(lows)) - 1]
            return number(lowest), number(max(highs))
        case HighestYes() | CountAtLeast():
            return 0, len(rule.items)
        case Steps():
            return 0, len(rule.cuts)
    return 0, 1  # Flag, AllClusters


def _reach(
    rule: Sum | Mean | Maximum, items: Mapping[str, Item], earlier: Mapping[str, Bounds]
) -> tuple[list[Fraction], list[Fraction]]:
    """The lowest and the highest values of all that the rule reads."""
    pairs = [(items[code].minimum, items[code].maximum) for code in rule.items]
    read = [*pairs, *(earlier[name] for name in rule.scores)]
    return [Fraction(low) for low, _ in read], [Fraction(high) for _, high in read]


def number(value: Fraction) -> Number:
    """A whole number stays an integer; anything else is the nearest float, unrounded."""
    return value.numerator if value.denominator == 1 else float(value)
