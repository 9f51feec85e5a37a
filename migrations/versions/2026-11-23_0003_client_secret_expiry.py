"""A client secret has an expiry and remembers its last use."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("client_secret", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("client_secret", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("client_secret", "last_used_at")
    op.drop_column("client_secret", "expires_at")
