"""What the server's SQLite connections may do: read rows, change them as PRIVILEGES say, and put temporary views of
earlier moments in front of some tables (app/services/extracts/as_at.py). Everything else is refused, by default.

SQLite has no roles, so the wall stands in the connection: it asks before it compiles a statement.
"""

import sqlite3

from app.privileges import may

_ROWS = frozenset(
    {
        sqlite3.SQLITE_READ,
        sqlite3.SQLITE_SELECT,
        sqlite3.SQLITE_TRANSACTION,
        sqlite3.SQLITE_SAVEPOINT,
        sqlite3.SQLITE_RECURSIVE,
    }
)
_CHANGES = {sqlite3.SQLITE_INSERT: "INSERT", sqlite3.SQLITE_UPDATE: "UPDATE", sqlite3.SQLITE_DELETE: "DELETE"}
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
        fine = database == "temp" or may(_CHANGES[action], first or "", second)
    elif action == sqlite3.SQLITE_FUNCTION:
        fine = second != "load_extension"
    else:
        fine = action == sqlite3.SQLITE_PRAGMA and first in _LOOKS
    return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY
