"""Reviews of adverse events that were recorded in error: when, by whom and why they were withdrawn.

Revision: 0025
Follows: 0024
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_TABLE = "ae_review_withdrawal"
_KEY = ("site_id", "adverse_event_id", "number")
_SITES = (
    "site_id = ANY ((SELECT string_to_array(nullif(current_setting('registry.sites', true), ''), ',')::int[])::int[])"
)


def upgrade() -> None:
    op.create_table(
        _TABLE,
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("adverse_event_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("withdrawn_by", sa.Uuid(), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            _KEY, [f"ae_review.{name}" for name in _KEY], name="fk_ae_review_withdrawal_site_id_adverse_event_id_number"
        ),
        sa.ForeignKeyConstraint(["withdrawn_by"], ["account.id"], name="fk_ae_review_withdrawal_withdrawn_by"),
        sa.PrimaryKeyConstraint(*_KEY, name="pk_ae_review_withdrawal"),
    )
    if op.get_bind().dialect.name == "postgresql":
        _guard_on_postgresql()
    else:
        _guard_on_sqlite()


def downgrade() -> None:
    """What was withdrawn counts again: who withdrew it and why is in the trail."""
    op.drop_table(_TABLE)


def _guard_on_postgresql() -> None:
    op.execute(f"ALTER TABLE {_TABLE} ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_sites ON {_TABLE} USING ({_SITES}) WITH CHECK ({_SITES})")
    for name, moment, each in (
        ("no_change", "BEFORE UPDATE OR DELETE", "ROW"),
        ("no_truncate", "BEFORE TRUNCATE", "STATEMENT"),
    ):
        op.execute(
            f"""CREATE TRIGGER {_TABLE}_{name} {moment} ON {_TABLE}
            FOR EACH {each} EXECUTE FUNCTION safety_report_refuse()"""
        )
        op.execute(f"ALTER TABLE {_TABLE} ENABLE ALWAYS TRIGGER {_TABLE}_{name}")


def _guard_on_sqlite() -> None:
    same = " AND ".join(f"{name} = NEW.{name}" for name in _KEY)
    for name, event, when in (
        ("update", "UPDATE", ""),
        ("delete", "DELETE", ""),
        ("replace", "INSERT", f"WHEN EXISTS (SELECT 1 FROM {_TABLE} WHERE {same})"),
    ):
        op.execute(
            f"""CREATE TRIGGER {_TABLE}_no_{name} BEFORE {event} ON {_TABLE} {when}
            BEGIN SELECT RAISE(ABORT, '{_TABLE} is append-only'); END"""
        )
