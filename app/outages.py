"""Why a database does not answer, in a word that names no host, role or value: for the log and `registry doctor`."""

import re
import sqlite3
from collections.abc import Mapping

from psycopg.errors import ConnectionTimeout
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.database import DISK_FULL, LOCKED, sqlstate

_OF_STATE: Mapping[str, str] = {
    DISK_FULL: "disk_full",
    LOCKED: "locked",
    "25006": "read_only",
    "28000": "not_permitted",
    "28P01": "password_refused",
    "3D000": "no_such_database",
    "40001": "serialization_failure",
    "40P01": "deadlock",
    "42501": "not_permitted",
    "53300": "too_many_connections",
    "57014": "timeout",
    "57P01": "shutting_down",
    "57P03": "not_accepting",
}
"""By SQLSTATE (PostgreSQL, appendix A)."""

_OF_SQLITE: Mapping[int, str] = {
    sqlite3.SQLITE_AUTH: "not_permitted",
    sqlite3.SQLITE_CANTOPEN: "cannot_open",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_IOERR: "disk_error",
    sqlite3.SQLITE_NOTADB: "not_a_database",
    sqlite3.SQLITE_PERM: "not_permitted",
    sqlite3.SQLITE_READONLY: "read_only",
}

_OF_TEXT = tuple(
    (re.compile(words), reason)
    for words, reason in (
        ("failed to resolve host|could not translate host name", "unknown_host"),
        ("password authentication failed|no password supplied", "password_refused"),
        ('database ".*" does not exist', "no_such_database"),
        ('role ".*" does not exist', "no_such_role"),
        ("no pg_hba.conf entry|[Pp]ermission denied|not permitted to log in", "not_permitted"),
        ("not currently accepting|is starting up|is shutting down|not yet accepting|recovery mode", "not_accepting"),
        ("too many (clients|connections)|connection slots are reserved", "too_many_connections"),
        ("unsupported startup parameter", "pooler_unnamed"),
        ("timeout expired|timed out", "timeout"),
        ("No route to host|Network is unreachable", "unreachable"),
        ("Connection refused|No such file or directory", "refused"),
        ("server closed the connection|Connection reset", "connection_lost"),
        ("SSL|certificate", "tls_failed"),
    )
)
"""For errors while connecting, PostgreSQL's library gives no SQLSTATE but a text, part of which comes from the server.
If that is not in English, the reason stays unknown."""


def reason(error: SQLAlchemyError) -> str | None:
    """None: not known."""
    if isinstance(error, PoolTimeout):
        return "no_connection_free"
    cause = getattr(error, "orig", None)
    state = sqlstate(error)
    if state is not None:
        return _OF_STATE.get(state)
    if isinstance(cause, sqlite3.Error):
        return _OF_SQLITE.get(getattr(cause, "sqlite_errorcode", 0) & 0xFF)  # without what extends it
    if isinstance(cause, ConnectionTimeout):
        return "timeout"
    return next((reason for words, reason in _OF_TEXT if words.search(str(cause))), None)
