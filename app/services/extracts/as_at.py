"""The clinical rows as they were at an earlier moment, for the statements of extracts.

A moment is a set of chain heads: for each site the number of the last entry of its audit chain. Chains are in commit
order, so every entry after a head was committed later, however long its transaction was open. `as_at` undoes those
entries: it adds to every SELECT of a session common table expressions with the names of the tables, which hide the
tables themselves. They show unchanged rows as they are, and rows changed since with the old values from the audit
trail. docs/decisions/0016 says why nothing is copied.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter
from sqlalchemy import FromClause, Row, Select, event, func, select
from sqlalchemy.orm import ORMExecuteState
from sqlmodel import Session, SQLModel, col

from app.audit import JSON_TEXT
from app.models.adverse_event import AdverseEvent
from app.models.audit import AuditEntry
from app.models.base import canonical_json, table_of
from app.models.dosing_session import Dose, DosingSession
from app.models.outcome import Outcome, OutcomeOrigin, OutcomeScore
from app.models.participant import Participant
from app.models.visit import Visit
from app.protocol.instruments import instrument
from app.services.extracts.as_at_tables import OldRows, TablesAsAt
from app.services.trail.changes import chain_heads

Heads = Mapping[int, int]
_KEYS: Mapping[type[SQLModel], str] = {
    Participant: "pid",
    Visit: "id",
    Outcome: "id",
    AdverseEvent: "id",
    DosingSession: "id",
    Dose: "id",
}
_SCORE = "scores."
_TABLES = "registry_as_at"
S = TypeVar("S", bound=Select[*tuple[Any, ...]])


class Touched(NamedTuple):
    """A row that was written after the moment; `row` is None if it did not exist yet."""

    site_id: int
    key: str
    row: dict[str, Any] | None
    scores: list[dict[str, Any]]


def heads_of(session: Session, site_ids: Sequence[int]) -> dict[int, int]:
    """The heads of these sites' chains, read by one statement and so of one moment; 0 for a site without a chain."""
    return {**dict.fromkeys(site_ids, 0), **chain_heads(session, site_ids)}


def written(heads: Heads) -> str:
    """Heads as text, to be stored."""
    return canonical_json({str(site_id): seq for site_id, seq in heads.items()})


def read(text: str) -> dict[int, int]:
    return {int(site_id): seq for site_id, seq in json.loads(text).items()}


@contextmanager
def as_at(session: Session, heads: Heads, site_ids: Iterable[int]) -> Iterator[None]:
    """In this block the session sees the clinical tables (`_KEYS`) and the scores of these sites as they were at this
    moment; a site that joined later is empty. It has no cost for other sessions."""
    later = _later(session, {site_id: heads.get(site_id, 0) for site_id in site_ids})
    if not later:
        yield
        return
    session.info[_TABLES] = _tables_as_at(session, later)
    event.listen(session, "do_orm_execute", _rewind)
    try:
        yield
    finally:
        event.remove(session, "do_orm_execute", _rewind)
        del session.info[_TABLES]


def consents_since(session: Session, heads: Heads) -> list[str]:
    """The consents that were recorded after this moment, as pid/version/number. Entries of older versions have no
    number."""
    found = []
    for site_id, seq in heads.items():
        later = (col(AuditEntry.site_id) == site_id, col(AuditEntry.seq) > seq)
        recorded = select(col(AuditEntry.changes)).where(*later, col(AuditEntry.action) == "consent:recorded")
        for (changes,) in session.execute(recorded):
            new = {"number": 1, **{one["field"]: one["new"] for one in json.loads(changes)}}  # older ones have none
            found.append(f"{new['pid']}/{new['version']}/{new['number']}")
    return found


def touched(session: Session) -> int:
    """The number of rows that were written after the moment."""
    tables: TablesAsAt | None = session.info.get(_TABLES)
    return 0 if tables is None else tables.touched


def rewound(session: Session, statement: S, people: FromClause | None = None) -> S:
    """A statement that is not executed by the session itself, with the common table expressions added. `people`
    (site_id and pid) says that the statement shows only these, so that the tables are read for them only."""
    tables: TablesAsAt | None = session.info.get(_TABLES)
    return statement if tables is None else statement.add_cte(*tables.of(people))


def _rewind(state: ORMExecuteState) -> None:
    if isinstance(state.statement, Select):
        state.statement = rewound(state.session, state.statement)  # type: ignore[arg-type]


_Later = dict[str, dict[tuple[int, str], list[dict[str, Any]]]]


def _later(session: Session, heads: Heads) -> _Later:
    """The changes after the moment: by table and record, newest first, the old values of the fields of each entry."""
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
    """A record with its old values restored, entry by entry. An entry whose changes include the key created the
    record."""
    values, key = dict(row._mapping), _KEYS[model]
    scores = {}
    for old in undo:
        if key in old:
            return Touched(*one, None, [])
        for field, value in old.items():
            if field.startswith(_SCORE):
                scores[field.removeprefix(_SCORE)] = value
            elif field in values:
                values[field] = _typed(model, field, value)
    return Touched(*one, values, _scores(session, values, scores) if model is Outcome else [])


def _typed(model: type[SQLModel], field: str, value: Any) -> Any:
    """A value of the audit trail as the column stores it."""
    if value is not None and field in JSON_TEXT:
        return canonical_json(value)
    return _adapter(model, field).validate_python(value)


@cache
def _adapter(model: type[SQLModel], field: str) -> TypeAdapter[Any]:
    kind: Any = model.model_fields[field].annotation
    return TypeAdapter(kind)


def _scores(session: Session, outcome: Mapping[str, Any], old: Mapping[str, float | None]) -> list[dict[str, Any]]:
    """The scores of an outcome with their old values from the audit trail, named and banded by its instrument."""
    definition = instrument(outcome["instrument"], outcome["instrument_version"])
    score = table_of(OutcomeScore).c
    mine = (score.site_id == outcome["site_id"], score.outcome_id == outcome["id"])
    live = session.execute(select(score.name, score.value).where(*mine))
    values = {row.name: row.value for row in live} | dict(old)
    names = [rule.name for rule in definition.scores]
    if outcome["origin"] == OutcomeOrigin.historical_total:
        names = [name for name in names if values.get(name) is not None]
    return [
        {
            "site_id": outcome["site_id"],
            "outcome_id": outcome["id"],
            "name": name,
            "value": values.get(name),
            "band": _band(definition, name, values.get(name)),
        }
        for name in names
    ]


def _band(definition: Any, name: str, value: float | None) -> str | None:
    band: str | None = definition.rule(name).band(value) if value is not None else None
    return band


def _tables_as_at(session: Session, later: _Later) -> TablesAsAt:
    dialect = session.get_bind().dialect
    schema = "main" if dialect.name == "sqlite" else session.execute(select(func.current_schema())).scalar_one()
    touched = {model: _undone(session, model, later.get(table_of(model).name, {})) for model in _KEYS}
    old = {table_of(model): OldRows(("site_id", key), _old(model, key, touched[model])) for model, key in _KEYS.items()}
    scores = [(row, True) for one in touched[Outcome] for row in one.scores]
    gone = [({"site_id": one.site_id, "outcome_id": _typed(Outcome, "id", one.key)}, False) for one in touched[Outcome]]
    old[table_of(OutcomeScore)] = OldRows(("site_id", "outcome_id"), [*gone, *scores])
    return TablesAsAt(dialect, schema, old)


def _old(model: type[SQLModel], key: str, touched: Iterable[Touched]) -> Iterator[tuple[dict[str, Any], bool]]:
    for one in touched:
        yield {"site_id": one.site_id, key: _typed(model, key, one.key), **(one.row or {})}, one.row is not None
