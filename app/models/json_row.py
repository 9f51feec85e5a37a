"""A row as the JSON text of its answer, written by the database: a page of a list then costs no object a row.

What it writes is what the answer's shape would (tests/test_lists.py holds one against the other).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Table, Text, TypeDecorator
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import TypeEngine

from app.models.base import Answer


class ShownPid(NamedTuple):
    """A pid as people write it."""

    column: Any


class StoredJson(NamedTuple):
    """A column that holds JSON text."""

    column: Any


def answer_fields(shape: type[Answer], table: Table, made: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an answer, for `json_row`: those that are `made`, and the columns of a table with a field's name.
    (The codes of study and site, which no table of participants' records has, are added where pages are read.)"""
    plain = sorted(shape.model_fields.keys() & table.c.keys() - made.keys())
    return {**{name: table.c[name] for name in plain}, **made}


class json_row(ColumnElement[str]):  # noqa: N801 - reads as a function in statements
    """An object of these fields: columns, `ShownPid`, `StoredJson`, or objects again. The name stands for them all in
    SQLAlchemy's cache of statements, so each list of fields has its own."""

    inherit_cache = True
    _traverse_internals = [("row_of", InternalTraversal.dp_string)]
    type = Text()

    def __init__(self, name: str, fields: Mapping[str, Any]) -> None:
        self.row_of, self.fields = name, fields  # called `name`, SQLAlchemy would take it for a column


@compiles(json_row, "postgresql")
def _on_postgresql(element: json_row, compiler: Any, **options: Any) -> str:
    return f"{_object('json_build_object', element.fields, compiler, options)}::text"


@compiles(json_row, "sqlite")
def _on_sqlite(element: json_row, compiler: Any, **options: Any) -> str:
    return _object("json_object", element.fields, compiler, options)


def _object(make: str, fields: Mapping[str, Any], compiler: Any, options: Mapping[str, Any]) -> str:
    members = (f"'{name}', {_value(make, field, compiler, options)}" for name, field in fields.items())
    return f"{make}({', '.join(members)})"


def _value(make: str, field: Any, compiler: Any, options: Mapping[str, Any]) -> str:
    if isinstance(field, Mapping):
        return _object(make, field, compiler, options)
    of = field.column if isinstance(field, ShownPid | StoredJson) else field
    column = compiler.process(of, **{**options, "within_columns_clause": False})
    if isinstance(field, ShownPid):
        return " || '-' || ".join(f"substr({column}, {start}, 4)" for start in (1, 5, 9))
    on_sqlite = make == "json_object"
    if isinstance(field, StoredJson):
        return f"json({column})" if on_sqlite else f"({column})::json"
    kind = field.type.impl_instance if isinstance(field.type, TypeDecorator) else field.type
    return _as_sqlite_stores(column, kind) if on_sqlite else _as_postgresql_stores(column, kind)


def _as_postgresql_stores(column: str, kind: TypeEngine[Any]) -> str:
    if kind.python_type is datetime:
        return f"""to_char({column} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
    return column


def _as_sqlite_stores(column: str, kind: TypeEngine[Any]) -> str:
    """Instants with a space and no zone, ids as 32 digits, truth as 0 and 1."""
    if kind.python_type is datetime:
        return f"replace({column}, ' ', 'T') || 'Z'"
    if kind.python_type is UUID:
        groups = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
        return " || '-' || ".join(f"substr({column}, {start}, {length})" for start, length in groups)
    if kind.python_type is bool:
        return f"json(CASE {column} WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE 'null' END)"
    return column
