"""Secondary suppression: which cells of a table are hidden besides those of few people, so that none of the latter can
be computed from the figures that are shown.

A reader knows each published figure to within its rounding, that the cells of a row or column add up to their margin,
and the figures in `exact`. We assume that the reader also knows which hidden cells are of few people. A table of two
traits is then a network flow from its rows to its columns within bounds, and the true counts are one such flow. How far
a cell can vary is the largest flow around it (Ford and Fulkerson; integer bounds give an integer flow), so the interval
found is exact and not an estimate. Source of both, the interval of a hidden cell and the network of two traits:
Handbook on Statistical Disclosure Control, ESSnet, second edition, 4.4 (its first: Hundepool and others, 2010).
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import product

ALL = "all people"
"""The name of the margin. Contains a space, so that it cannot be the code of an arm."""

BASE = 5
FEW = 12
"""The largest count that is hidden. CMS hides counts up to 10. Rounded to fives, a published 10 would then stand for 11
or 12 only, and with two such cells a hidden one beside them could be computed exactly. From 13 on each published figure
stands for five counts."""

OPEN = BASE
"""How many counts must remain possible for a hidden cell of few people: as many as a published figure stands for. Three
or fewer count as disclosed (design of de-identification, finding 3)."""

Pair = tuple[str, str]
"""The row and the column of a figure."""

_Arcs = Mapping[Pair, tuple[str, str]]
"""Each figure as an arc of the network, from one node to another: in a table from its row to its column."""


def rounded(count: int) -> int | None:
    """The count rounded to the nearest five; None (hidden) for 1 to 12."""
    if 0 < count <= FEW:
        return None
    return BASE * ((count + BASE // 2) // BASE)


def published(
    counts: Mapping[Pair, int], rows: Sequence[str], columns: Sequence[str], exact: Sequence[Set[Pair]]
) -> dict[Pair, bool]:
    """The figures to publish, and whether each is hidden. `counts` has all cells and margins. `exact` are sets of
    figures of which a reader may know one set exactly from another publication. If hiding cells does not suffice, all
    cells are left out and each margin is published by itself; if that does not suffice for a margin, it is left out
    too."""
    cross = {(row, column): (f"row {row}", f"column {column}") for row, column in product(rows, columns)}
    by_row = {(row, ALL): ("from", f"row {row}") for row in rows}
    by_column = {(ALL, column): (f"column {column}", "to") for column in columns}
    if cross and (found := _hidden({**cross, **by_row, **by_column}, counts, exact)) is not None:
        return found
    margins = (dict.fromkeys(margin, ("from", "to")) for margin in (by_row, by_column) if margin)
    shown = [found for margin in margins if (found := _hidden(margin, counts, exact)) is not None]
    return {pair: hidden for one in shown or [_total(counts)] for pair, hidden in one.items()}


def _total(counts: Mapping[Pair, int]) -> dict[Pair, bool]:
    return {(ALL, ALL): rounded(counts[ALL, ALL]) is None}


def _hidden(arcs: _Arcs, counts: Mapping[Pair, int], exact: Sequence[Set[Pair]]) -> dict[Pair, bool] | None:
    """For each figure, whether it is hidden. As long as a hidden figure of few people can be narrowed down too far, the
    smallest figure that is shown is hidden too, first of the same row and column. In the end, those that need not be
    hidden after all are shown again. None: hiding does not suffice."""
    arcs = {**arcs, (ALL, ALL): ("to", "from")}
    few = [pair for pair in arcs if rounded(counts[pair]) is None]
    known = set(arcs).intersection(*exact)
    free = sorted(arcs.keys() - {*few, *known}, key=lambda pair: (counts[pair], pair))
    more: list[Pair] = []  # hidden besides those of few people
    while narrow := _narrow(arcs, counts, exact, few, more):
        shown = sorted((pair for pair in free if pair not in more), key=lambda pair: not _beside(pair, narrow))
        if not shown:
            return None
        more.append(shown[0])
    for pair in list(more):
        fewer = [one for one in more if one != pair]
        if _narrow(arcs, counts, exact, few, fewer) is None:
            more = fewer
    return {pair: pair in few or pair in more for pair in arcs}


def _beside(pair: Pair, other: Pair) -> bool:
    return pair[0] == other[0] or pair[1] == other[1]


def _narrow(
    arcs: _Arcs, counts: Mapping[Pair, int], exact: Sequence[Set[Pair]], few: Sequence[Pair], more: Sequence[Pair]
) -> Pair | None:
    """The first cell of few people that a reader could narrow down too far; None if there is none."""
    for known in exact:
        bounds = {pair: _bounds(counts[pair], pair in known, pair in more, counts[ALL, ALL]) for pair in arcs}
        for pair in few:
            if pair not in known and not _open(pair, arcs, counts, bounds):
                return pair
    return None


def _bounds(count: int, exact: bool, hidden: bool, people: int) -> tuple[int, int]:
    """The smallest and largest count that a reader considers possible."""
    if exact:
        return count, count
    if hidden:
        return 0, people
    shown = rounded(count)
    if shown is None:
        return 1, FEW
    return (max(FEW + 1, shown - BASE // 2), shown + BASE // 2) if shown else (0, 0)


def _open(pair: Pair, arcs: _Arcs, counts: Mapping[Pair, int], bounds: Mapping[Pair, tuple[int, int]]) -> bool:
    """Whether at least OPEN counts are possible for a hidden cell."""
    (start, end), (least, most), count = arcs[pair], bounds[pair], counts[pair]
    up = _flow(end, start, most - count, _residual(pair, arcs, counts, bounds))
    down = _flow(start, end, count - least, _residual(pair, arcs, counts, bounds))
    return up + down + 1 >= OPEN


def _residual(
    without: Pair, arcs: _Arcs, counts: Mapping[Pair, int], bounds: Mapping[Pair, tuple[int, int]]
) -> dict[str, dict[str, int]]:
    """The residual network without one figure: from node to node, by how much the other figures can change."""
    free: dict[str, dict[str, int]] = {node: {} for ends in arcs.values() for node in ends}
    for pair, (start, end) in arcs.items():
        if pair != without:
            least, most = bounds[pair]
            free[start][end] = free[start].get(end, 0) + most - counts[pair]
            free[end][start] = free[end].get(start, 0) + counts[pair] - least
    return free


def _flow(start: str, end: str, most: int, free: dict[str, dict[str, int]]) -> int:
    """The largest flow from `start` to `end`, up to `most` and OPEN - 1; more makes no difference."""
    found, wanted = 0, min(most, OPEN - 1)
    while found < wanted and (path := _path(start, end, free)):
        pushed = min(wanted - found, *(free[one][other] for one, other in path))
        for one, other in path:
            free[one][other] -= pushed
            free[other][one] += pushed
        found += pushed
    return found


def _path(start: str, end: str, free: Mapping[str, Mapping[str, int]]) -> list[Pair]:
    """The shortest path with capacity left (Edmonds and Karp); empty if there is none."""
    came: dict[str, str] = {start: start}
    waiting = deque([start])
    while waiting and end not in came:
        node = waiting.popleft()
        for other, left in free[node].items():
            if left and other not in came:
                came[other] = node
                waiting.append(other)
    return list(_back(end, came)) if end in came else []


def _back(node: str, came: Mapping[str, str]) -> Iterator[Pair]:
    while came[node] != node:
        yield came[node], node
        node = came[node]
