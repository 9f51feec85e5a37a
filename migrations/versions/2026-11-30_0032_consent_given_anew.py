"""A consent version that was taken back is given anew: its number is part of the key.

Revision: 0032
Follows: 0031
"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

_KEY = ["site_id", "pid", "version"]


def upgrade() -> None:
    """On SQLite the table is made anew, which refers to others and to which none refers."""
    with op.batch_alter_table("consent") as consent:
        consent.add_column(sa.Column("number", sa.Integer(), nullable=False, server_default="1"))
        consent.drop_constraint("pk_consent", type_="primary")
        consent.create_primary_key("pk_consent", [*_KEY, "number"])


def downgrade() -> None:
    """What was given anew is in the trail; an older version has no place for it. Then what was taken back holds again:
    nobody is recorded, or shared, on the strength of what is not known any more."""
    op.execute("DELETE FROM consent WHERE number > 1")
    with op.batch_alter_table("consent") as consent:
        consent.drop_constraint("pk_consent", type_="primary")
        consent.drop_column("number")
        consent.create_primary_key("pk_consent", _KEY)
