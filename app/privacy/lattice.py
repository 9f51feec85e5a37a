"""Full-domain generalisation: how coarse each quasi-identifier must be so that everybody hides among k.

All combinations of levels are tried (few columns, few levels), so the answer is the best there is and the same on
every run. Columns are coarsened for everybody alike; only who still stands in a class under k is left out, five in a
hundred at most. Samarati, IEEE TKDE 13(6), 2001; Sweeney, IJUFKS 10(5), 2002. And of no class all
have what nobody is to be known to have: l-diversity of Machanavajjhala and others, ACM TKDD 1(1), 2007.
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
    """The value as it is shown at this level; None for who gave none, and for everybody at the last one."""


@dataclass(frozen=True)
class Quasi:
    """A column by which somebody outside may know a person, with its levels from fine to nothing."""

    name: str
    label: str
    levels: tuple[Level, ...]
    weight: float = 1.0
    """How much is lost, against the others, when it goes from the first level to the last."""


class Generalised(NamedTuple):
    """The chosen level of each quasi-identifier, the class of each person, and who is left out."""

    levels: Mapping[str, int]
    classes: list[tuple[str | None, ...]]
    """In the order of the people who were given."""

    kept: list[bool]


def generalise(
    people: Sequence[tuple[Value, ...]],
    quasis: Sequence[Quasi],
    coarser_than: Mapping[str, int] | None = None,
    marked: Sequence[bool] = (),
) -> Generalised:
    """The combination that loses least; of equal ones the one whose levels come first. No level is finer than in
    `coarser_than`: two generalisations of one person would meet in a finer one. Of no class all are `marked`, unless
    everybody is.

    Raises ValueError for fewer than K people: no combination can hide them.
    """
    if len(people) < K:
        raise ValueError("fewer people than a class needs")
    floor = coarser_than or {}
    counted = Counter(people)
    spared = {raw for raw, mark in zip(people, marked, strict=True) if not mark} if marked else set()
    nodes = product(*(range(floor.get(one.name, 0), len(one.levels)) for one in quasis))
    for node in sorted(nodes, key=lambda node: (_loss(node, quasis), node)):
        seen = {raw: shown(raw, node, quasis) for raw in counted}
        sizes: Counter[tuple[str | None, ...]] = Counter()
        for raw, count in counted.items():
            sizes[seen[raw]] += count
        left_out = sum(size for size in sizes.values() if size < K)
        of_all = set(sizes) - {seen[raw] for raw in spared} if spared else set()
        if left_out <= MAX_SUPPRESSED * len(people) and all(sizes[one] < K for one in of_all):
            classes = [seen[raw] for raw in people]
            levels = {one.name: level for one, level in zip(quasis, node, strict=True)}
            return Generalised(levels, classes, [sizes[one] >= K for one in classes])
    raise AssertionError("the coarsest combination is one class")


def _loss(node: tuple[int, ...], quasis: Sequence[Quasi]) -> float:
    steps = zip(node, quasis, strict=True)
    return round(sum(one.weight * level / (len(one.levels) - 1) for level, one in steps), 9)


def shown(raw: tuple[Value, ...], node: Sequence[int], quasis: Sequence[Quasi]) -> tuple[str | None, ...]:
    """How a person looks at these levels."""
    return tuple(one.levels[level].of(value) for value, level, one in zip(raw, node, quasis, strict=True))
