"""From which day on nothing of a participant is in an extract, as the collection of data had been taken back.

Revision: 0031
Follows: 0030
"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Null for extracts that were approved before: they stay what they were."""
    op.add_column("extract_subject", sa.Column("collection_ended_on", sa.Date, nullable=True))


def downgrade() -> None:
    op.drop_column("extract_subject", "collection_ended_on")
