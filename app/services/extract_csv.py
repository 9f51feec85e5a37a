"""A statement's rows as CSV, as the profile writes them. PostgreSQL writes the text itself (COPY): the rows never
become Python objects. SQLite's rows do, one by one."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import ColumnElement, case
from sqlmodel import Session

from app.access import Rows
from app.privacy import bundle
from app.privacy.profile import SAFE_PATTERN, Column, Treatment
from app.privacy.quasi import OTHER
from app.services import as_at

_PART = 1 << 18


def parts(session: Session, columns: Sequence[Column], statement: Rows) -> Iterator[bytes]:
    """The header and the rows, in pieces that end with a line."""
    assert [column.name for column in statement.selected_columns] == [column.name for column in columns]
    yield bundle.header(columns)
    if session.get_bind().dialect.name == "postgresql":
        yield from _copied(session, columns, statement)
        return
    rows = session.execute(statement.execution_options(yield_per=bundle.BATCH))
    yield from bundle.csv_parts(columns, rows)


def _copied(session: Session, columns: Sequence[Column], statement: Rows) -> Iterator[bytes]:
    shown = [_shown(one, column) for one, column in zip(statement.selected_columns, columns, strict=True)]
    query = as_at.rewound(session, statement.with_only_columns(*shown, maintain_column_froms=True))
    connection = session.connection()
    compiled = query.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
    driver: Any = connection.connection.driver_connection
    waiting = bytearray()
    with driver.cursor() as cursor, cursor.copy(f"COPY ({compiled}) TO STDOUT (FORMAT csv)", compiled.params) as rows:
        for row in rows:
            waiting += row
            if len(waiting) >= _PART:
                yield bytes(waiting)
                waiting.clear()
    if waiting:
        yield bytes(waiting)


def _shown(value: Any, column: Column) -> ColumnElement[Any]:
    """As `cell` writes it: Y and N, and no text that could begin a formula."""
    if column.type == "boolean":
        return case((value, "Y"), (~value, "N")).label(column.name)
    if column.type == "text" and column.treatment is not Treatment.subject:
        return case((value.is_(None), None), (value.regexp_match(SAFE_PATTERN), value), else_=OTHER).label(column.name)
    labelled: ColumnElement[Any] = value
    return labelled
