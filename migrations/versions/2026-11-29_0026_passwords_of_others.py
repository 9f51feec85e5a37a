"""Passwords that somebody else set, until their person changes them.

Whose the present ones are is in the trail: the last entry of an account that set one.

Revision: 0026
Follows: 0025
"""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_PARTS = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))
_HYPHENATED = " || '-' || ".join(f"substr(account.id, {start}, {count})" for start, count in _PARTS)
"""SQLite holds an account's id without the hyphens that the trail has."""


def upgrade() -> None:
    op.add_column("account", sa.Column("password_given_at", sa.DateTime(timezone=True), nullable=True))
    named = _HYPHENATED if op.get_bind().dialect.name == "sqlite" else "CAST(account.id AS text)"
    op.execute(
        f"""UPDATE account SET password_given_at = (
          SELECT CASE WHEN told.action <> 'password:changed' THEN told.at END FROM audit_entry told
          WHERE told.site_id = 0 AND told.subject_type = 'account' AND told.subject_id = {named}
            AND told.action IN ('account:created', 'account:password-set', 'password:changed')
          ORDER BY told.seq DESC LIMIT 1)
        WHERE password_hash IS NOT NULL"""
    )


def downgrade() -> None:
    op.drop_column("account", "password_given_at")
