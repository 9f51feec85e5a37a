"""Which cells of a finished table are hidden beside those of few people, so that none of these can be worked out.

A reader knows each published figure to within its rounding, that the cells of a row or column add up to their margin,
and what is `exact`; we grant that the reader also knows which hidden cells are of few people. A table of two
traits is then a flow from its rows to its columns within bounds, and the true counts are one such flow. How far a
cell can move is the largest flow around it (Ford and Fulkerson; with whole bounds it is whole), so the interval that
is found is the exact one and not an estimate. The reader's two extremes of a hidden cell, and two traits as a network:
Handbook on Statistical Disclosure Control, ESSnet, second edition, 4.4 (its first: Hundepool and others, 2010).
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence, Set
from itertools import product

ALL = "all people"
"""The margin. With a space, which no code of an arm has."""

BASE = 5
FEW = 12
"""The largest count that is hidden. CMS hides up to 10; but what then reads 10 is 11 or 12, and with two such cells one
that is hidden beside them follows exactly. From 13 on each figure stands for five counts."""

OPEN = BASE
"""So many counts are left possible for a hidden cell of few people: as many as a figure that is shown stands for. Three
or fewer count as narrowed down (design of de-identification, finding 3)."""

Pair = tuple[str, str]
"""The row and the column of a figure."""

_Arcs = Mapping[Pair, tuple[str, str]]
"""Each figure as a way from one node to another: of a table from its rows to its columns."""


def rounded(count: int) -> int | None:
    """To the nearest five; None for 1 to 12."""
    if 0 < count <= FEW:
        return None
    return BASE * ((count + BASE // 2) // BASE)


def published(
    counts: Mapping[Pair, int], rows: Sequence[str], columns: Sequence[str], exact: Sequence[Set[Pair]]
) -> dict[Pair, bool]:
    """The figures that are published, and whether each is hidden. `counts` are of all cells and margins. `exact` are
    sets of figures that a reader may know exactly from elsewhere, one set or another. If hiding cells does not suffice,
    all cells go and the margins are published each by itself; if that does not suffice for a margin, it goes too."""
    cross = {(row, column): (f"row {row}", f"column {column}") for row, column in product(rows, columns)}
    by_row = {(row, ALL): ("from", f"row {row}") for row in rows}
    by_column = {(ALL, column): (f"column {column}", "to") for column in columns}
    if cross and (found := _hidden({**cross, **by_row, **by_column}, counts, exact)) is not None:
        return found
    alone = (dict.fromkeys(margin, ("from", "to")) for margin in (by_row, by_column) if margin)
    told = [found for margin in alone if (found := _hidden(margin, counts, exact)) is not None]
    return {pair: hidden for one in told or [_total(counts)] for pair, hidden in one.items()}


def _total(counts: Mapping[Pair, int]) -> dict[Pair, bool]:
    return {(ALL, ALL): rounded(counts[ALL, ALL]) is None}


def _hidden(arcs: _Arcs, counts: Mapping[Pair, int], exact: Sequence[Set[Pair]]) -> dict[Pair, bool] | None:
    """The same figures with those of few people hidden. As long as a hidden one can be narrowed down too far, the
    smallest other one beside it is hidden too; in the end, what need not be hidden after all is shown. None: it does
    not suffice."""
    arcs = {**arcs, (ALL, ALL): ("to", "from")}
    few = [pair for pair in arcs if rounded(counts[pair]) is None]
    known = set(arcs).intersection(*exact)
    free = sorted(arcs.keys() - {*few, *known}, key=lambda pair: (counts[pair], pair))
    more: list[Pair] = []
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
    """The first cell of few people that a reader could narrow down too far."""
    for known in exact:
        bounds = {pair: _bounds(counts[pair], pair in known, pair in more, counts[ALL, ALL]) for pair in arcs}
        for pair in few:
            if pair not in known and not _open(pair, arcs, counts, bounds):
                return pair
    return None


def _bounds(count: int, exact: bool, hidden: bool, people: int) -> tuple[int, int]:
    """The bounds between which a reader knows a count to lie."""
    if exact:
        return count, count
    if hidden:
        return 0, people
    shown = rounded(count)
    if shown is None:
        return 1, FEW
    return (max(FEW + 1, shown - BASE // 2), shown + BASE // 2) if shown else (0, 0)


def _open(pair: Pair, arcs: _Arcs, counts: Mapping[Pair, int], bounds: Mapping[Pair, tuple[int, int]]) -> bool:
    """Whether so many counts are possible as have to be."""
    (start, end), (least, most), count = arcs[pair], bounds[pair], counts[pair]
    up = _flow(end, start, most - count, _residual(pair, arcs, counts, bounds))
    down = _flow(start, end, count - least, _residual(pair, arcs, counts, bounds))
    return up + down + 1 >= OPEN


def _residual(
    without: Pair, arcs: _Arcs, counts: Mapping[Pair, int], bounds: Mapping[Pair, tuple[int, int]]
) -> dict[str, dict[str, int]]:
    """From node to node: by how much all but one figure can move."""
    free: dict[str, dict[str, int]] = {node: {} for ends in arcs.values() for node in ends}
    for pair, (start, end) in arcs.items():
        if pair != without:
            least, most = bounds[pair]
            free[start][end] = free[start].get(end, 0) + most - counts[pair]
            free[end][start] = free[end].get(start, 0) + counts[pair] - least
    return free


def _flow(start: str, end: str, most: int, free: dict[str, dict[str, int]]) -> int:
    """The largest flow, and not more of it than matters."""
    found, wanted = 0, min(most, OPEN - 1)
    while found < wanted and (path := _path(start, end, free)):
        pushed = min(wanted - found, *(free[one][other] for one, other in path))
        for one, other in path:
            free[one][other] -= pushed
            free[other][one] += pushed
        found += pushed
    return found


def _path(start: str, end: str, free: Mapping[str, Mapping[str, int]]) -> list[Pair]:
    """The shortest way along which something can flow (Edmonds and Karp)."""
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
