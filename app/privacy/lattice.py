"""Full-domain generalisation: how coarse each quasi-identifier must be so that everybody hides among k.

All combinations of levels are tried (few columns, few levels), so the answer is the best there is and the same on every
run. Columns are coarsened for everybody alike; people who are still in a class of fewer than k are left out, at most
five in a hundred (Samarati, IEEE TKDE 13(6), 2001; Sweeney, IJUFKS 10(5), 2002). And in no class everybody has a trait
that nobody may be known to have (l-diversity: Machanavajjhala and others, ACM TKDD 1(1), 2007).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

K = 12
"""The smallest class that is released: 1/12 = 0.083 lies under the 0.09 of EMA Policy 0070; 1/11 does not."""

MAX_SUPPRESSED = 0.05
"""The largest share of people who are left out so that the others keep more detail."""

Value = str | int | None


@dataclass(frozen=True)
class Level:
    name: str
    of: Callable[[Value], str | None]
    """The value as it is shown at this level; None for a person without one, and for everybody at the last level."""


@dataclass(frozen=True)
class QuasiIdentifier:
    """A column by which an outsider may recognise a person, with its levels from fine to nothing."""

    name: str
    label: str
    levels: tuple[Level, ...]
    weight: float = 1.0
    """How much is lost between its first level and its last, relative to the others."""


class Generalised(NamedTuple):
    """The chosen level of each quasi-identifier, the class of each person, and who is kept."""

    levels: Mapping[str, int]
    classes: list[tuple[str | None, ...]]
    """In the order in which the people were given, as is `kept`."""

    kept: list[bool]


def generalise(
    people: Sequence[tuple[Value, ...]],
    quasis: Sequence[QuasiIdentifier],
    finest: Mapping[str, int] | None = None,
    sensitive: Sequence[bool] = (),
) -> Generalised:
    """The combination of levels that loses least; of equal ones the first. `finest`: by quasi-identifier, the finest
    level that may be chosen, since from two generalisations of a person a finer one could be worked out. `sensitive`:
    who has a trait that nobody may be known to have; there is no class in which all have it, unless all people have.

    Raises ValueError for fewer than K people: no combination can hide them.
    """
    if len(people) < K:
        raise ValueError("fewer people than a class needs")
    counted = Counter(people)
    without = {exact for exact, has in zip(people, sensitive, strict=True) if not has} if sensitive else set()
    nodes = product(*(range((finest or {}).get(one.name, 0), len(one.levels)) for one in quasis))
    for node in sorted(nodes, key=lambda node: (_loss(node, quasis), node)):
        class_of = {exact: shown(exact, node, quasis) for exact in counted}
        sizes: Counter[tuple[str | None, ...]] = Counter()
        for exact, count in counted.items():
            sizes[class_of[exact]] += count
        left_out = sum(size for size in sizes.values() if size < K)
        all_have_it = set(sizes) - {class_of[exact] for exact in without} if without else set()
        if left_out <= MAX_SUPPRESSED * len(people) and all(sizes[one] < K for one in all_have_it):
            classes = [class_of[exact] for exact in people]
            levels = {one.name: level for one, level in zip(quasis, node, strict=True)}
            return Generalised(levels, classes, [sizes[one] >= K for one in classes])
    raise AssertionError("the coarsest combination is one class")


def _loss(node: tuple[int, ...], quasis: Sequence[QuasiIdentifier]) -> float:
    """How much the levels of a node lose: for each quasi-identifier 0 to its weight."""
    steps = zip(node, quasis, strict=True)
    return round(sum(one.weight * level / (len(one.levels) - 1) for level, one in steps), 9)


def shown(exact: tuple[Value, ...], node: Sequence[int], quasis: Sequence[QuasiIdentifier]) -> tuple[str | None, ...]:
    """A person's exact values as they are shown at these levels: the person's class."""
    return tuple(one.levels[level].of(value) for value, level, one in zip(exact, node, quasis, strict=True))
