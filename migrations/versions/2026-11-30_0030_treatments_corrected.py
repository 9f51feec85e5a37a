"""Earlier treatments can be corrected: which version of one somebody saw.

Revision: 0030
Follows: 0029
"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("treatment_trial", sa.Column("version", sa.Integer, nullable=False, server_default="1"))


def downgrade() -> None:
    """What was corrected stays so: what it was before is in the trail."""
    op.drop_column("treatment_trial", "version")
