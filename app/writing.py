"""The one write path of new records: rows, audit entries and the answers stored for retries, in one statement.

On PostgreSQL every statement is a round trip, so everything is sent at once, the rows of each table as one JSON
parameter. SQLite has no round trips and gets an INSERT for each table. Both are generated from the tables' metadata, so
a new table needs nothing here. The head of the audit chain is locked last, after the rows are inserted. PostgreSQL
checks foreign keys only after that, so lock a referenced row that others may change (a participant, a visit) before.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, Self

from pydantic_core import to_json
from sqlalchemy import Table, insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel

from app import audit
from app.models.base import now, table_of, utc_text
from app.models.idempotency import IdempotencyRecord

_RECORDS = table_of(IdempotencyRecord)
_ORDER: Mapping[Table, int] = {table: place for place, table in enumerate(SQLModel.metadata.sorted_tables)}


class Writes:
    """What a request is going to store, collected before anything is written."""

    def __init__(self) -> None:
        self.rows: dict[Table, list[Mapping[str, Any]]] = defaultdict(list)
        self.told: dict[int, list[audit.Told]] = defaultdict(list)
        self.answers: list[Mapping[str, Any]] = []
        """Rows of IdempotencyRecord: the answers stored for retries."""

    def add(self, model: type[SQLModel], *rows: Mapping[str, Any]) -> None:
        """New rows, with all of their columns."""
        if rows:
            self.rows[table_of(model)] += rows

    def remember(self, actor: object, site_id: int, *events: audit.Event) -> None:
        """Add events to the site's audit chain."""
        self.told[site_id] += audit.told(actor, events)

    def __iadd__(self, other: "Writes") -> Self:
        for table, rows in other.rows.items():
            self.rows[table] += rows
        for site_id, told in other.told.items():
            self.told[site_id] += told
        self.answers += other.answers
        return self


def store(session: Session, writes: Writes) -> bool:
    """Store everything and give True; or False if one of the answers exists already: then the caller must not commit.
    Raises what the database raises."""
    session.flush()
    if session.get_bind().dialect.name == "postgresql":
        return _in_one_statement(session, writes)
    answers = writes.answers
    if answers and session.connection().execute(_CLAIM, answers).rowcount != len(answers):
        return False
    for table in sorted(writes.rows, key=_ORDER.__getitem__):
        session.connection().execute(_insert(table), writes.rows[table])
    for site_id in sorted(writes.told):
        audit.append_told(session, site_id, writes.told[site_id])
    return True


_CLAIM = sqlite.insert(_RECORDS).on_conflict_do_nothing()


def upsert(session: Session, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT of the session's dialect, which can have an ON CONFLICT clause."""
    on_postgresql = session.get_bind().dialect.name == "postgresql"
    return postgresql.insert(table) if on_postgresql else sqlite.insert(table)


@cache
def _insert(table: Table) -> Any:
    return insert(table)


def _in_one_statement(session: Session, writes: Writes) -> bool:
    tables = tuple(sorted(writes.rows, key=_ORDER.__getitem__))
    chains = [{"chain": site_id, "events": told} for site_id, told in writes.told.items()]
    in_order = sorted(writes.answers, key=itemgetter("account_id", "key_digest"))  # so that no two deadlock
    given = [_json(in_order), len(in_order), *(_json(writes.rows[table]) for table in tables)]
    given += [utc_text(now()), _json(chains)]
    statement = _statement(tables)
    return bool(session.connection().exec_driver_sql(statement, tuple(given)).scalar_one())


def _json(rows: Sequence[Mapping[str, Any]]) -> str:
    return to_json(rows).decode()


@cache
def _statement(tables: tuple[Table, ...]) -> str:
    """One INSERT for the answers; if none of them existed, one for each table; then the audit chains, always in the
    same order. `audit_append` takes the number of inserted rows, so that they are inserted before it locks a head."""
    parts = [
        f"WITH claimed AS ({_insert_json(_RECORDS)} ON CONFLICT DO NOTHING RETURNING 1)",
        "fresh AS (SELECT count(*) = %s AS whole FROM claimed)",
        *(f"new_{table.name} AS ({_insert_json(table)}, fresh WHERE whole RETURNING 1)" for table in tables),
    ]
    rows = " + ".join(["0", *(f"(SELECT count(*) FROM new_{table.name})" for table in tables)])
    parts.append(f"stored AS MATERIALIZED (SELECT whole, {rows} AS rows FROM fresh)")
    chains = "(SELECT * FROM json_to_recordset(%s) AS sent(chain integer, events json) ORDER BY chain) AS one"
    appended = f"(SELECT count(audit_append(one.chain, %s, NULL, one.events, stored.rows)) FROM {chains} WHERE whole)"
    return f"{', '.join(parts)} SELECT whole, {appended} FROM stored"


def _insert_json(table: Table) -> str:
    names = ", ".join(f'"{column.name}"' for column in table.columns)
    return f"INSERT INTO {table.name} ({names}) SELECT {names} FROM json_populate_recordset(NULL::{table.name}, %s)"
