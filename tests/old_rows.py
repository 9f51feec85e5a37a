"""A row in every table of a database at an older revision: a small study with one participant, as it was then."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlmodel import Session, SQLModel

from app import audit
from app.models.audit import AuditChain, AuditEntry
from app.models.base import canonical_json, now, table_of
from app.pid import draw
from tests.world import definition, madrs

NOW = datetime(2025, 2, 1, 12, tzinfo=UTC)
DAY = date(2025, 1, 20)
FIRST = ("account", "study", "protocol_version", "site", "participant")
TRAIL = frozenset({"audit_entry", "audit_chain"})
GONE = {"extract_file": (sa.Column("content", sa.LargeBinary),)}
"""Columns that earlier revisions had."""

FILLED: Mapping[str, Mapping[str, Any]] = {
    "account": {"kind": "user", "login": lambda old: old.study, "grants_version": 1},
    "study": {"code": lambda old: old.study},
    "site": {"code": "S1", "timezone": "UTC"},
    "protocol_version": {"version": "1", "definition": lambda old: definition()},
    "participant": {
        "pid": lambda old: old.pid,
        "status": "enrolled",
        "age_at_consent": 41,
        "sex": "F",
        "eligible": True,
        "screened_on": DAY,
        "enrolled_on": DAY,
        "unmet_criteria": "[]",
        "findings": "[]",
    },
    "role_grant": {"role": "site_staff", "study_id": lambda old: old.of("study"), "site_id": lambda old: old.site_id},
    "consent": {"version": "1", "given_on": DAY, "scopes": '["main"]'},
    "visit": {
        "visit_code": "BL",
        "occurred_on": DAY,
        "status": "completed",
        "findings": "[]",
        "protocol_version_id": lambda old: old.of("protocol_version"),
    },
    "outcome": {
        "instrument": "MADRS",
        "items": lambda old: canonical_json(madrs(2)["items"]),
        "instrument_version": "1",
        "origin": "items",
    },
    "outcome_score": {"name": "total", "value": 20.0, "rule": "MADRS/1"},
    "adverse_event": {"severity": "mild", "codings": "[]", "findings": "[]", "onset": "2025-02"},
    "extract": {"profile": "deidentified", "status": "requested", "formats": '["csv"]'},
    "extract_file": {"content": b"kept", "bytes": 4, "build": UUID(int=0), "name": "visits.csv"},
    "extract_chunk": {"content": b"kept", "build": UUID(int=0), "start": 0, "name": "visits.csv"},
    "extract_subject": {"pid": lambda old: old.pid},
    "vault_identity": {"pid": lambda old: old.pid},
    "signature": {"meaning": "responsibility", "content_sha256": "0" * 64},
    "dosing_session": {"state": "open", "staff": "[]", "confirmations": "[]", "discharge": "[]", "medications": "[]"},
    "dose": {"kind": "initial", "given_mg": 80.0, "given_at": NOW, "findings": "[]"},
    "vital_reading": {"measured": "{}", "findings": "[]"},
    "withdrawal": {"scope": "contact"},
    "screening": {"answers": "{}", "unmet": "[]"},
    "treatment_trial": {"outcome": "none"},
    "therapy_session": {"mode": "video", "staff": "[]"},
    "safety_signal": {"severity": "low", "state": "open", "because": "[]", "outcome_id": lambda old: old.of("outcome")},
    "ae_review": {"kind": "acknowledged"},
    "sae_report": {"kind": "initial", "content": "{}"},
    "data_query": {
        "subject_type": "participant",
        "origin": "monitor",
        "state": "open",
        "opened_by": lambda old: old.of("account"),
    },
    "data_query_message": {"kind": "opened"},
    "data_lock": {
        "kind": "freeze",
        "scope": "site",
        "lifted_at": NOW,
        "lifting_reason": "over",
        "lifted_by": lambda old: old.of("account"),
    },
    "verification": {"subject_type": "participant", "result": "verified"},
    "subscription": {"kind": "email", "event_types": "[]"},
    "notification": {"type": "extract.ready", "subject_type": "extracts"},
    "delivery": {"state": "pending"},
    "sync_operation": {"state": "waiting"},
    "label_disclosure": {"ground": "safety", "status": "requested", "pid": lambda old: old.pid},
}
"""What a rule of the database, or a reader of the row, asks for. The rest is of the column's type."""


@dataclass
class Old:
    """What one revision's rows are called."""

    revision: str
    pid: str = field(default_factory=draw)
    keys: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def study(self) -> str:
        return f"of-{self.revision}"

    @property
    def site_id(self) -> int:
        return int(self.of("site"))

    def of(self, table: str, column: str = "id") -> Any:
        return self.keys[table][column]


def insert_rows(connection: sa.Connection, revision: str) -> Old:
    """Rows in every table that is there, and the trail's entries of the site and of the registry."""
    old, inspector = Old(revision), sa.inspect(connection)
    there = {
        name: {str(one["name"]) for one in columns} for (_, name), columns in inspector.get_multi_columns().items()
    }
    tables = [SQLModel.metadata.tables[name] for name in FIRST]
    tables += [table for table in SQLModel.metadata.sorted_tables if table.name not in FIRST]
    for table in tables:
        names = there.get(table.name, set())
        if names and table.name not in TRAIL:
            columns = [column for column in (*table.c, *GONE.get(table.name, ())) if column.name in names]
            values = dict(_values(old, table, columns))
            key = connection.execute(sa.insert(_plain(table.name, columns)).values(values).returning(*_key(columns)))
            old.keys[table.name] = {**values, **key.one()._asdict()}
    with Session(connection, join_transaction_mode="rollback_only") as session:
        for site_id in (0, old.site_id):
            remember(session, site_id, audit.Event("participant:created", "participant", old.pid, 1, []))
        session.commit()
    return old


def remember(session: Session, site_id: int, event: audit.Event) -> None:
    """Row by row, as before the database had a function for it (revision 0017)."""
    entries, chains = table_of(AuditEntry), table_of(AuditChain)
    if site_id not in audit.heads(session):
        session.execute(sa.insert(chains).values(site_id=site_id, seq=0, hash=audit.GENESIS))
    head = audit.heads(session)[site_id]
    row = audit._entry(site_id, head.seq + 1, head.hash, audit.told(audit.SYSTEM, [event])[0], now())
    session.execute(sa.insert(entries), [row])
    session.execute(sa.update(chains).where(chains.c.site_id == site_id).values(seq=row["seq"], hash=row["hash"]))


def _plain(name: str, columns: list[sa.Column[Any]]) -> sa.TableClause:
    """The table with the columns that it had."""
    return sa.table(name, *(sa.column(column.name, column.type) for column in columns))


def _key(columns: list[sa.Column[Any]]) -> Iterator[sa.ColumnClause[Any]]:
    """As far as the table had it then."""
    return (sa.column(column.name, column.type) for column in columns if column.primary_key)


def _values(old: Old, table: sa.Table, columns: list[sa.Column[Any]]) -> Iterator[tuple[str, Any]]:
    filled = FILLED.get(table.name, {})
    for column in columns:
        if column.name in filled:
            value = filled[column.name]
            yield column.name, value(old) if callable(value) else value
        elif table.name != "site" and column.name == "site_id" and not column.nullable:
            yield column.name, old.site_id
        elif column.foreign_keys and not column.nullable:
            (target, *_) = column.foreign_keys
            yield column.name, old.of(target.column.table.name, target.column.name)
        elif not column.nullable and not _counted(column):
            yield column.name, _any(old, getattr(column.type, "impl_instance", column.type))


def _any(old: Old, kind: sa.types.TypeEngine[Any]) -> Any:
    return next(make(old) for known, make in BY_TYPE if isinstance(kind, known))


def _counted(column: sa.Column[Any]) -> bool:
    return column.primary_key and column.name == "id" and isinstance(column.type, sa.Integer)


BY_TYPE: tuple[tuple[type, Callable[[Old], Any]], ...] = (
    (sa.Uuid, lambda old: uuid4()),
    (sa.Boolean, lambda old: False),
    (sa.Integer, lambda old: 1),
    (sa.Float, lambda old: 1.0),
    (sa.DateTime, lambda old: NOW),
    (sa.Date, lambda old: DAY),
    (sa.LargeBinary, lambda old: b"x"),
    (sa.String, lambda old: f"a{old.revision}"),
)
