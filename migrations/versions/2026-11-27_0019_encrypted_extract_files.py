"""Files of extracts encrypted, each under a key of its own.

Those that lie there in clear are written anew: an approval fixes every byte, so a worker builds them again.

Revision: 0019
Follows: 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _build_again()
    op.add_column("extract_file", sa.Column("sealed_key", sa.Text, nullable=False, server_default=""))
    with op.batch_alter_table("extract_file") as table:
        table.alter_column("sealed_key", server_default=None)


def downgrade() -> None:
    """Nobody could open them without their keys."""
    _build_again()
    op.drop_column("extract_file", "sealed_key")


def _build_again() -> None:
    op.execute("DELETE FROM extract_chunk")
    op.execute("DELETE FROM extract_file")
    op.execute("UPDATE extract SET status = 'expired' WHERE status = 'ready' AND heads IS NULL")
    op.execute("UPDATE extract_build SET build = NULL, leased_until = NULL, attempts = 0, rows = 0")
    op.execute(
        "INSERT INTO extract_build (extract_id, attempts, rows) SELECT id, 0, 0 FROM extract WHERE status = 'ready'"
    )
    op.execute("UPDATE extract SET status = 'building' WHERE status = 'ready'")
