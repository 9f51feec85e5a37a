"""Blocks of pids drawn for a site before anybody is enrolled under them.

Revision: 0018
Follows: 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_SITES = (
    "site_id = ANY ((SELECT string_to_array(nullif(current_setting('registry.sites', true), ''), ',')::int[])::int[])"
)


def upgrade() -> None:
    op.create_table(
        "pid_reservation",
        sa.Column("site_id", sa.Integer, sa.ForeignKey("site.id"), primary_key=True),
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("device", sa.String(64)),
        sa.Column("created_by", sa.Uuid, sa.ForeignKey("account.id"), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_by", sa.Uuid, sa.ForeignKey("account.id")),
        sa.Column("closed_at", sa.DateTime(timezone=True)),
        sa.Column("closing_reason", sa.Text),
        sa.CheckConstraint(
            "(closed_at IS NULL) = (closed_by IS NULL) AND (closed_at IS NULL) = (closing_reason IS NULL)",
            name="closed_whole",
        ),
    )
    op.create_index("ix_pid_reservation_page", "pid_reservation", ["site_id", "created_at", "id"])
    op.create_table(
        "reserved_pid",
        sa.Column("site_id", sa.Integer, primary_key=True),
        sa.Column("pid", sa.String(12), primary_key=True),
        sa.Column("reservation_id", sa.Uuid, nullable=False),
        sa.ForeignKeyConstraint(["site_id", "reservation_id"], ["pid_reservation.site_id", "pid_reservation.id"]),
    )
    op.create_index("ix_reserved_pid_pid", "reserved_pid", ["pid"])
    op.create_index("ix_reserved_pid_reservation", "reserved_pid", ["site_id", "reservation_id"])
    if op.get_bind().dialect.name == "postgresql":
        for table in ("pid_reservation", "reserved_pid"):
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"CREATE POLICY own_sites ON {table} USING ({_SITES}) WITH CHECK ({_SITES})")


def downgrade() -> None:
    op.drop_table("reserved_pid")
    op.drop_table("pid_reservation")
