"""What the server's SQLite connections may do: read and change rows, and put temporary views of earlier moments in
front of some tables (app/services/as_at.py). Everything else is refused, by default.

SQLite has no roles, so the wall stands in the connection: it asks before it compiles a statement.
"""

import sqlite3

_ROWS = frozenset(
    {
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_SAVEPOINT,
        sqlite3.SQLITE_RECURSIVE,
    }
)
_CHANGES = frozenset({sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE})
_REFUSED = frozenset(
    {
        (sqlite3.SQLITE_UPDATE, "audit_entry"),
        (sqlite3.SQLITE_DELETE, "audit_entry"),
        (sqlite3.SQLITE_DELETE, "audit_chain"),
        (sqlite3.SQLITE_UPDATE, "data_query_message"),
        (sqlite3.SQLITE_DELETE, "data_query_message"),
        (sqlite3.SQLITE_UPDATE, "signature"),
        (sqlite3.SQLITE_DELETE, "signature"),
        (sqlite3.SQLITE_UPDATE, "verification"),
        (sqlite3.SQLITE_DELETE, "verification"),
        (sqlite3.SQLITE_UPDATE, "verification_withdrawal"),
        (sqlite3.SQLITE_DELETE, "verification_withdrawal"),
        (sqlite3.SQLITE_DELETE, "withdrawal"),
    }
)
_CHANGEABLE = {"withdrawal": frozenset({"voided_at", "voided_by", "voiding_reason"})}
"""All that is ever written into a row that is there already."""
_TEMPORARY = frozenset(
    {
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
        sqlite3.SQLITE_DROP_TEMP_TABLE,
        sqlite3.SQLITE_DROP_TEMP_VIEW,
    }
)
_REWOUND = frozenset({"participant", "visit", "outcome", "outcome_score", "adverse_event"})
_LOOKS = frozenset({"table_info", "table_xinfo"})
"""Pragmas that only describe a table."""


def allowed(action: int, first: str | None, second: str | None, database: str | None, _trigger: str | None) -> int:
    """SQLITE_OK or SQLITE_DENY for one action of a statement; for the meaning of the arguments by action see
    https://www.sqlite.org/c3ref/c_alter_table.html."""
    if action in _ROWS or (database == "temp" and first == "sqlite_temp_master"):
        return sqlite3.SQLITE_OK
    if action in _TEMPORARY:
        fine = (first or "").removeprefix("was_") in _REWOUND
    elif action in _CHANGES:
        fine = (action, first) not in _REFUSED and not (first or "").startswith("sqlite_")
        if action == sqlite3.SQLITE_UPDATE and first in _CHANGEABLE:
            fine = second in _CHANGEABLE[first]
    elif action == sqlite3.SQLITE_FUNCTION:
        fine = second != "load_extension"
    else:
        fine = action == sqlite3.SQLITE_PRAGMA and first in _LOOKS
    return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY
