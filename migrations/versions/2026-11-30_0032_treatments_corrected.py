"""Earlier treatments can be corrected: which version of one somebody saw.

Revision: 0032
Follows: 0028
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("treatment_trial", sa.Column("version", sa.Integer, nullable=False, server_default="1"))


def downgrade() -> None:
    """What was corrected stays so: what it was before is in the trail."""
    op.drop_column("treatment_trial", "version")
