"""Keys that are given to a statement as a table, and what is found for each of them.

For `IN (these keys)` PostgreSQL guesses how many rows there will be, and where one key changes the guess it plans the
statement again for each execution, which took longer than to run it. A key of two columns is worse: before version 17
it looks for each site with each participant. `for_each` names the plan, key by key, and so one plan is kept for all.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    CompoundSelect,
    FromClause,
    Select,
    bindparam,
    column,
    func,
    literal_column,
    select,
    true,
    type_coerce,
)
from sqlalchemy.types import TypeEngine


def given(dialect: str, name: str, **columns: TypeEngine[Any]) -> FromClause:
    """The rows that are given under this name when the statement is executed: dicts with these columns."""
    sent = bindparam(name, type_=JSON)
    if dialect == "postgresql":
        named = (column(one, of) for one, of in columns.items())
        return func.json_to_recordset(sent).table_valued(*named).render_derived(name, with_types=True)
    value = func.json_each(sent).table_valued("value").c.value
    return select(
        *(type_coerce(func.json_extract(value, f"$.{one}"), of).label(one) for one, of in columns.items())
    ).subquery(name)


def for_each(dialect: str, rows: FromClause, found: Select[Any] | CompoundSelect[Any]) -> Select[Any]:
    """What `found` finds for each of these rows, whose columns its conditions name."""
    if dialect != "postgresql":
        return select(*found.subquery().c)
    one = found.offset(literal_column("0")).lateral()  # an OFFSET keeps the planner from joining it in another way
    return select(*one.c).select_from(rows.join(one, true()))
