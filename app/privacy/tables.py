"""The `aggregate` profile: tables that are declared here, never asked for by a filter.

Cells of 1 to 12 people are hidden. All other counts, and the margins for themselves, are rounded to the nearest five,
so that no cell follows from the others. Means and standard deviations stand on 13 people at least, and are rounded so
far that a person's score stays open over much of its reach to whoever has two publications, or one and the rows of all
others; at the edge of a rounding it may be narrowed down all the same.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from math import fsum, sqrt
from typing import NamedTuple

from app.privacy.profile import SAFE_TEXT

BASE = 5
FEW = 12
"""The largest count that is hidden. CMS hides up to 10; but what then reads 10 is 11 or 12, and with two such cells one
that is hidden beside them follows exactly. From 13 on each figure stands for five counts."""

STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
ALL, NOT_GIVEN = "all people", "not given"
"""With a space, which no code of an arm has."""

_BANDS = ((35, "LT35"), (55, "35-54"))


class Declared(NamedTuple):
    """A table of people by one or two of their traits."""

    name: str
    row: str
    column: str | None = None
    sensitive: bool = False
    """Nobody may learn that all people of a column stand in one row, or none of them in a harmless one. It is of those
    with a column, where anybody has one: of the others nobody may have had an event, as they failed at screening."""


COUNTS = (
    Declared("people_by_status_and_arm", "status", "planned_arm"),
    Declared("people_by_sex_and_age", "sex", "age"),
    Declared("people_by_race", "race"),
    Declared("people_by_country", "country"),
    Declared("people_by_serious_event_and_arm", "serious_event", "planned_arm", sensitive=True),
    Declared("people_by_worst_event_and_arm", "worst_event", "planned_arm", sensitive=True),
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


def rounded(count: int) -> int | None:
    """To the nearest five; None for 1 to 12."""
    if 0 < count <= FEW:
        return None
    return BASE * ((count + BASE // 2) // BASE)


def age_band(age: str | None) -> str:
    """`age` as an extract has it: a number, or GE90."""
    if age is None:
        return NOT_GIVEN
    known = 90 if age.startswith("GE") else int(age)
    return next((name for edge, name in _BANDS if known < edge), "GE55")


def counts(table: Declared, people: Iterable[tuple[str, str]]) -> Iterator[Cell]:
    """Every cell, also the empty ones, and every margin; `people` are (row, column) of each person."""
    there = Counter(people)
    if table.sensitive:
        there = Counter({pair: number for pair, number in there.items() if pair[1] != NOT_GIVEN}) or there
    rows, columns = (sorted({pair[side] for pair in there}) for side in (0, 1))
    margins: Counter[tuple[str, str]] = Counter()
    for (row, column), number in there.items():
        for pair in {(row, ALL), (ALL, column), (ALL, ALL)}:
            margins[pair] += number
    cells: Mapping[tuple[str, str], int] = {**there, **margins}
    shown = (*columns, ALL) if table.column else (ALL,)
    if table.sensitive and any(_tells(cells, rows, column) for column in columns):
        shown = (ALL,)  # a hidden column would follow from the margins
    if table.sensitive and _tells(cells, rows, ALL):
        rows = []
    for row in (*rows, ALL):
        for column in shown:
            yield _counted(table.name, row, column, cells.get((row, column), 0))


_HARMLESS = frozenset({"no", "none"})


def _tells(cells: Mapping[tuple[str, str], int], rows: Iterable[str], column: str) -> bool:
    """Whether a column says the same of each of its people."""
    people = {row: cells.get((row, column), 0) for row in rows}
    return cells.get((ALL, column)) in people.values() or not any(people.get(row) for row in _HARMLESS)


def with_events(people_of: Iterable[tuple[str, int]]) -> Iterator[Cell]:
    """People with an event of each organ class. A class of few is not even named, nor one whose name may not stand in a
    cell: two of these would be one row."""
    for name, people in sorted(people_of):
        if people > FEW and SAFE_TEXT.fullmatch(name):
            yield _counted(EVENTS, name, ALL, people)


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
    """To what the mean of so many people is rounded: their sum then stays open by as much as one score can reach.
    Chosen by the count as it is published, since it is seen."""
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
    order = ("mild", "moderate", "severe")
    found: dict[str, int] = defaultdict(int)
    for person, severity in severities:
        found[person] = max(found[person], order.index(severity))
    return {person: order[rank] for person, rank in found.items()}
