"""The `aggregate` profile: tables that are declared here, never asked for by a filter.

Cells of 1 to 12 people are hidden. All other counts, and the margins for themselves, are rounded to the nearest five,
and as many more are hidden as it takes that no hidden cell follows from the others (app/privacy/hiding.py). Means and
standard deviations stand on 13 people at least, and are rounded so far that a person's score stays open over much of
its reach to whoever has two publications, or one and the rows of all others; at the edge of a rounding it may be
narrowed down all the same.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from itertools import product
from math import fsum, sqrt
from typing import NamedTuple

from app.privacy.hiding import ALL, BASE, FEW, OPEN, Pair, published, rounded
from app.privacy.lattice import K
from app.privacy.profile import SAFE_TEXT
from app.protocol.incidence import SEVERITIES

STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
ARM = "planned_arm"
NOT_GIVEN = "not given"
"""With a space, which no code of an arm has."""

_BANDS = ((35, "LT35"), (55, "35-54"))


class Declared(NamedTuple):
    """A table of people by one or two of their traits."""

    name: str
    row: str
    column: str | None = None
    grouped: str | None = None
    """The row that rows of people may show against all others."""

    sensitive: bool = False
    """Nobody may learn that all people of a column are in one row, or that none of them is in a harmless one. The table
    is of the people who have a column, where anybody has one: those without may all have had no event, as they failed
    at screening."""


COUNTS = (
    Declared("people_by_status_and_arm", "status", ARM, grouped="completed"),
    Declared("people_by_sex_and_age", "sex", "age"),
    Declared("people_by_race", "race", grouped="WHITE"),
    Declared("people_by_country", "country"),
    Declared("people_by_serious_event_and_arm", "serious_event", ARM, sensitive=True),
    Declared("people_by_worst_event_and_arm", "worst_event", ARM, sensitive=True),
)
EVENTS, SCORES = "people_with_events_by_organ_class", "scores_by_visit"


class Cell(NamedTuple):
    """One figure; `value` None: hidden, or not to be computed."""

    table: str
    row: str
    column: str
    statistic: str
    value: float | None
    suppressed: bool


def age_band(age: str | None) -> str:
    """`age` as an extract has it: a number, or GE90."""
    if age is None:
        return NOT_GIVEN
    known = 90 if age.startswith("GE") else int(age)
    return next((name for edge, name in _BANDS if known < edge), "GE55")


class Counted(NamedTuple):
    """A table as it was counted: its cells, also the empty ones, and every margin that may be shown."""

    name: str
    rows: Sequence[str]
    columns: Sequence[str]
    """None of them where the table is by one trait, or would tell of a column what nobody is to know."""

    counts: Mapping[Pair, int]
    in_rows: Sequence[Set[Pair]]
    """What rows of the same people may tell exactly: one set, or another one."""

    def as_counted(self) -> Iterator[Cell]:
        """Each figure for itself."""
        return self._cells({pair: rounded(number) is None for pair, number in self.counts.items()})

    def held_together(self) -> Iterator[Cell]:
        """With as many hidden as it takes that none of few people can be worked out from the others and from the rows
        of the same people."""
        return self._cells(published(self.counts, self.rows, self.columns, self.in_rows))

    def _cells(self, hidden: Mapping[Pair, bool]) -> Iterator[Cell]:
        for pair in product((*self.rows, ALL), (*self.columns, ALL)):
            if pair in hidden:
                value = None if hidden[pair] else rounded(self.counts[pair])
                yield Cell(self.name, *pair, "people", value, value is None)


def counted(table: Declared, people: Iterable[Pair]) -> Counted:
    """`people` are (row, column) of each person."""
    there = Counter(people)
    if table.sensitive:
        there = Counter({pair: number for pair, number in there.items() if pair[1] != NOT_GIVEN}) or there
    rows, columns = (sorted({pair[side] for pair in there}) for side in (0, 1))
    cells = {pair: there[pair] for pair in product(rows, columns)}
    for (row, column), number in there.items():
        for pair in {(row, ALL), (ALL, column), (ALL, ALL)}:
            cells[pair] = cells.get(pair, 0) + number
    cells.setdefault((ALL, ALL), 0)
    tell = {column for column in (*columns, ALL) if table.sensitive and _tells(cells, rows, column)}
    if not table.column or tell - {ALL}:
        columns = []  # a hidden column would follow from the margins
    if ALL in tell:
        rows = []
    shown = {pair: cells[pair] for pair in product((*rows, ALL), (*columns, ALL))}
    return Counted(table.name, rows, columns, shown, list(_in_rows(table, rows, columns, shown)))


def _in_rows(
    table: Declared, rows: Sequence[str], columns: Sequence[str], counts: Mapping[Pair, int]
) -> Iterator[Set[Pair]]:
    """What `deidentified` rows tell: always how many people there are and how many have each arm; and, as each class
    is of K people or more, a trait of which each value has so many, or one value where all others have."""
    always = {(ALL, column) for column in (*(columns if table.column == ARM else ()), ALL)}
    yield always
    if table.sensitive:
        return  # rows tell it of each person
    for margin in ({(row, ALL) for row in rows}, {(ALL, column) for column in columns}):
        if all(counts[pair] >= K for pair in margin):
            yield always | margin
    one = counts.get((table.grouped, ALL), 0) if table.grouped else 0
    if min(one, counts[ALL, ALL] - one) >= K:
        yield always | {(str(table.grouped), column) for column in (*columns, ALL)}


_HARMLESS = frozenset({"no", "none"})


def _tells(cells: Mapping[Pair, int], rows: Iterable[str], column: str) -> bool:
    """Whether a column says the same of each of its people."""
    people = {row: cells.get((row, column), 0) for row in rows}
    return cells.get((ALL, column)) in people.values() or not any(people.get(row) for row in _HARMLESS)


def with_events(people_of: Iterable[tuple[str, int]], of: int | None = None) -> Iterator[Cell]:
    """People with an event of each organ class, among `of` people in all. A class of few people is not even named, nor
    one whose name may not stand in a cell: two of these would be one row. A figure is hidden if too little would be
    left open about how many people had no event at all, or if everybody had one."""
    for name, people in sorted(people_of):
        if people > FEW and SAFE_TEXT.fullmatch(name):
            figure = _counted(EVENTS, name, ALL, people)
            tells = of is not None and of - _fewest(people) < OPEN
            yield figure._replace(value=None, suppressed=True) if tells else figure


def _counted(table: str, row: str, column: str, number: int) -> Cell:
    value = rounded(number)
    return Cell(table, row, column, "people", value, value is None)


def scores(visit: str, instrument: str, reach: float, people: Mapping[float, int]) -> Iterator[Cell]:
    """People, mean and standard deviation (n - 1) of a score at a visit, from how many have which value; `reach` is the
    score's highest value less its lowest. The sums are the same in any order, so that the figures come out again when
    the rows are read differently."""
    number = sum(people.values())
    total = fsum(value * count for value, count in people.items())
    squares = fsum(value * value * count for value, count in people.items())
    value, enough = rounded(number), number > FEW
    yield Cell(SCORES, visit, instrument, "people", value, value is None)
    mean = total / number if number else 0.0
    spread = sqrt(max(squares - number * mean * mean, 0.0) / (number - 1)) if number > 1 else 0.0
    shown: float | None = _coarse(mean, step(reach, number)) if enough else None
    yield Cell(SCORES, visit, instrument, "mean", shown, shown is None)
    # one that is rounded to nothing would read as if all people had one score
    shown = (_coarse(spread, spread_step(reach, number)) or None) if enough else None
    yield Cell(SCORES, visit, instrument, "sd", shown, shown is None)


def step(reach: float, number: int) -> float:
    """The step to which the mean of so many people is rounded: their sum then stays uncertain by as much as one score
    can be. It follows from the published count, as a reader sees the step."""
    return next((one for one in STEPS if one * _fewest(number) >= reach), STEPS[-1])


def spread_step(reach: float, number: int) -> float:
    """The same for a standard deviation, which one person moves by as much as the reach over the root of the number."""
    return next((one for one in STEPS if one * sqrt(_fewest(number)) >= reach), STEPS[-1])


def _fewest(number: int) -> int:
    """The fewest people that a published count can be of."""
    return max(FEW + 1, (rounded(number) or 0) - BASE // 2)


def _coarse(figure: float, to: float) -> float:
    return round(to * round(figure / to), 1)


def worst(severities: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The worst severity of each person's events."""
    found: dict[str, int] = defaultdict(int)
    for person, severity in severities:
        found[person] = max(found[person], SEVERITIES.index(severity))
    return {person: SEVERITIES[rank] for person, rank in found.items()}
