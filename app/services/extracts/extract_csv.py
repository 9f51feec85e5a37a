"""A statement's rows as CSV in the profile's form. The database writes the text, and the cells never become Python
objects: PostgreSQL by COPY, SQLite by an expression that prints the cells of a row.

PostgreSQL runs a statement on several processors by itself. SQLite does not, so there the people are divided into
stretches, of which as many are read at once as there are sessions."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import psycopg
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus
from psycopg.waiting import Ready, Wait
from sqlalchemy import ColumnElement, FromClause, Integer, case, cast, func, null, select
from sqlmodel import Session

from app.access import Rows
from app.errors import DatabaseUnavailable
from app.privacy import bundle
from app.privacy.profile import SAFE_GLOB, SAFE_PATTERN, UNSAFE_GLOB, Column
from app.privacy.quasi import OTHER
from app.services.extracts import as_at
from app.services.extracts.reading import Pieces, Readers

_PART = 1 << 18


class Stretches(NamedTuple):
    """The people of a statement, divided into parts."""

    people: FromClause
    """Those of one stretch, by site_id and pid."""

    ends: Sequence[Mapping[str, str]]
    """The parameters of each stretch."""


def parts(readers: Readers, columns: Sequence[Column], statement: Rows, stretches: Stretches | None = None) -> Pieces:
    """The header and the rows, on SQLite those of each stretch, in pieces that end with a line. Raises UnsafeText,
    DatabaseUnavailable."""
    assert [column.name for column in statement.selected_columns] == [column.name for column in columns]
    yield bundle.header(columns)
    typed = any(column.typed for column in columns)
    if stretches is None:
        written = _copied(readers.sessions[0], columns, statement)
    else:
        written = _in_stretches(readers, _printed(columns, statement), stretches)
    with closing(written):  # an unfinished COPY occupies its connection, and a rollback waits for it
        for part in written:
            if not typed:  # else the database has checked each cell
                bundle.require_no_formula(part)
            yield part


def _printed(columns: Sequence[Column], statement: Rows) -> Rows:
    """The lines of a statement, as SQLite prints them."""
    told = zip(statement.selected_columns, columns, strict=True)
    cells = [_quoted(_shown(one, column, _globbed), column) for one, column in told]
    line = func.printf(",".join(["%s"] * len(cells)) + "\n", *cells)  # NULL is printed as nothing
    return statement.with_only_columns(line.label("line"), maintain_column_froms=True)


def _in_stretches(readers: Readers, printed: Rows, stretches: Stretches) -> Pieces:
    """One value for each stretch, with its lines in the order of the statement: SQLite keeps the order of a subquery
    under every aggregate but count, min and max (its optimizer overview, section 15). With a value for each line, the
    parallel readers would wait for Python's global lock at each line."""
    joined = select(func.group_concat(printed.subquery().c.line, ""))

    def lines(session: Session, ends: Mapping[str, str]) -> bytes:
        query = as_at.rewound(session, joined, stretches.people)
        return (session.connection().execute(query, ends).scalar() or "").encode()

    return readers.in_order(lines, stretches.ends)


def _globbed(value: Any) -> ColumnElement[bool]:
    """SAFE_TEXT as GLOB patterns of SQLite: a regular expression would call a Python function for each cell."""
    text: ColumnElement[Any] = value
    like, unlike = (text.bool_op(word) for word in ("GLOB", "NOT GLOB"))
    return like(SAFE_GLOB) & unlike(UNSAFE_GLOB) & (func.instr(text, func.char(0)) == 0)


def _quoted(value: ColumnElement[Any], column: Column) -> ColumnElement[Any]:
    """A cell as COPY writes it. Only what somebody typed can hold a comma, and nothing holds a quotation mark."""
    if column.type == "number":
        whole = cast(value, Integer)
        value = case((value == whole, whole), (value.is_not(None), func.shortest(value)))
    elif column.typed:
        value = case((func.instr(value, ",") > 0, func.printf('"%s"', value)), else_=value)
    return value


def _copied(session: Session, columns: Sequence[Column], statement: Rows) -> Pieces:
    told = zip(statement.selected_columns, columns, strict=True)
    shown = [_shown(one, column, _matched) for one, column in told]
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


def _matched(value: Any) -> ColumnElement[bool]:
    """SAFE_TEXT as a regular expression of PostgreSQL."""
    matched: ColumnElement[bool] = value.regexp_match(SAFE_PATTERN)
    return matched


def _filled(connection: psycopg.pq.abc.PGconn, waiting: bytearray) -> Generator[Wait, Ready, bool]:
    """Read rows until there are enough; False if these were the last. Like psycopg's own `Copy.read`, which gives one
    row a call: for a million rows that takes longer than everything else together."""
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


def _shown(value: Any, column: Column, clean: Callable[[Any], ColumnElement[bool]]) -> ColumnElement[Any]:
    """A cell in the form of `cell`: Y and N, and no text that a spreadsheet could read as a formula."""
    if column.type == "boolean":
        return case((value, "Y"), (~value, "N")).label(column.name)
    if column.typed:
        return case((value.is_(None), null()), (clean(value), value), else_=OTHER).label(column.name)
    labelled: ColumnElement[Any] = value
    return labelled
