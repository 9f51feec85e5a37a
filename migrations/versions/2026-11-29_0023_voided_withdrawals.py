"""Withdrawals of consent that were recorded in error: when, by whom and why they were voided.

Revision: 0023
Follows: 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_WHOLE = "(voided_at IS NULL) = (voided_by IS NULL) AND (voided_at IS NULL) = (voiding_reason IS NULL)"
_ON_SQLITE = (
    "voided_by CHAR(32) CONSTRAINT fk_withdrawal_voided_by REFERENCES account (id)",
    "voided_at DATETIME",
    f"voiding_reason TEXT CONSTRAINT ck_withdrawal_voided_whole CHECK ({_WHOLE})",
)


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":  # adds a column with its rules, and no rule later
        for column in _ON_SQLITE:
            op.execute(f"ALTER TABLE withdrawal ADD COLUMN {column}")
        return
    op.add_column("withdrawal", sa.Column("voided_by", sa.Uuid()))
    op.add_column("withdrawal", sa.Column("voided_at", sa.DateTime(timezone=True)))
    op.add_column("withdrawal", sa.Column("voiding_reason", sa.Text()))
    op.create_foreign_key("fk_withdrawal_voided_by", "withdrawal", "account", ["voided_by"], ["id"])
    op.create_check_constraint("voided_whole", "withdrawal", _WHOLE)


def downgrade() -> None:
    """What was voided holds again: nobody is recorded, or shared, on the strength of what is not known any more."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("voided_whole", "withdrawal", type_="check")
        op.drop_constraint("fk_withdrawal_voided_by", "withdrawal", type_="foreignkey")
    for column in ("voiding_reason", "voided_at", "voided_by"):
        op.drop_column("withdrawal", column)
