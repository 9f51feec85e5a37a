"""Acts of apps that were offline.

Revision: 0015
Follows: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sync_operation",
        sa.Column("account_id", sa.Uuid, sa.ForeignKey("account.id"), primary_key=True),
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("sealed", sa.Text),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("location", sa.String(200)),
        sa.Column("etag", sa.String(64)),
        sa.Column("problem", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('waiting', 'stored', 'refused', 'discarded')", name="state_known"),
    )


def downgrade() -> None:
    op.drop_table("sync_operation")
