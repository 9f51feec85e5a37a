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
_PROFILES = ("deidentified",), ("aggregate", "deidentified", "pseudonymised")
_STATUSES = ("requested", "refused", "ready"), ("requested", "refused", "ready", "expired", "revoked")


def upgrade() -> None:
    _known(_PROFILES[1], _STATUSES[1])
    op.add_column("extract", sa.Column("agreement", sa.Text))
    op.add_column("extract", sa.Column("expires_at", sa.DateTime(timezone=True)))
    for name, length in _SHOWN:
        op.add_column("extract_subject", sa.Column(name, sa.String(length)))
    op.add_column("extract_subject", sa.Column("serious_shown", sa.Boolean, nullable=False, server_default=sa.true()))


def downgrade() -> None:
    op.drop_column("extract_subject", "serious_shown")
    for name, _ in reversed(_SHOWN):
        op.drop_column("extract_subject", name)
    op.drop_column("extract", "expires_at")
    op.drop_column("extract", "agreement")
    _known(_PROFILES[0], _STATUSES[0])


def _known(profiles: tuple[str, ...], statuses: tuple[str, ...]) -> None:
    """Put other rules in place of the two. SQLite cannot change a CHECK, and a parent of two tables cannot be dropped and
    made anew under them: the text of the rule is changed, as https://www.sqlite.org/lang_altertable.html (section 7)
    describes."""
    rules = {"profile": profiles, "status": statuses}
    texts = {name: f"{name} IN ({', '.join(map(repr, values))})" for name, values in rules.items()}
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        for name, text in texts.items():
            op.drop_constraint(f"{name}_known", "extract", type_="check")
            op.create_check_constraint(f"{name}_known", "extract", text)
        return
    (version,) = connection.exec_driver_sql("PRAGMA schema_version").one()
    (written,) = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE name = 'extract'").one()
    for name, text in texts.items():
        start = written.index(f"{name} IN (")
        written = written[:start] + text + written[written.index(")", start) + 1 :]
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql("UPDATE sqlite_schema SET sql = ? WHERE name = 'extract'", (written,))
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    faults = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    assert faults == ["ok"], faults
