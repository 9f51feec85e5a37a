"""The ends that came before a participant's present one: a death that is told later takes back no withdrawal.

Those that were told already are in the trail: the move to an end from another one tells that one and its day. What came
before a later return to the study, or before a correction of the status, holds no more.

Revision: 0024
Follows: 0023
"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_IN_STUDY = "('screened', 'enrolled', 'active')"
_OF_PERSON = "told.site_id = participant.site_id AND told.subject_type = 'participant' AND told.subject_id = pid"


def upgrade() -> None:
    op.add_column("participant", sa.Column("earlier_ends", sa.Text, nullable=True))
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    changes = "json_each(told.changes)" if on_sqlite else "json_array_elements(CAST(told.changes AS json))"
    joined = "group_concat(one, ',')" if on_sqlite else "string_agg(one, ',' ORDER BY seq)"
    op.execute(
        f"""UPDATE participant SET earlier_ends = (
          SELECT '[' || {joined} || ']' FROM (
            SELECT told.seq, '{{"status":"' || (moved.value ->> 'old')
              || '","status_on":"' || (dated.value ->> 'old') || '"}}' AS one
            FROM audit_entry told CROSS JOIN {changes} moved CROSS JOIN {changes} dated
            WHERE {_OF_PERSON} AND told.action = 'participant:status-changed'
              AND moved.value ->> 'field' = 'status' AND moved.value ->> 'old' NOT IN {_IN_STUDY}
              AND dated.value ->> 'field' = 'status_on' AND dated.value ->> 'old' IS NOT NULL
              AND told.seq > COALESCE((
                SELECT max(told.seq) FROM audit_entry told CROSS JOIN {changes} moved
                WHERE {_OF_PERSON} AND moved.value ->> 'field' = 'status'
                  AND (moved.value ->> 'new' IN {_IN_STUDY} OR told.action = 'participant:status-corrected')), 0)
            ORDER BY told.seq) AS ends)
        WHERE status IN ('completed', 'withdrawn', 'died')"""
    )


def downgrade() -> None:
    op.drop_column("participant", "earlier_ends")
