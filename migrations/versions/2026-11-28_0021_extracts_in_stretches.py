"""People of an extract in the order of their subject ids, and on SQLite the scores without a second tree.

No two people of an extract may go by one subject id, and SQLite reads an extract in stretches of that order. A score is
sought by its key alone, so on SQLite its row lies in the key.

Revision: 0021
Follows: 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_extract_subject_order", "extract_subject", ["extract_id", "subject"], unique=True)
    _scores(with_rowid=False)


def downgrade() -> None:
    _scores(with_rowid=True)
    op.drop_index("ix_extract_subject_order", "extract_subject")


def _scores(*, with_rowid: bool) -> None:
    """The table anew, in the order of its key: SQLite cannot change how a table lies."""
    if op.get_bind().dialect.name != "sqlite":
        return
    op.create_table(
        "outcome_score_anew",
        sa.Column("site_id", sa.Integer, nullable=False),
        sa.Column("outcome_id", sa.Uuid, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("band", sa.String(64)),
        sa.Column("reason", sa.String(200)),
        sa.Column("rule", sa.String(128), nullable=False),
        sa.ForeignKeyConstraint(
            ["site_id", "outcome_id"], ["outcome.site_id", "outcome.id"], name="fk_outcome_score_site_id_outcome_id"
        ),
        sa.PrimaryKeyConstraint("site_id", "outcome_id", "name", name="pk_outcome_score"),
        sqlite_with_rowid=with_rowid,
    )
    names = "site_id, outcome_id, name, value, band, reason, rule"
    op.execute(
        f"INSERT INTO outcome_score_anew ({names}) SELECT {names} FROM outcome_score ORDER BY site_id, outcome_id, name"
    )
    op.drop_table("outcome_score")
    op.rename_table("outcome_score_anew", "outcome_score")
