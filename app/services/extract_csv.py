"""A statement's rows as CSV, as the profile writes them. The database writes the text itself, and the cells never
become Python objects: PostgreSQL by COPY, SQLite by an expression that joins the cells of a row."""

from collections.abc import Generator, Iterator, Sequence
from functools import reduce
from typing import Any

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.waiting import Ready, Wait
from sqlalchemy import ColumnElement, Integer, case, cast, func, null
from sqlmodel import Session

from app.access import Rows
from app.errors import DatabaseUnavailable
from app.privacy import bundle
from app.privacy.profile import SAFE_PATTERN, Column
from app.privacy.quasi import OTHER
from app.services import as_at

_PART = 1 << 18


def parts(session: Session, columns: Sequence[Column], statement: Rows) -> Iterator[bytes]:
    """The header and the rows, in pieces that end with a line. Raises UnsafeText, DatabaseUnavailable."""
    assert [column.name for column in statement.selected_columns] == [column.name for column in columns]
    yield bundle.header(columns)
    on_postgresql = session.get_bind().dialect.name == "postgresql"
    typed = any(column.typed for column in columns)  # then each cell was looked at
    for part in (_copied if on_postgresql else _joined)(session, columns, statement):
        if not typed:
            bundle.require_no_formula(part)
        yield part


def _joined(session: Session, columns: Sequence[Column], statement: Rows) -> Iterator[bytes]:
    cells = [
        _quoted(_shown(one, column), column) for one, column in zip(statement.selected_columns, columns, strict=True)
    ]
    line = reduce(lambda row, cell: row.op("||")(",").op("||")(cell), cells).op("||")("\n")
    query = as_at.rewound(session, statement.with_only_columns(line.label("line"), maintain_column_froms=True))
    lines = session.connection().execute(query.execution_options(yield_per=bundle.BATCH)).scalars()
    for batch in lines.partitions(bundle.BATCH):
        yield "".join(batch).encode()


def _quoted(value: ColumnElement[Any], column: Column) -> ColumnElement[Any]:
    """A cell as COPY writes it. Only what somebody typed can hold a comma, and nothing holds a quotation mark."""
    if column.type == "number":
        whole = cast(value, Integer)
        value = case((value == whole, whole), (value.is_not(None), func.shortest(value)))
    elif column.typed:
        value = case((func.instr(value, ",") > 0, '"' + value + '"'), else_=value)
    return func.coalesce(value, "")


def _copied(session: Session, columns: Sequence[Column], statement: Rows) -> Iterator[bytes]:
    shown = [_shown(one, column) for one, column in zip(statement.selected_columns, columns, strict=True)]
    query = as_at.rewound(session, statement.with_only_columns(*shown, maintain_column_froms=True))
    connection = session.connection()
    compiled = query.compile(dialect=connection.dialect, compile_kwargs={"render_postcompile": True})
    driver: Any = connection.connection.driver_connection
    try:
        with driver.cursor() as cursor, cursor.copy(f"COPY ({compiled}) TO STDOUT (FORMAT csv)", compiled.params):
            waiting = bytearray()
            while driver.wait(_filled(driver.pgconn, waiting)):
                yield bytes(waiting)
                waiting.clear()
            if waiting:
                yield bytes(waiting)
    except psycopg.OperationalError:
        raise DatabaseUnavailable from None


def _filled(connection: psycopg.pq.abc.PGconn, waiting: bytearray) -> Generator[Wait, Ready, bool]:
    """Rows, until there are enough; False: these were the last. As psycopg's own `Copy.read`, which gives one row a
    call: of a million rows that takes longer than all else together."""
    while len(waiting) < _PART:
        size, row = connection.get_copy_data(1)
        if size > 0:
            waiting += row
        elif size == 0:
            yield Wait.R
            connection.consume_input()
        else:
            while result := connection.get_result():
                if result.status != ExecStatus.COMMAND_OK:
                    raise error_from_result(result)
            return False
    return True


def _shown(value: Any, column: Column) -> ColumnElement[Any]:
    """As `cell` writes it: Y and N, and no text that could begin a formula."""
    if column.type == "boolean":
        return case((value, "Y"), (~value, "N")).label(column.name)
    if column.typed:
        return case((value.is_(None), null()), (value.regexp_match(SAFE_PATTERN), value), else_=OTHER).label(
            column.name
        )
    labelled: ColumnElement[Any] = value
    return labelled
