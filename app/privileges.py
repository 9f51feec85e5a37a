"""What the server does with the rows of each table: the one list, by which PostgreSQL's role and SQLite's wall go."""

import re
from collections.abc import Collection, Iterator, Mapping

_ADD, _KEEP, _CHANGE = "SELECT, INSERT", "SELECT, INSERT, UPDATE", "SELECT, INSERT, DELETE"
_ALL = "SELECT, INSERT, UPDATE, DELETE"
_ENTRY = "site_id, seq, at, actor, action, subject_type, subject_id, subject_version, changes, reason, request_id"
PRIVILEGES: Mapping[str, str] = {
    "account": _KEEP,
    "adverse_event": _KEEP,
    "ae_review": _ADD,
    "ae_review_withdrawal": _ADD,
    "alembic_version": "SELECT",
    "audit_chain": "SELECT, INSERT, UPDATE (seq, hash)",
    "audit_entry": f"SELECT, INSERT ({_ENTRY}, previous_hash, hash)",
    "client_secret": _KEEP,
    "consent": "SELECT, INSERT, UPDATE (given_on, scopes, data_sharing, voided_by, voided_at, voiding_reason)",
    "dose": _KEEP,
    "dosing_session": _KEEP,
    "data_query": _KEEP,
    "data_query_message": _ADD,
    "data_lock": "SELECT, INSERT, UPDATE (lifted_by, lifted_at, lifting_reason)",
    "delivery": _KEEP,
    "data_cut": _ADD,
    "extract": _KEEP,
    "extract_build": _ALL,
    "extract_chunk": _CHANGE,
    "extract_file": _CHANGE,
    "extract_subject": _ADD,
    "idempotency_record": _ALL,
    "label_disclosure": _KEEP,
    "notification": _ADD,
    "outcome": _KEEP,
    "outcome_score": _CHANGE,
    "participant": _KEEP,
    "pid_reservation": "SELECT, INSERT, UPDATE (closed_by, closed_at, closing_reason)",
    "protocol_version": _ADD,
    "refresh_token": _KEEP,
    "reserved_pid": _ADD,
    "revocation": _ALL,
    "role_grant": _KEEP,
    "sae_report": _ADD,
    "screening": _KEEP,
    "signature": _ADD,
    "safety_signal": _KEEP,
    "site": _ADD,
    "study": _ADD,
    "therapy_session": _ALL,
    "subscription": _KEEP,
    "sync_operation": _ALL,
    "throttle": _ALL,
    "totp": _ALL,
    "treatment_trial": _KEEP,
    "vault_identity": "SELECT, INSERT, DELETE",
    "verification": _ADD,
    "verification_withdrawal": _ADD,
    "visit": _KEEP,
    "withdrawal": "SELECT, INSERT, UPDATE (voided_by, voided_at, voiding_reason)",
    "vital_reading": _KEEP,
}
"""Table -> what the server does with its rows. A table that is not here is closed to it."""

_VERB = re.compile(r"([A-Z]+)(?: \((.+?)\))?")
_COLUMNS: Mapping[str, Mapping[str, frozenset[str]]] = {
    table: {verb: frozenset(columns.split(", ")) if columns else frozenset() for verb, columns in _VERB.findall(given)}
    for table, given in PRIVILEGES.items()
}
"""Verb -> its columns; none: all of them."""


def may(verb: str, table: str, column: str | None) -> bool:
    """Whether the server does so."""
    columns = _COLUMNS.get(table, {}).get(verb)
    return columns is not None and (column is None or not columns or column in columns)


def needed() -> Iterator[tuple[str, str, str | None]]:
    """Table, verb and column of each thing that the server does; no column: the whole table."""
    for table, verbs in _COLUMNS.items():
        for verb, columns in verbs.items():
            yield from ((table, verb, column) for column in columns or (None,))


def to_grant(table: str, there: Collection[str]) -> str:
    """What of a table is granted, without what is on columns that only a later revision adds: a backup of an earlier
    one is restored as it was. `there`: its columns."""
    known = {verb: columns for verb, columns in _COLUMNS[table].items() if columns.issubset(there)}
    return ", ".join(f"{verb} ({', '.join(sorted(columns))})" if columns else verb for verb, columns in known.items())
