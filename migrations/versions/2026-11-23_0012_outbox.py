"""The outbox: subscriptions, notifications, and their deliveries.

Revision: 0012
Follows: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_SITES = (
    "site_id = ANY ((SELECT string_to_array(nullif(current_setting('registry.sites', true), ''), ',')::int[])::int[])"
)
_EVENTS = (
    "'adverse_event.overdue', 'adverse_event.serious', 'data_query.answered', 'data_query.opened', "
    "'extract.ready', 'safety_signal.raised', 'subscription.test'"
)
_SUBJECTS = "'adverse-events', 'data-queries', 'extracts', 'safety-signals', 'subscriptions'"


def upgrade() -> None:
    _subscription()
    _notification()
    _delivery()
    if op.get_bind().dialect.name == "postgresql":
        rule = f"site_id IS NULL OR {_SITES}"  # none: of a study as a whole
        op.execute("ALTER TABLE notification ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_sites ON notification USING ({rule}) WITH CHECK ({rule})")


def downgrade() -> None:
    for table in ("delivery", "notification", "subscription"):
        op.drop_table(table)


def _subscription() -> None:
    op.create_table(
        "subscription",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("address", sa.String(500), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=True),
        sa.Column("event_types", sa.Text(), nullable=False),
        sa.Column("sealed", sa.String(200), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('email', 'webhook')", name="kind_known"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_subscription_study_id"),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name="fk_subscription_site_id"),
        sa.ForeignKeyConstraint(["created_by"], ["account.id"], name="fk_subscription_created_by"),
        sa.PrimaryKeyConstraint("id", name="pk_subscription"),
    )
    op.create_index("ix_subscription_study_id", "subscription", ["study_id"])


def _notification() -> None:
    op.create_table(
        "notification",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=True),
        sa.Column("subject_type", sa.String(32), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(f"type IN ({_EVENTS})", name="type_known"),
        sa.CheckConstraint(f"subject_type IN ({_SUBJECTS})", name="subject_type_known"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_notification_study_id"),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name="fk_notification_site_id"),
        sa.PrimaryKeyConstraint("id", name="pk_notification"),
        sa.UniqueConstraint(
            "site_id", "type", "subject_id", "due_at", name="uq_notification_site_id_type_subject_id_due_at"
        ),
    )


def _delivery() -> None:
    op.create_table(
        "delivery",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("notification_id", sa.Uuid(), nullable=False),
        sa.Column("subscription_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("claimed_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_error", sa.String(64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("delivered_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'dead')", name="state_known"),
        sa.ForeignKeyConstraint(["notification_id"], ["notification.id"], name="fk_delivery_notification_id"),
        sa.ForeignKeyConstraint(["subscription_id"], ["subscription.id"], name="fk_delivery_subscription_id"),
        sa.PrimaryKeyConstraint("id", name="pk_delivery"),
        sa.UniqueConstraint("notification_id", "subscription_id", name="uq_delivery_notification_id_subscription_id"),
    )
    op.create_index("ix_delivery_due", "delivery", ["state", "next_attempt_at"])
    op.create_index("ix_delivery_page", "delivery", ["created_at", "id"])
    op.create_index("ix_delivery_subscription_id", "delivery", ["subscription_id"])
