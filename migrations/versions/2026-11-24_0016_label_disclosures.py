"""Requests to read a site's own label of a participant.

Revision: 0016
Follows: 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "label_disclosure",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("study_id", sa.Integer, sa.ForeignKey("study.id"), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("ground", sa.String(24), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("requested_by", sa.Uuid, sa.ForeignKey("account.id"), nullable=False),
        sa.Column("decided_by", sa.Uuid, sa.ForeignKey("account.id")),
        sa.Column("decision_reason", sa.Text),
        sa.Column("open_until", INSTANT),
        sa.Column("read_at", INSTANT),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("updated_at", INSTANT, nullable=False),
        sa.CheckConstraint(
            "ground IN ('safety', 'duplicate', 'data_subject_request', 'inspection')", name="ground_known"
        ),
        sa.CheckConstraint("status IN ('requested', 'refused', 'approved', 'read')", name="status_known"),
        sa.CheckConstraint("decided_by IS NULL OR decided_by <> requested_by", name="second_person"),
        sa.CheckConstraint(
            "(status = 'requested') = (decided_by IS NULL) AND (status = 'read') = (read_at IS NOT NULL)",
            name="read_after_approval",
        ),
        sa.CheckConstraint("read_at IS NULL OR read_at <= open_until", name="read_in_time"),
    )


def downgrade() -> None:
    op.drop_table("label_disclosure")
