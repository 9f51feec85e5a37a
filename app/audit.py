"""The audit trail: entries are appended in the transaction of the write, and can be verified. Canonical form:
docs/audit.md.

Each site has a hash chain of its own, so that sites do not wait for each other; a transaction locks its head last.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Text, bindparam, func, insert, select, type_coerce, update
from sqlalchemy.dialects import sqlite
from sqlmodel import Session, SQLModel

from app.models.audit import AuditChain, AuditEntry
from app.models.base import canonical_json, from_json, now, table_of, utc_text, values
from app.request_id import current_request_id

_ENTRIES, _CHAINS = table_of(AuditEntry), table_of(AuditChain)
GENESIS = "0" * 64
SYSTEM = "system"
_ID_LENGTH = 64
_HASHED = (
    "site_id",
    "seq",
    "at",
    "actor",
    "action",
    "subject_type",
    "subject_id",
    "subject_version",
    "changes",
    "reason",
    "request_id",
)
COLUMNS = frozenset({*_HASHED, "previous_hash", "hash"})
"""The fields of an exported entry."""

_NEVER = frozenset(
    {"password_hash", "digest", "blind_index", "wrapped_key", "ciphertext", "kek_id", "sealed", "address"}
)
"""Columns whose values are secrets or identifiers (the address of a webhook may contain a key): no audit entry may
contain them."""

JSON_TEXT = frozenset(
    {
        "answers",
        "because",
        "codings",
        "confirmations",
        "definition",
        "discharge",
        "earlier_ends",
        "event_types",
        "findings",
        "formats",
        "heads",
        "items",
        "measured",
        "medications",
        "scopes",
        "staff",
        "unmet",
        "unmet_criteria",
    }
)
_BOOKKEEPING = frozenset({"recorded_at", "recorded_by", "created_at", "updated_at", "created_by", "version", "site_id"})
"""Columns left out because the entry itself has their content: its time, actor, version and chain."""

_FACTS = frozenset({"consent.version", "protocol_version.version", "role_grant.site_id"})
"""Columns with a name of `_BOOKKEEPING` but other content, which are therefore recorded."""


@dataclass(frozen=True)
class Event:
    """One action to record: what was done to which record, with the fields that changed."""

    action: str
    subject_type: str
    subject_id: str
    version: int
    changes: list[dict[str, Any]]
    reason: str | None = None


def created(action: str, row: SQLModel, subject_id: object, reason: str | None = None) -> Event:
    """The event of a new row: every field with its first value."""
    return changed(action, row, subject_id, 1, {}, reason)


def recorded(action: str, model: type[SQLModel], row: Mapping[str, Any], subject_id: object) -> Event:
    """The event of a new row given as a dict."""
    table = table_of(model).name
    return event(action, table, subject_id, 1, {}, remembered(table, row))


def changed(
    action: str,
    row: SQLModel,
    subject_id: object,
    version: int,
    before: Mapping[str, Any],
    reason: str | None,
    after: Mapping[str, Any] | None = None,
) -> Event:
    """The event of a change: the fields that differ between `before` and `after` (default: the row as it is now)."""
    after = snapshot(row) if after is None else after
    return event(action, table_of(type(row)).name, subject_id, version, before, after, reason)


def event(
    action: str,
    subject_type: str,
    subject_id: object,
    version: int,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    reason: str | None = None,
) -> Event:
    """An event with the fields that differ between two snapshots."""
    changes = [
        {"field": name, "new": new, "old": old}
        for name in sorted(before.keys() | after.keys())
        if (old := before.get(name)) != (new := after.get(name))
    ]
    return Event(action, subject_type, fitting(str(subject_id)), version, changes, reason)


def fitting(subject_id: str) -> str:
    """The id as an entry stores it. An id made of two codes can be too long for the column: it is then truncated and a
    hash of the whole id added. The codes themselves are among the changes."""
    if len(subject_id) <= _ID_LENGTH:
        return subject_id
    return f"{subject_id[: _ID_LENGTH - 17]}~{hashlib.sha256(subject_id.encode()).hexdigest()[:16]}"


def snapshot(row: SQLModel) -> dict[str, Any]:
    """The recorded fields of a row as plain JSON values."""
    return remembered(table_of(type(row)).name, values(row))


def remembered(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a row given as a dict."""
    left_out = _left_out(table)
    return {
        name: from_json(value) if name in JSON_TEXT and value is not None else plain(value)
        for name, value in row.items()
        if name not in left_out
    }


@cache
def _left_out(table: str) -> frozenset[str]:
    return _NEVER.union(name for name in _BOOKKEEPING if f"{table}.{name}" not in _FACTS)


_OF_JSON = frozenset({type(None), bool, float, int, str})


def plain(value: Any) -> Any:
    """A column's value in JSON, in a form that is the same on both databases."""
    if type(value) in _OF_JSON:
        return value
    if isinstance(value, datetime):
        return utc_text(value)
    if isinstance(value, str | date | UUID):  # a str that is not merely one: a code of an enumeration
        return str(value)
    return value


Told = dict[str, Any]
"""The content of an entry: the columns that an event gives, its actor and its request id."""


def told(actor: object, events: Iterable[Event]) -> list[Told]:
    """What the entries of these events say, in the JSON form that PostgreSQL's function `audit_append` takes."""
    who, request_id = str(actor), current_request_id()
    return [
        {
            "actor": who,
            "action": event.action,
            "subject_type": event.subject_type,
            "subject_id": event.subject_id,
            "subject_version": event.version,
            "changes": canonical_json(event.changes),
            "reason": event.reason,
            "request_id": request_id,
        }
        for event in events
    ]


def append(
    session: Session, actor: UUID | str, site_id: int, events: Iterable[Event], at: datetime | None = None
) -> None:
    """Add events to a site's chain (or REGISTRY_CHAIN), in the caller's transaction. Call it last: it locks the
    chain's head until the commit. `at` is given where a rule counts from the moment of the entry."""
    append_told(session, site_id, told(actor, events), at)


def append_told(session: Session, site_id: int, told: Sequence[Told], at: datetime | None = None) -> None:
    """`append` for the events of several actors. On PostgreSQL it is one call of a function."""
    at = at or now()
    if session.get_bind().dialect.name == "postgresql":
        given = (site_id, utc_text(at), None, json.dumps(told), 0)
        session.connection().exec_driver_sql("SELECT audit_append(%s, %s, %s, %s, %s)", given)
        return
    head, previous = _head(session, site_id)
    rows: list[dict[str, Any]] = []
    for seq, one in enumerate(told, start=head + 1):
        row = _entry(site_id, seq, previous, one, at)
        previous = row["hash"]
        rows.append(row)
    connection = session.connection()
    connection.execute(_INSERT_ENTRIES, rows)
    connection.execute(_MOVE_HEAD, {"chain": site_id, "seq": head + len(rows), "hash": previous})


def _entry(site_id: int, seq: int, previous: str, told: Told, at: datetime) -> dict[str, Any]:
    row = {"site_id": site_id, "seq": seq, "at": at, **told, "previous_hash": previous}
    return {**row, "hash": entry_hash(row)}


_INSERT_ENTRIES = insert(_ENTRIES)
_START_CHAIN = sqlite.insert(_CHAINS).values(seq=0, hash=GENESIS).on_conflict_do_nothing()
_HEAD = select(_CHAINS.c.seq, _CHAINS.c.hash).where(_CHAINS.c.site_id == bindparam("site_id"))
_MOVE_HEAD = update(_CHAINS).where(_CHAINS.c.site_id == bindparam("chain"))


def _head(session: Session, site_id: int) -> tuple[int, str]:
    """The number and hash of a chain's last entry, on SQLite, where the one writer needs no lock."""
    connection, chain = session.connection(), {"site_id": site_id}
    row = connection.execute(_HEAD, chain).first()
    if row is None:
        connection.execute(_START_CHAIN, chain)
        return 0, GENESIS
    return row.seq, row.hash


def entry_hash(row: Mapping[str, Any]) -> str:
    """SHA-256 over the previous hash, a line feed, and the canonical JSON of the entry."""
    entry = {name: plain(row[name]) for name in _HASHED}
    return hashlib.sha256(f"{row['previous_hash']}\n{canonical_json(entry)}".encode()).hexdigest()


class Head(NamedTuple):
    """The last entry of a chain, now or when a checkpoint was made."""

    seq: int
    hash: str


@dataclass(frozen=True)
class Verdict:
    """The result of verifying one chain: `fault` is None if it is intact, else it names the first bad entry."""

    site_id: int
    entries: int
    fault: str | None


def verify(session: Session, noted: Mapping[int, Head] | None = None) -> Iterator[Verdict]:
    """Verify every chain from its first entry to its head, and compare it with the heads of a checkpoint (`noted`)."""
    noted, standing = noted or {}, heads(session)
    listed = session.execute(select(_ENTRIES.c.site_id).distinct()).scalars()
    for site_id in sorted({*standing, *listed, *noted}):
        verdict = walk(site_id, entries(session, site_id), noted.get(site_id))
        yield verdict if verdict.fault else _against_head(session, verdict, standing.get(site_id))


def heads(session: Session) -> dict[int, Head]:
    """The head of every chain."""
    return {row.site_id: Head(row.seq, row.hash) for row in session.execute(select(_CHAINS))}


def entries(session: Session, site_id: int) -> Iterator[dict[str, Any]]:
    """The entries of one chain in order, in the plain JSON values that are hashed and exported. The database formats
    the times, as a manipulated one may be outside the range of Python's datetime."""
    at = _ENTRIES.c.at
    written = (
        func.replace(type_coerce(at, Text), " ", "T").concat("Z")
        if session.get_bind().dialect.name == "sqlite"
        else func.to_char(func.timezone("UTC", at), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    )
    wanted: list[Any] = [column if column is not at else written.label("at") for column in _ENTRIES.c]
    chain = select(*wanted).where(_ENTRIES.c.site_id == site_id).order_by(_ENTRIES.c.seq)
    with session.execute(chain.execution_options(yield_per=1000)) as rows:
        for row in rows:
            yield row._asdict()


def walk(site_id: int, chain: Iterable[Mapping[str, Any]], noted: Head | None = None) -> Verdict:
    """Verify one chain from its first entry. `noted` is its head at a checkpoint: if the chain is shorter, entries were
    deleted from its end; if the hash there differs, the chain was rewritten."""
    previous, count = GENESIS, 0
    for expected, entry in enumerate(chain, start=1):
        if entry["seq"] != expected:
            return Verdict(site_id, count, f"entry {expected} is missing")
        if entry["previous_hash"] != previous:
            return Verdict(site_id, count, f"entry {expected} does not follow entry {count}")
        if entry["hash"] != entry_hash(entry):
            return Verdict(site_id, count, f"entry {expected} was changed")
        previous, count = entry["hash"], expected
        if noted is not None and noted.seq == count and noted.hash != previous:
            return Verdict(site_id, count, f"entry {count} is not the one of the checkpoint: the chain was rewritten")
    if noted is not None and noted.seq > count:
        return Verdict(site_id, count, f"entry {count + 1} is missing: the checkpoint stands at entry {noted.seq}")
    return Verdict(site_id, count, None)


def _against_head(session: Session, verdict: Verdict, head: Head | None) -> Verdict:
    if head is None:
        return replace(verdict, fault="the chain's head is missing")
    last = select(_ENTRIES.c.hash).where(_ENTRIES.c.site_id == verdict.site_id, _ENTRIES.c.seq == verdict.entries)
    if head != (verdict.entries, session.execute(last).scalar() or GENESIS):
        fault = f"the head stands at entry {head.seq}, the entries end at {verdict.entries}"
        return replace(verdict, fault=fault)
    return verdict
