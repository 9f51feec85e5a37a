"""The tables of the `aggregate` profile. The set is fixed: nobody can ask for a table of their own.

Cells of 1 to 12 people are hidden. All other counts are rounded to the nearest five, each margin by itself, and further
cells are hidden until no hidden cell can be computed from the others (app/privacy/hiding.py). Means and standard
deviations need 13 people or more. They are rounded so coarsely that a person's score cannot be computed within much of
its range, even by somebody who has two publications, or one publication and the rows of all other people. Near a
rounding boundary the score may be narrowed down all the same.
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
"""Contains a space, so that it cannot be the code of an arm."""

_BANDS = ((35, "LT35"), (55, "35-54"))


class Declared(NamedTuple):
    """A table that counts people by one or two traits."""

    name: str
    row: str
    column: str | None = None
    grouped: str | None = None
    """The one value of the row trait that a `deidentified` extract may show, when it shows all others as one."""

    sensitive: bool = False
    """Nobody may learn that all people of a column are in the same row, or that none of them is in a harmless row.
    People without a value of the column trait are left out, unless nobody has one: they may all have failed at
    screening, and so have had no event."""


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
    """One figure; `value` is None where it is hidden or cannot be computed."""

    table: str
    row: str
    column: str
    statistic: str
    value: float | None
    suppressed: bool


def age_band(age: str | None) -> str:
    """The age band for an `age` as an extract writes it: a number of years, or GE90."""
    if age is None:
        return NOT_GIVEN
    known = 90 if age.startswith("GE") else int(age)
    return next((name for edge, name in _BANDS if known < edge), "GE55")


class Counted(NamedTuple):
    """A table with its true counts: all cells, also the empty ones, and every margin that may be shown."""

    name: str
    rows: Sequence[str]
    columns: Sequence[str]
    """Empty where the table has one trait only, or where a column would disclose what `Declared.sensitive` forbids."""

    counts: Mapping[Pair, int]
    in_rows: Sequence[Set[Pair]]
    """The sets of figures that an extract of rows of the same people may disclose exactly; it discloses one of them."""

    def primary_suppression(self) -> Iterator[Cell]:
        """The cells, with only those of few people hidden, as in earlier versions of the profile."""
        return self._cells({pair: rounded(number) is None for pair, number in self.counts.items()})

    def secondary_suppression(self) -> Iterator[Cell]:
        """The cells, with enough of them hidden that none of few people can be computed from the others and from
        `deidentified` rows of the same people."""
        return self._cells(published(self.counts, self.rows, self.columns, self.in_rows))

    def _cells(self, hidden: Mapping[Pair, bool]) -> Iterator[Cell]:
        for pair in product((*self.rows, ALL), (*self.columns, ALL)):
            if pair in hidden:
                value = None if hidden[pair] else rounded(self.counts[pair])
                yield Cell(self.name, *pair, "people", value, value is None)


def counted(table: Declared, people: Iterable[Pair]) -> Counted:
    """Count a declared table. `people` has one (row, column) for each person."""
    numbers = Counter(people)
    if table.sensitive:
        numbers = Counter({pair: number for pair, number in numbers.items() if pair[1] != NOT_GIVEN}) or numbers
    rows, columns = (sorted({pair[side] for pair in numbers}) for side in (0, 1))
    cells = {pair: numbers[pair] for pair in product(rows, columns)}
    for (row, column), number in numbers.items():
        for pair in {(row, ALL), (ALL, column), (ALL, ALL)}:
            cells[pair] = cells.get(pair, 0) + number
    cells.setdefault((ALL, ALL), 0)
    disclosing = {column for column in (*columns, ALL) if table.sensitive and _discloses(cells, rows, column)}
    if not table.column or disclosing - {ALL}:
        columns = []  # if only one were hidden, it would follow from the margins
    if ALL in disclosing:
        rows = []
    shown = {pair: cells[pair] for pair in product((*rows, ALL), (*columns, ALL))}
    return Counted(table.name, rows, columns, shown, list(_in_rows(table, rows, columns, shown)))


def _in_rows(
    table: Declared, rows: Sequence[str], columns: Sequence[str], counts: Mapping[Pair, int]
) -> Iterator[Set[Pair]]:
    """The sets of figures that `deidentified` rows can disclose: always the number of people, and of people in each
    arm. As every class there has K people or more, also a trait whose every value has K people or more, or one value if
    both it and the rest together do."""
    always = {(ALL, column) for column in (*(columns if table.column == ARM else ()), ALL)}
    yield always
    if table.sensitive:
        return  # the rows themselves show this trait of each person
    for margin in ({(row, ALL) for row in rows}, {(ALL, column) for column in columns}):
        if all(counts[pair] >= K for pair in margin):
            yield always | margin
    one = counts.get((table.grouped, ALL), 0) if table.grouped else 0
    if min(one, counts[ALL, ALL] - one) >= K:
        yield always | {(str(table.grouped), column) for column in (*columns, ALL)}


_HARMLESS = frozenset({"no", "none"})


def _discloses(cells: Mapping[Pair, int], rows: Iterable[str], column: str) -> bool:
    """Whether a column discloses something about each of its people: all are in one row, or none is in a harmless
    one."""
    people = {row: cells.get((row, column), 0) for row in rows}
    return cells.get((ALL, column)) in people.values() or not any(people.get(row) for row in _HARMLESS)


def with_events(people_of: Iterable[tuple[str, int]], of: int | None = None) -> Iterator[Cell]:
    """The number of people with an event of each organ class. A class of few people is not named, nor is one whose name
    is unsafe in a CSV cell, as two such classes would become one row. `of` is the number of all people: a figure is
    hidden if it would leave too few possible counts of people without an event. None: it never is, as in earlier
    versions of the profile."""
    for name, people in sorted(people_of):
        if people > FEW and SAFE_TEXT.fullmatch(name):
            figure = _counted(EVENTS, name, ALL, people)
            too_few_without = of is not None and of - _fewest(people) < OPEN
            yield figure._replace(value=None, suppressed=True) if too_few_without else figure


def _counted(table: str, row: str, column: str, number: int) -> Cell:
    value = rounded(number)
    return Cell(table, row, column, "people", value, value is None)


def scores(visit: str, instrument: str, reach: float, people: Mapping[float, int]) -> Iterator[Cell]:
    """Number of people, mean and standard deviation (n - 1) of a score at a visit. `people` is the number of people for
    each value, `reach` the score's highest possible value minus its lowest. `fsum` gives the same sums in any order, so
    that a rebuilt extract has the same figures."""
    number = sum(people.values())
    total = fsum(value * count for value, count in people.items())
    squares = fsum(value * value * count for value, count in people.items())
    value, enough = rounded(number), number > FEW
    yield Cell(SCORES, visit, instrument, "people", value, value is None)
    mean = total / number if number else 0.0
    spread = sqrt(max(squares - number * mean * mean, 0.0) / (number - 1)) if number > 1 else 0.0
    shown: float | None = _coarse(mean, step(reach, number)) if enough else None
    yield Cell(SCORES, visit, instrument, "mean", shown, shown is None)
    # a standard deviation rounded to 0 would mean that all people had the same score
    shown = (_coarse(spread, spread_step(reach, number)) or None) if enough else None
    yield Cell(SCORES, visit, instrument, "sd", shown, shown is None)


def step(reach: float, number: int) -> float:
    """The step to which the mean of so many people is rounded: the sum is then uncertain by the whole range of one
    score. It depends on the published count only, as readers can see the step."""
    return next((one for one in STEPS if one * _fewest(number) >= reach), STEPS[-1])


def spread_step(reach: float, number: int) -> float:
    """The same for a standard deviation. One person changes it by at most `reach` / sqrt(`number`)."""
    return next((one for one in STEPS if one * sqrt(_fewest(number)) >= reach), STEPS[-1])


def _fewest(number: int) -> int:
    """The smallest true count behind a published count."""
    return max(FEW + 1, (rounded(number) or 0) - BASE // 2)


def _coarse(figure: float, to: float) -> float:
    return round(to * round(figure / to), 1)


def worst(severities: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The worst severity of each person's events."""
    found: dict[str, int] = defaultdict(int)
    for person, severity in severities:
        found[person] = max(found[person], SEVERITIES.index(severity))
    return {person: SEVERITIES[rank] for person, rank in found.items()}
