"""Participants and screenings that were entered in error: when, by whom and why they were voided.

Revision: 0042
Follows: 0041
"""

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

_TABLES = ("participant", "screening")
_WHOLE = "(voided_at IS NULL) = (voided_by IS NULL) AND (voided_at IS NULL) = (voiding_reason IS NULL)"


class VoidedParticipants(Exception):
    """There are voided participants or screenings. An older version would count them."""


def upgrade() -> None:
    for table in _TABLES:
        if op.get_bind().dialect.name == "sqlite":  # adds a column with its rules, and no rule later
            for column in (
                f"voided_by CHAR(32) CONSTRAINT fk_{table}_voided_by REFERENCES account (id)",
                "voided_at DATETIME",
                f"voiding_reason TEXT CONSTRAINT ck_{table}_voided_whole CHECK ({_WHOLE})",
            ):
                op.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
            continue
        op.add_column(table, sa.Column("voided_by", sa.Uuid()))
        op.add_column(table, sa.Column("voided_at", sa.DateTime(timezone=True)))
        op.add_column(table, sa.Column("voiding_reason", sa.Text()))
        op.create_foreign_key(f"fk_{table}_voided_by", table, "account", ["voided_by"], ["id"])
        op.create_check_constraint("voided_whole", table, _WHOLE)


def downgrade() -> None:
    """Refused while any is voided: restore the backup of before the upgrade instead."""
    connection = op.get_bind()
    for table in _TABLES:
        if connection.scalar(sa.text(f"SELECT 1 FROM {table} WHERE voided_at IS NOT NULL LIMIT 1")):
            raise VoidedParticipants(VoidedParticipants.__doc__)
    for table in _TABLES:
        if connection.dialect.name == "postgresql":
            op.drop_constraint("voided_whole", table, type_="check")
            op.drop_constraint(f"fk_{table}_voided_by", table, type_="foreignkey")
        for column in ("voiding_reason", "voided_at", "voided_by"):
            op.drop_column(table, column)
