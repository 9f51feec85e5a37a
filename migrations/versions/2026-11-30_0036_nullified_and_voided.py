"""Reports that take back an adverse event, and dosing sessions that were entered in error.

Of a voided session's visit another one is recorded, so what is unique is so among what was not voided.

Revision: 0036
Follows: 0035
"""

import re
from collections.abc import Callable

import sqlalchemy as sa
from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

_KINDS = ("final", "follow_up", "initial")
_FIRST = "(number = 1) = (kind = 'initial')"
_TAKEN_BACK = f"{_FIRST} OR kind = 'nullification'"
_REASONED = "(kind = 'nullification') = (nullification_reason IS NOT NULL)"
_WHOLE = "(voided_at IS NULL) = (voided_by IS NULL) AND (voided_at IS NULL) = (voiding_reason IS NULL)"
_SESSION = "dosing_session"
_ONE = "uq_dosing_session_site_id_visit_id"
_RULE = f"CONSTRAINT {_ONE} UNIQUE (site_id, visit_id)"
_OPEN = "uq_dosing_session_open"
_STAYS, _IS_OPEN = sa.text("voided_at IS NULL"), "state = 'open'"


class TakenBack(Exception):
    """There are voided dosing sessions, or events that were nullified. An older version would count or report them."""


def upgrade() -> None:
    _let_reports_nullify()
    _let_sessions_be_voided()


def downgrade() -> None:
    """Refused while there is any: restore the backup of before the upgrade instead."""
    connection = op.get_bind()
    nullified = connection.scalar(sa.text("SELECT 1 FROM sae_report WHERE kind = 'nullification' LIMIT 1"))
    if nullified or connection.scalar(sa.text(f"SELECT 1 FROM {_SESSION} WHERE voided_at IS NOT NULL LIMIT 1")):
        raise TakenBack(TakenBack.__doc__)
    _let_no_session_be_voided()
    _let_no_report_nullify()


def _let_reports_nullify() -> None:
    known, after = _known(_KINDS), _known((*_KINDS, "nullification"))
    if _on_sqlite():
        _rewrite("sae_report", lambda written: written.replace(known, after).replace(_FIRST, _TAKEN_BACK))
        rule = f"CONSTRAINT ck_sae_report_nullified_with_reason CHECK ({_REASONED})"
        op.execute(f"ALTER TABLE sae_report ADD COLUMN nullification_reason TEXT {rule}")
        return
    op.add_column("sae_report", sa.Column("nullification_reason", sa.Text()))
    _replace("kind_known", after)
    _replace("initial_is_first", _TAKEN_BACK)
    op.create_check_constraint("nullified_with_reason", "sae_report", _REASONED)


def _let_no_report_nullify() -> None:
    known, after = _known(_KINDS), _known((*_KINDS, "nullification"))
    if not _on_sqlite():
        op.drop_constraint("nullified_with_reason", "sae_report", type_="check")
        _replace("initial_is_first", _FIRST)
        _replace("kind_known", known)
    op.drop_column("sae_report", "nullification_reason")
    if _on_sqlite():
        _rewrite("sae_report", lambda written: written.replace(after, known).replace(_TAKEN_BACK, _FIRST))


def _let_sessions_be_voided() -> None:
    op.drop_index(_OPEN, _SESSION)
    if _on_sqlite():  # adds a column with its rules, and no rule later
        for column in (
            f"voided_by CHAR(32) CONSTRAINT fk_{_SESSION}_voided_by REFERENCES account (id)",
            "voided_at DATETIME",
            f"voiding_reason TEXT CONSTRAINT ck_{_SESSION}_voided_whole CHECK ({_WHOLE})",
        ):
            op.execute(f"ALTER TABLE {_SESSION} ADD COLUMN {column}")
        made = f"CREATE UNIQUE INDEX {_ONE} ON {_SESSION} (site_id, visit_id)"
        _rewrite(_SESSION, lambda written: re.sub(rf",\s*{re.escape(_RULE)}", "", written), (_MADE, _ONE, made))
        op.drop_index(_ONE, _SESSION)
    else:
        op.add_column(_SESSION, sa.Column("voided_by", sa.Uuid()))
        op.add_column(_SESSION, sa.Column("voided_at", sa.DateTime(timezone=True)))
        op.add_column(_SESSION, sa.Column("voiding_reason", sa.Text()))
        op.create_foreign_key(f"fk_{_SESSION}_voided_by", _SESSION, "account", ["voided_by"], ["id"])
        op.create_check_constraint("voided_whole", _SESSION, _WHOLE)
        op.drop_constraint(_ONE, _SESSION, type_="unique")
    _unique(_ONE, ["site_id", "visit_id"], _STAYS)
    _unique(_OPEN, ["site_id", "pid"], sa.text(f"{_IS_OPEN} AND voided_at IS NULL"))


def _let_no_session_be_voided() -> None:
    op.drop_index(_OPEN, _SESSION)
    op.drop_index(_ONE, _SESSION)
    if _on_sqlite():
        op.create_index(_ONE, _SESSION, ["site_id", "visit_id"], unique=True)
        _rewrite(_SESSION, _with_its_rule, (_ONE, _MADE, None))
    else:
        op.create_unique_constraint(_ONE, _SESSION, ["site_id", "visit_id"])
        op.drop_constraint("voided_whole", _SESSION, type_="check")
        op.drop_constraint(f"fk_{_SESSION}_voided_by", _SESSION, type_="foreignkey")
    for column in ("voiding_reason", "voided_at", "voided_by"):
        op.drop_column(_SESSION, column)
    _unique(_OPEN, ["site_id", "pid"], sa.text(_IS_OPEN))


def _unique(name: str, columns: list[str], among: sa.TextClause) -> None:
    op.create_index(name, _SESSION, columns, unique=True, sqlite_where=among, postgresql_where=among)


def _known(kinds: tuple[str, ...]) -> str:
    return f"kind IN ({', '.join(map(repr, kinds))})"


def _replace(name: str, rule: str) -> None:
    op.drop_constraint(name, "sae_report", type_="check")
    op.create_check_constraint(name, "sae_report", rule)


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


_MADE = f"sqlite_autoindex_{_SESSION}_2"
"""What SQLite made of the rule; the first one is of the primary key."""


def _with_its_rule(written: str) -> str:
    """The last rule of the table, whose index has no text of its own."""
    body, bracket, rest = written.rpartition(")")
    return f"{body.rstrip()}, \n\t{_RULE}\n{bracket}{rest}"


def _rewrite(table: str, change: Callable[[str], str], index: tuple[str, str, str | None] | None = None) -> None:
    """Change the text of a table's rules, as step 0013 explains, and of the index that SQLite made of one: its name, the
    new one and the new text, as step 0034 explains."""
    connection = op.get_bind()
    (version,) = connection.exec_driver_sql("PRAGMA schema_version").one()
    (written,) = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).one()
    changed = change(written)
    assert changed != written, written
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql("UPDATE sqlite_schema SET sql = ? WHERE name = ?", (changed, table))
    if index is not None:
        was, named, text = index
        connection.exec_driver_sql("UPDATE sqlite_schema SET name = ?, sql = ? WHERE name = ?", (named, text, was))
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    faults = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    assert faults == ["ok"], faults
