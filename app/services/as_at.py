"""The clinical rows as they were at an earlier moment, for the statements of extracts.

A moment is a vector of chain heads: for each site the number of the last entry of its audit chain. Chains are in commit
order, so whatever lies behind a head was done later, however long its transaction had been open. `as_at` undoes just
that: it puts views in front of the tables, for one connection and one transaction, that show untouched rows as they are
and touched ones as the trail has them. docs/decisions/0016 says why nothing is copied.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from pydantic import TypeAdapter
from sqlalchemy import Boolean, Column, Connection, MetaData, Row, Table, and_, exists, select, union_all
from sqlalchemy.schema import CreateTable
from sqlmodel import Session, SQLModel, col

from app.audit import JSON_TEXT
from app.models.adverse_event import AdverseEvent
from app.models.audit import AuditChain, AuditEntry
from app.models.base import canonical_json, table_of
from app.models.outcome import Origin, Outcome, OutcomeScore
from app.models.participant import Participant
from app.models.visit import Visit
from app.protocol.instruments import instrument

Heads = Mapping[int, int]
_KEYS: Mapping[type[SQLModel], str] = {Participant: "pid", Visit: "id", Outcome: "id", AdverseEvent: "id"}
_SITE = ("site_id",)
_ITEM, _SCORE = "items.", "scores."


class Touched(NamedTuple):
    """A row that was written after the moment; `row` None: it was not there yet."""

    site_id: int
    key: str
    row: dict[str, Any] | None
    scores: list[dict[str, Any]]


def heads_of(session: Session, site_ids: Sequence[int]) -> dict[int, int]:
    """Where the chains of these sites stand. One statement, so it is one moment; a site without a chain stands at 0."""
    statement = select(col(AuditChain.site_id), col(AuditChain.seq)).where(col(AuditChain.site_id).in_(site_ids))
    standing = {row.site_id: row.seq for row in session.execute(statement)}
    return {site_id: standing.get(site_id, 0) for site_id in site_ids}


def written(heads: Heads) -> str:
    """As it is stored."""
    return canonical_json({str(site_id): seq for site_id, seq in heads.items()})


def read(text: str) -> dict[int, int]:
    return {int(site_id): seq for site_id, seq in json.loads(text).items()}


@contextmanager
def as_at(session: Session, heads: Heads) -> Iterator[None]:
    """In this block the four clinical tables and the scores show these sites as they were at this moment."""
    later = _later(session, heads)
    if not later:
        yield
        return
    connection = session.connection()
    is_sqlite = connection.dialect.name == "sqlite"
    schema = "main" if is_sqlite else str(connection.exec_driver_sql("SELECT current_schema()").scalar())
    temporary = "temp" if is_sqlite else "pg_temp"
    touched = {model: _undone(session, model, later.get(table_of(model).name, {})) for model in _KEYS}
    for model in _KEYS:
        _shadow(connection, schema, model, touched[model])
    _shadow_scores(connection, schema, touched[Outcome])
    yield
    for table in (*map(table_of, _KEYS), table_of(OutcomeScore)):
        name = connection.dialect.identifier_preparer.quote(table.name)
        connection.exec_driver_sql(f"DROP VIEW {temporary}.{name}")
        connection.exec_driver_sql(f"DROP TABLE {temporary}.was_{table.name}")


_Later = dict[str, dict[tuple[int, str], list[dict[str, Any]]]]


def _later(session: Session, heads: Heads) -> _Later:
    """What was done after the moment: by table and record, newest first, the fields that each entry changed."""
    entry, names = AuditEntry, [table_of(model).name for model in _KEYS]
    found: _Later = defaultdict(lambda: defaultdict(list))
    for site_id, seq in heads.items():
        statement = (
            select(col(entry.subject_type), col(entry.subject_id), col(entry.changes))
            .where(col(entry.site_id) == site_id, col(entry.seq) > seq, col(entry.subject_type).in_(names))
            .order_by(col(entry.seq).desc())
        )
        for kind, subject, changes in session.execute(statement):
            found[kind][site_id, subject].append({one["field"]: one["old"] for one in json.loads(changes)})
    return found


def _undone(
    session: Session, model: type[SQLModel], later: Mapping[tuple[int, str], list[dict[str, Any]]]
) -> list[Touched]:
    table, key = table_of(model), _KEYS[model]
    restored = []
    wanted = sorted(later)
    for start in range(0, len(wanted), 500):
        part = wanted[start : start + 500]
        keys = [_typed(model, key, subject) for _, subject in part]
        now_there = {
            (row.site_id, str(getattr(row, key))): row
            for row in session.execute(select(table).where(table.c[key].in_(keys)))
        }
        restored += [_restored(session, model, one, now_there[one], later[one]) for one in part if one in now_there]
    return restored


def _restored(
    session: Session, model: type[SQLModel], one: tuple[int, str], row: Row[Any], undo: list[dict[str, Any]]
) -> Touched:
    """A record with its old values put back, entry by entry. The entry that made it tells its key."""
    values, key = dict(row._mapping), _KEYS[model]
    items, scores = {}, {}
    for old in undo:
        if key in old:
            return Touched(*one, None, [])
        for field, value in old.items():
            if field.startswith(_ITEM):
                items[field.removeprefix(_ITEM)] = value
            elif field.startswith(_SCORE):
                scores[field.removeprefix(_SCORE)] = value
            elif field in values:
                values[field] = _typed(model, field, value)
    if model is Outcome:
        values["items"] = canonical_json({**json.loads(values["items"]), **items})
        return Touched(*one, values, _scores(session, values, scores))
    return Touched(*one, values, [])


def _typed(model: type[SQLModel], field: str, value: Any) -> Any:
    """A value of the trail as the column holds it."""
    if value is not None and field in JSON_TEXT:
        return canonical_json(value)
    return _adapter(model, field).validate_python(value)


@cache
def _adapter(model: type[SQLModel], field: str) -> TypeAdapter[Any]:
    kind: Any = model.model_fields[field].annotation
    return TypeAdapter(kind)


def _scores(session: Session, outcome: Mapping[str, Any], old: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """The scores of an outcome: the values that the trail gives back, under the names and bands of its instrument."""
    definition = instrument(outcome["instrument"], outcome["instrument_version"])
    score = table_of(OutcomeScore).c
    mine = (score.site_id == outcome["site_id"], score.outcome_id == outcome["id"])
    live = session.execute(select(score.name, score.value).where(*mine))
    values = {row.name: row.value for row in live} | dict(old)
    names = [rule.name for rule in definition.scores]
    if outcome["origin"] == Origin.historical_total:
        names = [name for name in names if values.get(name) is not None]
    return [
        {
            "site_id": outcome["site_id"],
            "outcome_id": outcome["id"],
            "name": name,
            "value": values.get(name),
            "band": _band(definition, name, values.get(name)),
            "rule": definition.key,
        }
        for name in names
    ]


def _band(definition: Any, name: str, value: float | None) -> str | None:
    band: str | None = definition.rule(name).band(value) if value is not None else None
    return band


def _shadow(connection: Connection, schema: str, model: type[SQLModel], touched: Sequence[Touched]) -> None:
    key = _KEYS[model]
    rows = [
        one.row or {"site_id": one.site_id, key: _typed(model, key, one.key)} | {"was_there": False} for one in touched
    ]
    rows = [{"was_there": True, **row} for row in rows]
    _view(connection, schema, table_of(model), (*_SITE, key), rows)


def _shadow_scores(connection: Connection, schema: str, touched: Sequence[Touched]) -> None:
    table = table_of(OutcomeScore)
    rows: list[dict[str, Any]] = []
    for one in touched:
        gone = {"site_id": one.site_id, "outcome_id": _typed(Outcome, "id", one.key), "was_there": False}
        rows += [gone, *({"was_there": True, **score} for score in one.scores)]
    _view(connection, schema, table, (*_SITE, "outcome_id"), rows)


def _view(
    connection: Connection, schema: str, table: Table, key: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> None:
    """A temporary view under the table's own name, which statements find first: rows whose key is among `rows` come
    from there, all others from the table."""
    copied = [Column(column.name, column.type) for column in table.columns]
    was = Table(f"was_{table.name}", MetaData(), *copied, Column("was_there", Boolean))
    create = str(CreateTable(was).compile(dialect=connection.dialect))
    connection.exec_driver_sql(create.replace("CREATE TABLE", "CREATE TEMPORARY TABLE"))
    if rows:
        names = [column.name for column in was.columns]
        connection.execute(was.insert(), [{name: row.get(name) for name in names} for row in rows])
    live = Table(table.name, MetaData(), *(Column(one.name, one.type) for one in table.columns), schema=schema)
    replaced = exists().where(and_(*(was.c[name] == live.c[name] for name in key)))
    shown = union_all(
        select(live).where(~replaced), select(*(was.c[column.name] for column in table.columns)).where(was.c.was_there)
    )
    text = shown.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    name = connection.dialect.identifier_preparer.quote(table.name)
    connection.exec_driver_sql(f"CREATE TEMPORARY VIEW {name} AS {text}")
