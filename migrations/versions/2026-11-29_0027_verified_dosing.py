"""Dosing sessions can be verified.

Revision: 0027
Follows: 0026
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_TABLE = "verification"
_KINDS = ("adverse_event", "outcome", "participant", "visit")
_ITS = "(session_id IS NOT NULL) = (subject_type = 'dosing_session')"
_FOREIGN = "fk_verification_site_id_session_id"
_ON_SQLITE = (
    f", CONSTRAINT ck_verification_session_when_its CHECK ({_ITS})"
    f", CONSTRAINT {_FOREIGN} FOREIGN KEY(site_id, session_id) REFERENCES dosing_session (site_id, id)"
)


def upgrade() -> None:
    op.add_column(_TABLE, sa.Column("session_id", sa.Uuid()))
    before, after = _known(_KINDS), _known(tuple(sorted((*_KINDS, "dosing_session"))))
    if op.get_bind().dialect.name == "sqlite":
        _rewrite(lambda written: _end(written.replace(before, after), _ON_SQLITE))
        return
    _replace(after)
    op.create_check_constraint("session_when_its", _TABLE, _ITS)
    op.create_foreign_key(_FOREIGN, _TABLE, "dosing_session", ["site_id", "session_id"], ["site_id", "id"])


def downgrade() -> None:
    """What was verified of dosing sessions is in the trail; an older version has no place for it."""
    postgresql = op.get_bind().dialect.name == "postgresql"
    _forget(postgresql)
    before, after = _known(_KINDS), _known(tuple(sorted((*_KINDS, "dosing_session"))))
    if postgresql:
        op.drop_constraint(_FOREIGN, _TABLE, type_="foreignkey")
        op.drop_constraint("session_when_its", _TABLE, type_="check")
        _replace(before)
    else:
        _rewrite(lambda written: written.replace(after, before).replace(_ON_SQLITE, ""))
    op.drop_column(_TABLE, "session_id")


def _known(kinds: tuple[str, ...]) -> str:
    return f"subject_type IN ({', '.join(map(repr, kinds))})"


def _replace(rule: str) -> None:
    op.drop_constraint("subject_type_known", _TABLE, type_="check")
    op.create_check_constraint("subject_type_known", _TABLE, rule)


def _end(written: str, more: str) -> str:
    body, bracket, rest = written.rpartition(")")
    return f"{body.rstrip()}{more}{bracket}{rest}"


def _rewrite(change: Callable[[str], str]) -> None:
    """Change the text of the table's rules, as step 0013 explains."""
    connection = op.get_bind()
    (version,) = connection.exec_driver_sql("PRAGMA schema_version").one()
    (written,) = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE name = ?", (_TABLE,)).one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (change(written), _TABLE))
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    faults = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    assert faults == ["ok"], faults


def _forget(postgresql: bool) -> None:
    """Verifications of dosing sessions, past the triggers that let nobody remove any."""
    connection, guards = op.get_bind(), []
    if postgresql:
        for table in _GUARDED:
            op.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
            guards += [f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_{name}" for name in _TRIGGERS]
    else:
        for table in _GUARDED:
            there = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?"
            for name, written in connection.exec_driver_sql(there, (table,)).all():
                op.execute(f"DROP TRIGGER {name}")
                guards.append(written)
    theirs = f"SELECT 1 FROM {_TABLE} v WHERE v.subject_type = 'dosing_session' AND v.site_id = w.site_id"
    op.execute(f"DELETE FROM verification_withdrawal AS w WHERE EXISTS ({theirs} AND v.id = w.verification_id)")
    op.execute(f"DELETE FROM {_TABLE} WHERE subject_type = 'dosing_session'")
    for guard in guards:
        op.execute(guard)


_GUARDED, _TRIGGERS = ("verification_withdrawal", _TABLE), ("no_change", "no_truncate")
