"""Extracts of two profiles, and how each subject is shown in one.

Revision: 0013
Follows: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_SHOWN = (("site_group", 16), ("age_group", 16), ("sex", 64), ("race", 64), ("country", 16), ("status", 32))
_PROFILES = "profile IN ('deidentified', 'pseudonymised')"


def upgrade() -> None:
    _other_profiles(_PROFILES)
    op.add_column("extract", sa.Column("agreement", sa.Text))
    for name, length in _SHOWN:
        op.add_column("extract_subject", sa.Column(name, sa.String(length)))
    op.add_column("extract_subject", sa.Column("serious_shown", sa.Boolean, nullable=False, server_default=sa.true()))


def downgrade() -> None:
    op.drop_column("extract_subject", "serious_shown")
    for name, _ in reversed(_SHOWN):
        op.drop_column("extract_subject", name)
    op.drop_column("extract", "agreement")
    _other_profiles("profile IN ('deidentified')")


def _other_profiles(known: str) -> None:
    """SQLite cannot change a CHECK, and its parent of two tables cannot be dropped and made anew under them: the text of
    the rule is put in place of the other, as https://www.sqlite.org/lang_altertable.html (section 7) describes."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("profile_known", "extract", type_="check")
        op.create_check_constraint("profile_known", "extract", known)
        return
    connection = op.get_bind()
    (version,) = connection.exec_driver_sql("PRAGMA schema_version").one()
    (written,) = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE name = 'extract'").one()
    start = written.index("profile IN (")
    changed = written[:start] + known + written[written.index(")", start) + 1 :]
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql("UPDATE sqlite_schema SET sql = ? WHERE name = 'extract'", (changed,))
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    faults = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    assert faults == ["ok"], faults
