"""Common table expressions that hide the clinical tables, so that a SELECT shows rows as they were (`as_at`)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    CTE,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    FromClause,
    MetaData,
    Table,
    and_,
    cast,
    column,
    exists,
    func,
    literal,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.audit import plain
from app.models.base import table_of
from app.models.outcome import Outcome, OutcomeScore
from app.models.voided import counts
from app.privacy.fields import FIELDS, FieldClass

_REFERENCES = frozenset({"id", "visit_id", "outcome_id", "session_id", "protocol_version_id", "voided_at"})
_NEVER_READ = frozenset({FieldClass.sensitive, FieldClass.free_text, FieldClass.operational})


class OldRows(NamedTuple):
    """The rows of a table that were written after the moment."""

    key: Sequence[str]
    rows: Iterable[tuple[Mapping[str, Any], bool]]
    """Each row as it was, and whether it existed. Of one that did not exist, only the key is given."""


class TablesAsAt:
    """A common table expression for each table, with its name: the old rows, and all rows with other keys."""

    def __init__(self, dialect: Dialect, schema: str, old: Mapping[Table, OldRows]) -> None:
        self._dialect, self._schema = dialect, schema
        self._keys = {table: one.key for table, one in old.items()}
        self.touched = 0
        """Old rows of all tables."""
        self._was = {table: self._unpacked(table, one.rows) for table, one in old.items()}
        self._made: dict[FromClause | None, list[CTE]] = {}

    def of(self, people: FromClause | None) -> list[CTE]:
        """The expressions, with all changed rows and the unchanged rows of these people (site_id and pid; None: of
        all)."""
        if people not in self._made:
            tables = [self._as_at(table, was, people) for table, was in self._was.items()]
            self._made[people] = [*self._was.values(), *tables]
        return self._made[people]

    def _as_at(self, table: Table, was: CTE, people: FromClause | None) -> CTE:
        live, names = self._live(table), [one.name for one in _shown(table)]
        as_it_is = select(live).where(self._untouched(live, was, self._keys[table]))
        again = select(*(was.c[name] for name in names)).where(was.c.was_there)
        if "voided_at" in live.c:  # voided rows are never in an extract; without them the partial index can be used
            as_it_is = as_it_is.where(counts(live))
        if people is not None:
            as_it_is = as_it_is.where(*self._belong(live, table, people))
        return union_all(as_it_is, again).cte(table.name).prefix_with("NOT MATERIALIZED", dialect="postgresql")

    def _untouched(self, live: Table, was: CTE, key: Sequence[str]) -> ColumnElement[bool]:
        if self._dialect.name == "postgresql":
            return ~exists().where(_same(was, live, *key))
        # SQLite builds an index for a list of single values, but not for EXISTS, a join or pairs.
        one, other = (func.printf("%s/%s", *(table.c[name] for name in key)) for table in (live, was))
        return one.not_in(select(other))

    def _belong(self, live: Table, table: Table, people: FromClause) -> list[ColumnElement[bool]]:
        if table is not table_of(OutcomeScore):
            return [_same(people, live, "site_id", "pid")]
        owner = self._live(table_of(Outcome))
        # "+ 0" keeps SQLite from using the site's index, by which it reads all scores of the site for each person.
        of_owner = (live.c.site_id == owner.c.site_id + 0) & (live.c.outcome_id == owner.c.id)
        return [_same(people, owner, "site_id", "pid"), of_owner]

    def _live(self, table: Table) -> Table:
        return Table(
            table.name, MetaData(), *(Column(one.name, one.type) for one in _shown(table)), schema=self._schema
        )

    def _unpacked(self, table: Table, rows: Iterable[tuple[Mapping[str, Any], bool]]) -> CTE:
        earlier = [{**row, "was_there": there} for row, there in rows]
        self.touched += len(earlier)
        return records(self._dialect, f"was_{table.name}", [*_shown(table), Column("was_there", Boolean)], earlier)


def records(dialect: Dialect, name: str, columns: Iterable[Column[Any]], rows: Iterable[Mapping[str, Any]]) -> CTE:
    """Rows sent to the database as one JSON parameter, however many they are. Columns that a row lacks are NULL."""
    carried = [Column(one.name, one.type) for one in columns]
    text = json.dumps([{one.name: _stored(dialect, one, row.get(one.name)) for one in carried} for row in rows])
    table = select(*_columns(dialect, text, carried)).cte(name).prefix_with("MATERIALIZED", dialect="sqlite")
    return table.prefix_with("NOT MATERIALIZED", dialect="postgresql")  # or PostgreSQL could not read it in parallel


def _columns(dialect: Dialect, text: str, carried: Sequence[Column[Any]]) -> list[Any]:
    if dialect.name == "postgresql":
        sent: FromClause = (
            func.jsonb_to_recordset(cast(literal(text), JSONB))
            .table_valued(*(column(one.name, one.type) for one in carried))
            .render_derived(with_types=True)
        )
        return list(sent.c)
    rows = func.json_each(literal(text)).table_valued("value")
    values = ((one, func.json_extract(rows.c.value, f"$.{one.name}")) for one in carried)
    return [type_coerce(value, one.type).label(one.name) for one, value in values]


def _stored(dialect: Dialect, one: Column[Any], value: Any) -> Any:
    """A value as JSON, which the database converts to the column's type."""
    if dialect.name == "postgresql" or value is None:
        return plain(value)
    processor = one.type.dialect_impl(dialect).bind_processor(dialect)
    return processor(value) if processor is not None else value


def _shown(table: Table) -> list[Column[Any]]:
    return [one for one in table.columns if FIELDS[table.name][one.name] not in _NEVER_READ or one.name in _REFERENCES]


def _same(one: FromClause, other: FromClause, *names: str) -> ColumnElement[bool]:
    return and_(*(one.c[name] == other.c[name] for name in names))
