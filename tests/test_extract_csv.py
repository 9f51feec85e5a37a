"""Both databases write the text of a table exactly as its profile's own writer does."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Boolean, Float, Integer, String, cast, literal, select, table, union_all

from app.access import Rows
from app.privacy import bundle
from app.privacy.profile import Column
from app.services.extracts import extract_csv
from app.services.extracts.reading import Readers
from tests.world import Registry

COLUMNS = (
    Column("subject", "Number of the row", "visit.occurrence", "integer"),
    Column("pt", "Typed", "adverse_event.pt"),
    Column("value", "Number", "outcome_score.value", "number"),
    Column("serious", "Yes or no", "adverse_event.serious", "boolean"),
    Column("band", "Code", "outcome_score.band"),
)
TYPES: tuple[Any, ...] = (Integer(), String(), Float(), Boolean(), String())
TYPED = ("Headache", "Gut, other", "=1+1", "a\n", "", '"a"', "-3", "O'Neil (left), and right", None)
NUMBERS = (30.0, 0.1, 26.666666666666668, 1 / 3, -3.5, 1e-05, 0.0, -0.5, 123456.75, None)


def statement(rows: list[tuple[Any, ...]]) -> Rows:
    """These values, as if they came from a table."""
    names = [column.name for column in COLUMNS]
    told: list[Any] = [
        select(*(cast(literal(value, of), of).label(name) for value, of, name in zip(row, TYPES, names, strict=True)))
        for row in rows
    ]
    rows_given = union_all(*told).subquery("given")
    return select(*rows_given.c).order_by(rows_given.c.subject)


def written(registry: Registry, rows: list[tuple[Any, ...]]) -> bytes:
    whole = extract_csv.Stretches(table("nobody"), [{}]) if registry.served.is_sqlite else None
    with registry.served.read() as session, Readers([session]) as readers:
        return b"".join(extract_csv.parts(readers, COLUMNS, statement(rows), whole))


def as_the_profile_says(rows: list[tuple[Any, ...]]) -> bytes:
    return b"".join([bundle.header(COLUMNS), *bundle.csv_parts(rows)])


@pytest.mark.parametrize("serious", [True, False, None])
def test_the_database_writes_a_cell_as_the_profile_does(registry: Registry, serious: bool | None) -> None:
    cells = [(text, number) for text in TYPED for number in NUMBERS]
    rows = [(place, text, number, serious, "mild") for place, (text, number) in enumerate(cells)]
    assert written(registry, rows) == as_the_profile_says(rows)


@given(st.lists(st.tuples(st.text(max_size=8), st.floats(-1e6, 1e6)), min_size=1, max_size=20))
def test_whatever_was_typed_and_computed(registry: Registry, cells: list[tuple[str, float]]) -> None:
    storable = [(text.replace("\0", ""), number + 0.0) for text, number in cells]
    rows = [
        (place, text.encode(errors="replace").decode(), number, None, None)
        for place, (text, number) in enumerate(storable)
    ]
    assert written(registry, rows) == as_the_profile_says(rows)
