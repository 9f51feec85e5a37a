"""Outcomes that are historical totals, without items.

Revision: 0008
Follows: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_KNOWN = "origin IN ('historical_total', 'items')"


def upgrade() -> None:
    # As one statement: SQLite adds a column with its CHECK, and cannot add a CHECK later.
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "ALTER TABLE outcome ADD COLUMN origin VARCHAR(20) NOT NULL DEFAULT 'items' "
            f"CONSTRAINT ck_outcome_origin_known CHECK ({_KNOWN})"
        )
        return
    op.add_column("outcome", sa.Column("origin", sa.String(20), nullable=False, server_default="items"))
    op.create_check_constraint("origin_known", "outcome", _KNOWN)


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("origin_known", "outcome", type_="check")
    op.drop_column("outcome", "origin")
