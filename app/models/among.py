"""`column IN (these values)` with all values as one parameter, so that the statement's text is the same for one of them
and for a thousand: it is made, compiled and planned once."""

import json
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, BindParameter, ColumnElement, Dialect, Text, TypeDecorator, bindparam
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.visitors import InternalTraversal
from sqlalchemy.types import Boolean, TypeEngine


class Several(TypeDecorator[Any]):
    """A list: an array on PostgreSQL, JSON on SQLite."""

    impl = Text
    cache_ok = True

    def __init__(self, item: TypeEngine[Any]) -> None:
        super().__init__()
        self.item = item

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(ARRAY(self.item) if dialect.name == "postgresql" else Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return json.dumps([one.hex if isinstance(one, UUID) else one for one in value])


def several(name: str, item: TypeEngine[Any]) -> BindParameter[Any]:
    """The parameter of this name, a list of such items."""
    return bindparam(name, type_=Several(item))


class among(ColumnElement[bool]):  # noqa: N801 - reads as an operator in statements
    """Whether a column's value is one of those that are given under a name, now or when the statement is executed.

    `unseen`: PostgreSQL's planner does not see the values and guesses that there are ten. So the plan is the same for
    any of them, and it is kept, where it would be made again for each execution."""

    inherit_cache = True
    _traverse_internals = [
        ("column", InternalTraversal.dp_clauseelement),
        ("values", InternalTraversal.dp_clauseelement),
        ("unseen", InternalTraversal.dp_boolean),
    ]
    type = Boolean()

    def __init__(self, column: Any, name: str, values: Sequence[Any] | None = None, *, unseen: bool = False) -> None:
        self.column, self.unseen = column, unseen
        self.values: BindParameter[Any] = bindparam(name, values, type_=Several(column.type))

    def self_group(self, against: Any = None) -> ColumnElement[bool]:  # noqa: ARG002 - SQLAlchemy's signature
        """Itself. SQLAlchemy would compare it with 1 for SQLite, which has no truth values: then no index serves."""
        return self


@compiles(among, "postgresql")
def _on_postgresql(element: among, compiler: Any, **options: Any) -> str:
    values = compiler.process(element.values, **options)
    if element.unseen:
        values = f"(SELECT {values})::{compiler.dialect.type_compiler_instance.process(element.values.type)}"
    return f"{compiler.process(element.column, **options)} = ANY({values})"


@compiles(among, "sqlite")
def _on_sqlite(element: among, compiler: Any, **options: Any) -> str:
    values = compiler.process(element.values, **options)
    return f"{compiler.process(element.column, **options)} IN (SELECT value FROM json_each({values}))"  # noqa: S608 - a column of the metadata
