"""What the server's SQLite connections may do: read rows, and change them as PRIVILEGES say. Everything else is
refused, by default.

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
_LOOKS = frozenset({"table_info", "table_xinfo"})
"""Pragmas that only describe a table."""


def allowed(action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
    """SQLITE_OK or SQLITE_DENY for one action of a statement; for the meaning of the arguments by action see
    https://www.sqlite.org/c3ref/c_alter_table.html."""
    if action in _CHANGES:
        fine = may(_CHANGES[action], first or "", second)
    elif action == sqlite3.SQLITE_FUNCTION:
        fine = second != "load_extension"
    else:
        fine = action in _ROWS or (action == sqlite3.SQLITE_PRAGMA and first in _LOOKS)
    return sqlite3.SQLITE_OK if fine else sqlite3.SQLITE_DENY
