"""Notifications of extracts with people who have withdrawn consent since the approval.

Revision: 0040
Follows: 0039
"""

from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

_WITHDRAWN = "extract.consent_withdrawn"
_BEFORE = (
    "adverse_event.alert",
    "adverse_event.overdue",
    "adverse_event.serious",
    "data_query.answered",
    "data_query.opened",
    "extract.ready",
    "safety_signal.raised",
    "subscription.test",
)


def upgrade() -> None:
    _known((*_BEFORE[:5], _WITHDRAWN, *_BEFORE[5:]))


def downgrade() -> None:
    """The notifications of withdrawals and their deliveries are deleted, and the subscriptions to them end."""
    theirs = f"SELECT id FROM notification WHERE type = '{_WITHDRAWN}'"
    op.execute(f"DELETE FROM delivery WHERE notification_id IN ({theirs})")
    op.execute(f"DELETE FROM notification WHERE type = '{_WITHDRAWN}'")
    for listed in (f'"{_WITHDRAWN}",', f',"{_WITHDRAWN}"', f'"{_WITHDRAWN}"'):
        op.execute(f"UPDATE subscription SET event_types = replace(event_types, '{listed}', '')")
    _known(_BEFORE)


def _known(events: tuple[str, ...]) -> None:
    """Put another rule in place. On SQLite its text is changed, as step 0013 explains."""
    text = f"type IN ({', '.join(map(repr, events))})"
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        op.drop_constraint("type_known", "notification", type_="check")
        op.create_check_constraint("type_known", "notification", text)
        return
    (version,) = connection.exec_driver_sql("PRAGMA schema_version").one()
    (written,) = connection.exec_driver_sql("SELECT sql FROM sqlite_schema WHERE name = 'notification'").one()
    start = written.index("CHECK (type IN (") + len("CHECK (")
    written = written[:start] + text + written[written.index(")", start) + 1 :]
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql("UPDATE sqlite_schema SET sql = ? WHERE name = 'notification'", (written,))
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
    faults = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    assert faults == ["ok"], faults
