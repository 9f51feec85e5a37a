"""Visits, outcomes and adverse events that were entered in error: when, by whom and why they were voided.

What was voided is recorded anew, so its key is unique among what was not.

Revision: 0034
Follows: 0033
"""

import re
from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

_WHOLE = "(voided_at IS NULL) = (voided_by IS NULL) AND (voided_at IS NULL) = (voiding_reason IS NULL)"
_KEYS = {
    "visit": ("uq_visit_site_id_pid_visit_code_occurrence", ("site_id", "pid", "visit_code", "occurrence")),
    "outcome": ("uq_outcome_site_id_visit_id_instrument", ("site_id", "visit_id", "instrument")),
}
_TABLES = ("visit", "outcome", "adverse_event")
_STAYS = sa.text("voided_at IS NULL")


class VoidedRecords(Exception):
    """There are voided records. An older version would count them, and has no place for what was recorded anew."""


def upgrade() -> None:
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    for table in _TABLES:
        if on_sqlite:  # adds a column with its rules, and no rule later
            for column in (
                f"voided_by CHAR(32) CONSTRAINT fk_{table}_voided_by REFERENCES account (id)",
                "voided_at DATETIME",
                f"voiding_reason TEXT CONSTRAINT ck_{table}_voided_whole CHECK ({_WHOLE})",
            ):
                op.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
        else:
            op.add_column(table, sa.Column("voided_by", sa.Uuid()))
            op.add_column(table, sa.Column("voided_at", sa.DateTime(timezone=True)))
            op.add_column(table, sa.Column("voiding_reason", sa.Text()))
            op.create_foreign_key(f"fk_{table}_voided_by", table, "account", ["voided_by"], ["id"])
            op.create_check_constraint("voided_whole", table, _WHOLE)
    for table, (name, columns) in _KEYS.items():
        if on_sqlite:
            _without_constraint(table, name, columns)
            op.drop_index(name, table)
        else:
            op.drop_constraint(name, table, type_="unique")
        op.create_index(name, table, list(columns), unique=True, sqlite_where=_STAYS, postgresql_where=_STAYS)
    op.create_index("ix_visit_pid", "visit", ["site_id", "pid"])  # that of the key has no voided ones


def downgrade() -> None:
    """Refused while anything is voided: restore the backup of before the upgrade instead."""
    connection = op.get_bind()
    for table in _TABLES:
        if connection.scalar(sa.text(f"SELECT 1 FROM {table} WHERE voided_at IS NOT NULL LIMIT 1")):
            raise VoidedRecords(f"{VoidedRecords.__doc__} One is in {table}.")
    on_sqlite = connection.dialect.name == "sqlite"
    op.drop_index("ix_visit_pid", "visit")
    for table, (name, columns) in _KEYS.items():
        op.drop_index(name, table)
        if on_sqlite:
            op.create_index(name, table, list(columns), unique=True)
            _with_constraint(table, name, columns)
        else:
            op.create_unique_constraint(name, table, list(columns))
    for table in _TABLES:
        if not on_sqlite:
            op.drop_constraint("voided_whole", table, type_="check")
            op.drop_constraint(f"fk_{table}_voided_by", table, type_="foreignkey")
        for column in ("voiding_reason", "voided_at", "voided_by"):
            op.drop_column(table, column)


def _without_constraint(table: str, name: str, columns: tuple[str, ...]) -> None:
    """Let the index that SQLite made of a rule be one that was made by name: only such an index is ever dropped, and a
    parent of other tables cannot be made anew under them. The texts are changed, as step 0013 explains."""
    made = f"CREATE UNIQUE INDEX {name} ON {table} ({', '.join(columns)})"
    rule = re.compile(rf",\s*{_rule(name, columns, escape=re.escape)}")
    _rewrite(table, lambda written: rule.sub("", written), (_made_of_rule(table), name, made))


def _with_constraint(table: str, name: str, columns: tuple[str, ...]) -> None:
    """The way back: the last rule of the table, whose index has no text of its own."""

    def change(written: str) -> str:
        body, bracket, rest = written.rpartition(")")
        return f"{body.rstrip()}, \n\t{_rule(name, columns)}\n{bracket}{rest}"

    _rewrite(table, change, (name, _made_of_rule(table), None))


def _rule(name: str, columns: tuple[str, ...], escape: Callable[[str], str] = str) -> str:
    return escape(f"CONSTRAINT {name} UNIQUE ({', '.join(columns)})")


def _made_of_rule(table: str) -> str:
    """The second one of the table: the first is of its primary key."""
    return f"sqlite_autoindex_{table}_2"


def _rewrite(table: str, change: Callable[[str], str], index: tuple[str, str, str | None]) -> None:
    connection, (was, named, text) = op.get_bind(), index
    (version,) = connection.exec_driver_sql("PRAGMA schema_version").one()
    (written,) = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).one()
    changed = change(written)
    assert changed != written, written
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (changed, table))
    connection.exec_driver_sql("UPDATE sqlite_schema SET name = ?, sql = ? WHERE name = ?", (named, text, was))
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    faults = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    assert faults == ["ok"], faults
