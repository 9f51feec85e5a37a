"""Counted failures, ended sessions, second factors, and client secrets that expire.

Revision: 0002
Follows: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("client_secret", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("client_secret", sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "throttle",
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("last_failed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("locked_until", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("key", name="pk_throttle"),
    )
    op.create_index("ix_throttle_last_failed_at", "throttle", ["last_failed_at"])
    op.create_table(
        "revocation",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_revocation_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_revocation"),
    )
    op.create_index("ix_revocation_account_id", "revocation", ["account_id"])
    op.create_index("ix_revocation_expires_at", "revocation", ["expires_at"])
    op.create_table(
        "totp",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("sealed", sa.String(200), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("confirmed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_totp_account_id"),
        sa.PrimaryKeyConstraint("account_id", name="pk_totp"),
    )


def downgrade() -> None:
    for table in ("totp", "revocation", "throttle"):
        op.drop_table(table)
    with op.batch_alter_table("client_secret") as secrets:
        secrets.drop_column("last_used_at")
        secrets.drop_column("expires_at")
