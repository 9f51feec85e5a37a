"""Messages that were given up and that an admin has dismissed.

Revision: 0035
Follows: 0034
"""

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

_BEFORE = ("pending", "delivered", "dead")


def upgrade() -> None:
    _known((*_BEFORE, "dismissed"))


def downgrade() -> None:
    """What was dismissed is dead again, as before anybody dismissed it."""
    op.execute("UPDATE delivery SET state = 'dead' WHERE state = 'dismissed'")
    _known(_BEFORE)


def _known(states: tuple[str, ...]) -> None:
    """Put another rule in place. On SQLite its text is changed, as step 0013 explains."""
    text = f"state IN ({', '.join(map(repr, states))})"
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.drop_constraint("state_known", "delivery", type_="check")
        op.create_check_constraint("state_known", "delivery", text)
        return
    (version,) = connection.exec_driver_sql("PRAGMA schema_version").one()
    (written,) = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE name = 'delivery'").one()
    start = written.index("CHECK (state IN (") + len("CHECK (")
    written = written[:start] + text + written[written.index(")", start) + 1 :]
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql("UPDATE sqlite_schema SET sql = ? WHERE name = 'delivery'", (written,))
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    faults = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    assert faults == ["ok"], faults
