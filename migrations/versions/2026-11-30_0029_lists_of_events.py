"""Indexes of what lists of adverse events are sorted and sought by.

What was reported on counts as updated then: one column, and so one index, tells what is new.

Revision: 0029
Follows: 0028
"""

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

_OF_THE_RARE = ("severity", "soc", "special_interest")


def upgrade() -> None:
    sent = "FROM sae_report WHERE site_id = adverse_event.site_id AND adverse_event_id = adverse_event.id"
    op.execute(
        f"UPDATE adverse_event SET updated_at = (SELECT max(submitted_at) {sent})"
        f" WHERE EXISTS (SELECT 1 {sent} AND submitted_at > adverse_event.updated_at)"
    )
    op.create_index("ix_adverse_event_updated", "adverse_event", ["site_id", "updated_at", "id"])
    for column in _OF_THE_RARE:
        op.create_index(f"ix_adverse_event_{column}", "adverse_event", ["site_id", column, "created_at", "id"])


def downgrade() -> None:
    for name in ("updated", *_OF_THE_RARE):
        op.drop_index(f"ix_adverse_event_{name}", "adverse_event")
