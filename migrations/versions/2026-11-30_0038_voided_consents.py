"""Consents that were recorded in error: when, by whom and why they were voided.

Revision: 0038
Follows: 0037
"""

import sqlalchemy as sa
from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

_WHOLE = "(voided_at IS NULL) = (voided_by IS NULL) AND (voided_at IS NULL) = (voiding_reason IS NULL)"
_ON_SQLITE = (
    "voided_by CHAR(32) CONSTRAINT fk_consent_voided_by REFERENCES account (id)",
    "voided_at DATETIME",
    f"voiding_reason TEXT CONSTRAINT ck_consent_voided_whole CHECK ({_WHOLE})",
)


class VoidedConsents(Exception):
    """There are voided consents. An older version would dose and share on the strength of them."""


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":  # adds a column with its rules, and no rule later
        for column in _ON_SQLITE:
            op.execute(f"ALTER TABLE consent ADD COLUMN {column}")
        return
    op.add_column("consent", sa.Column("voided_by", sa.Uuid()))
    op.add_column("consent", sa.Column("voided_at", sa.DateTime(timezone=True)))
    op.add_column("consent", sa.Column("voiding_reason", sa.Text()))
    op.create_foreign_key("fk_consent_voided_by", "consent", "account", ["voided_by"], ["id"])
    op.create_check_constraint("voided_whole", "consent", _WHOLE)


def downgrade() -> None:
    """Refused while any is voided: restore the backup of before the upgrade instead."""
    connection = op.get_bind()
    if connection.scalar(sa.text("SELECT 1 FROM consent WHERE voided_at IS NOT NULL LIMIT 1")):
        raise VoidedConsents(VoidedConsents.__doc__)
    if connection.dialect.name == "postgresql":
        op.drop_constraint("voided_whole", "consent", type_="check")
        op.drop_constraint("fk_consent_voided_by", "consent", type_="foreignkey")
    for column in ("voiding_reason", "voided_at", "voided_by"):
        op.drop_column("consent", column)
