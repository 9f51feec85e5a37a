"""An index of the serious adverse events alone.

They are few: without it a page of them is sought among all events of its sites.

Revision: 0020
Follows: 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_adverse_event_serious",
        "adverse_event",
        ["site_id", "created_at", "id"],
        sqlite_where=sa.text("serious = 1"),
        postgresql_where=sa.text("serious"),
    )


def downgrade() -> None:
    op.drop_index("ix_adverse_event_serious", "adverse_event")
