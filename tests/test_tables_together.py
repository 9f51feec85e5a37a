"""No hidden cell of few people can be worked out from all that is published of it. What is possible is found here by
another way than in the registry: whole-number programmes over the published figures, one up and one down a cell."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, milp

from app.models.extract import ExtractProfile
from app.privacy import profile, tables
from app.privacy.tables import Cell, Declared
from tests.builds import built_again
from tests.cohorts import alike, fill
from tests.test_aggregate import approved, asked, published
from tests.world import World

ALL = "all people"
Pair = tuple[str, str]
People = list[dict[str, str]]


def trial(seed: int) -> People:
    """A cohort as trials have them: one to three arms, most complete, few serious events."""
    draw = random.Random(seed)
    arms = draw.choice([["MDMA"], ["MDMA", "PLACEBO"], ["LOW", "MID", "HIGH"]])
    statuses = ["completed", "active", "withdrawn", "died", "screen_failed"]
    races = ["WHITE", "ASIAN", "BLACK OR AFRICAN AMERICAN", "MULTIPLE", "UNKNOWN"]
    return [
        {
            "status": draw.choices(statuses, [70, 10, 10, 3, 7])[0],
            "planned_arm": draw.choice(arms),
            "sex": draw.choices("FM", [62, 38])[0],
            "age": draw.choices(["LT35", "35-54", "GE55"], [35, 50, 15])[0],
            "race": draw.choices(races, [76, 8, 8, 5, 3])[0],
            "country": draw.choices(["US", "NL", "DE"], [60, 25, 15])[0],
            "serious_event": draw.choices(["yes", "no"], [8, 92])[0],
            "worst_event": draw.choices(["none", "mild", "moderate", "severe"], [10, 50, 30, 10])[0],
        }
        for _ in range(draw.choice([13, 14, 16, 18, 24, 26, 30, 36, 45, 60, 90, 120]))
    ]


def pairs_of(table: Declared, people: People) -> list[Pair]:
    return [(one[table.row], one[table.column or table.row]) for one in people]


def true_counts(people: Iterable[Pair]) -> Counter[Pair]:
    return Counter(pair for row, column in people for pair in {(row, column), (row, ALL), (ALL, column), (ALL, ALL)})


def known(cell: Cell, few: bool) -> tuple[float, float]:
    """What the figure alone says; of a hidden one we grant that the reader knows whether it is of few people."""
    if cell.value is None:
        return (1, 12) if few else (0, np.inf)
    return (max(13, cell.value - 2), cell.value + 2) if cell.value else (0, 0)


def possible(cells: Mapping[Pair, tuple[float, float]], wanted: Pair) -> tuple[int, int]:
    """The least and the most that a cell can be, all figures and their sums together."""
    place = {pair: number for number, pair in enumerate(cells)}
    sums = []
    for margin in cells:
        for side in (0, 1):
            if margin[side] == ALL:
                parts = [pair for pair in cells if pair[side] != ALL and pair[1 - side] == margin[1 - side]]
                if parts:
                    row = np.zeros(len(cells))
                    row[[place[pair] for pair in parts]], row[place[margin]] = 1, -1
                    sums.append(row)
    limits = Bounds(*np.array(list(cells.values())).T)
    rules = [LinearConstraint(np.array(sums), 0, 0)] if sums else []
    found = []
    for sign in (1, -1):
        goal = np.zeros(len(cells))
        goal[place[wanted]] = sign
        answer = milp(goal, constraints=rules, bounds=limits, integrality=np.ones(len(cells)))
        assert answer.success, answer.message
        found.append(round(sign * answer.fun))
    return found[0], found[1]


def readers(table: Declared, cells: list[Cell], true: Mapping[Pair, int]) -> Iterator[dict[Pair, int]]:
    """What somebody has beside the tables: nothing; the number of people and of each arm; and what rows show where each
    class is of twelve people: who completed, who is white, and sex or age as the table has them."""
    yield {}
    shown = {(cell.row, cell.column) for cell in cells}
    sizes = {pair: true[pair] for pair in shown if pair[0] == ALL and (pair[1] == ALL or table.column == "planned_arm")}
    yield sizes
    for one in ("completed", "WHITE"):
        if min(true.get((one, ALL), 0), true[ALL, ALL] - true.get((one, ALL), 0)) >= 12:
            yield sizes | {pair: true.get(pair, 0) for pair in shown if pair[0] == one}
    if table.name == "people_by_sex_and_age":
        for side in (0, 1):
            margin = {pair: true[pair] for pair in shown if pair[1 - side] == ALL}
            if min(margin.values()) >= 12:
                yield sizes | margin


def require_open(table: Declared, people: list[Pair], cells: list[Cell]) -> int:
    """Each hidden cell of few people stays open over five counts; gives how many there are."""
    if table.sensitive and {cell.row for cell in cells} == {ALL}:
        return 0
    true, looked_at = true_counts(people), 0
    for exact in readers(table, cells, true):
        told = {}
        for cell in cells:
            pair = (cell.row, cell.column)
            told[pair] = (exact[pair],) * 2 if pair in exact else known(cell, 0 < true.get(pair, 0) <= 12)
        for cell in cells:
            pair = (cell.row, cell.column)
            if cell.value is None and 0 < true.get(pair, 0) <= 12 and pair not in exact and pair != (ALL, ALL):
                least, most = possible(told, pair)
                assert least <= true[pair] <= most
                assert most - least >= 4, (table.name, pair, (least, most))
                looked_at += 1
    return looked_at


@pytest.mark.parametrize("table", tables.COUNTS, ids=lambda table: table.name)
def test_no_hidden_cell_of_few_people_can_be_worked_out(table: Declared) -> None:
    looked_at = hidden = 0
    for seed in range(25):
        people = pairs_of(table, trial(seed))
        counted = tables.counted(table, people)
        looked_at += require_open(table, people, list(counted.secondary_suppression()))
        hidden += sum(cell.suppressed for cell in counted.primary_suppression())
    assert looked_at > 25
    assert hidden > 25


def arms(**statuses: Mapping[str, int]) -> People:
    """How many people of each arm have which status."""
    return [
        {"planned_arm": arm, "status": status}
        for arm, theirs in statuses.items()
        for status, number in theirs.items()
        for _ in range(number)
    ]


ONE_DIED = arms(
    HIGH={"completed": 15, "active": 1, "withdrawn": 1, "died": 1, "screen_failed": 1},
    LOW={"completed": 16, "withdrawn": 2},
    MID={"completed": 17, "active": 2},
)
"""Fifteen and fifteen were published, and four hidden cells between them: one each."""

PAIRS_OF_TWELVE = arms(HIGH={"completed": 12, "active": 12}, LOW={"completed": 12, "active": 12})
ALL_BUT_ONE = arms(HIGH={"completed": 25, "died": 1})


@pytest.mark.parametrize("people", [ONE_DIED, PAIRS_OF_TWELVE, ALL_BUT_ONE], ids=["one died", "twelves", "all but one"])
def test_a_cell_that_the_margins_would_disclose_is_not_disclosed(people: People) -> None:
    table = tables.COUNTS[0]
    told = pairs_of(table, people)
    with pytest.raises(AssertionError):
        require_open(table, told, list(tables.counted(table, told).primary_suppression()))
    require_open(table, told, list(tables.counted(table, told).secondary_suppression()))


def test_if_hiding_cells_does_not_suffice_only_margins_are_shown() -> None:
    """Of an arm of two people one completed and one died, whatever else is hidden."""
    told = arms(HIGH={"completed": 1, "died": 1}, LOW={"completed": 40, "died": 8})
    counted = tables.counted(tables.COUNTS[0], pairs_of(tables.COUNTS[0], told))
    cells = {(cell.row, cell.column): cell.value for cell in counted.secondary_suppression()}
    assert cells == {
        ("completed", ALL): 40,
        ("died", ALL): None,
        (ALL, ALL): 50,
        (ALL, "HIGH"): None,
        (ALL, "LOW"): 50,
    }


def test_no_cell_is_hidden_without_need() -> None:
    people = [("a", "x")] * 30 + [("b", "x")] * 8 + [("a", "y")] * 9 + [("b", "y")] * 40
    counted = tables.counted(Declared("t", "row", "column"), people)
    assert list(counted.secondary_suppression()) == list(counted.primary_suppression())


def test_the_same_people_give_the_same_tables_in_any_order() -> None:
    for table in tables.COUNTS:
        people = pairs_of(table, trial(5))
        assert [*tables.counted(table, people).secondary_suppression()] == [
            *tables.counted(table, reversed(people)).secondary_suppression()
        ]


def test_people_with_events_do_not_disclose_how_few_had_none() -> None:
    """Of thirty people twenty-nine had an event of one class: one had none, and may be known by that."""
    figures = {cell.row: cell.value for cell in tables.with_events([("Nervous", 29), ("Vascular", 14)], of=30)}
    assert figures == {"Nervous": None, "Vascular": 15}


def of_arms(people: People) -> Any:
    waiting = iter(people)
    return lambda draw: {**alike(draw), **next(waiting)}


def cells_of(rows: list[dict[str, str]], table: str) -> list[Cell]:
    return [
        Cell(table, row["row"], row["column"], row["statistic"], value(row["value"]), row["suppressed"] == "Y")
        for row in rows
        if row["table"] == table
    ]


def value(text: str) -> float | None:
    return float(text) if text else None


def test_a_publication_does_not_disclose_a_death_in_an_arm(world: World) -> None:
    fill(world, len(ONE_DIED), of_arms(ONE_DIED), seed=1)
    table = tables.COUNTS[0]
    cells = cells_of(published(world), table.name)
    assert require_open(table, pairs_of(table, ONE_DIED), cells) > 0


def test_tables_name_the_arms_that_rows_name(world: World) -> None:
    """An arm of few people is OTHER, and with it the next rarest, as analysts read the list of arms."""
    sizes = {"A1": 30, "A2": 20, "A3": 15, "A4": 3}
    people = [{"planned_arm": arm} for arm, number in sizes.items() for _ in range(number)]
    fill(world, len(people), of_arms(people), seed=2)
    columns = {cell.column for cell in cells_of(published(world), "people_by_status_and_arm")}
    assert columns == {"A1", "A2", "OTHER", ALL}


def test_tables_of_an_earlier_version_are_built_again_as_they_were(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(world, len(ONE_DIED), of_arms(ONE_DIED), seed=3)
    earlier = profile.VERSIONS[ExtractProfile.aggregate, "3"]
    with monkeypatch.context() as patch:
        patch.setitem(profile.PROFILES, ExtractProfile.aggregate, earlier)  # type: ignore[arg-type]
        path = asked(world)
        assert approved(world, path).status_code == 201
    manifest = world.analyst.get(path).json()["manifest"]
    assert manifest["profile_version"] == "3"
    assert built_again(world, path) == "the same rows"
