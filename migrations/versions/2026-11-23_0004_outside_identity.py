"""Who a person is at the institution's OpenID Connect provider.

Revision: 0004
Follows: 0003

Columns and an index only: SQLite would have to write the table anew for a constraint, with others referring to it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("account", sa.Column("oidc_issuer", sa.String(255), nullable=True))
    op.add_column("account", sa.Column("oidc_subject", sa.String(255), nullable=True))
    op.create_index("ix_account_oidc", "account", ["oidc_issuer", "oidc_subject"], unique=True)


def downgrade() -> None:
    op.drop_index("ix_account_oidc", "account")
    op.drop_column("account", "oidc_subject")
    op.drop_column("account", "oidc_issuer")
