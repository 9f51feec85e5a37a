"""Withdrawals, screenings and earlier treatments of participants; the protocol version of each visit.

Revision: 0007
Follows: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SITES = (
    "site_id = ANY ((SELECT string_to_array(nullif(current_setting('registry.sites', true), ''), ',')::int[])::int[])"
)
_TABLES = ("withdrawal", "screening", "treatment_trial")


def upgrade() -> None:
    _create_tables()
    _tell_screenings()
    # Nullable, as SQLite adds no column with a reference that must be filled; the code always fills it.
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "ALTER TABLE visit ADD COLUMN protocol_version_id INTEGER "
            "CONSTRAINT fk_visit_protocol_version_id REFERENCES protocol_version (id)"
        )
    else:
        op.add_column("visit", sa.Column("protocol_version_id", sa.Integer(), nullable=True))
        op.create_foreign_key(
            "fk_visit_protocol_version_id", "visit", "protocol_version", ["protocol_version_id"], ["id"]
        )
        for table in _TABLES:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"CREATE POLICY own_sites ON {table} USING ({_SITES}) WITH CHECK ({_SITES})")
    op.execute(
        "UPDATE visit SET protocol_version_id = (SELECT protocol_version_id FROM participant "
        "WHERE participant.site_id = visit.site_id AND participant.pid = visit.pid)"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("fk_visit_protocol_version_id", "visit", type_="foreignkey")
    op.drop_column("visit", "protocol_version_id")
    for table in reversed(_TABLES):
        op.drop_table(table)


def _of_person(table: str, *key: str) -> list[sa.Column[object] | sa.Constraint]:
    return [
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("recorded_by", sa.Uuid(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint(*key, name=f"pk_{table}"),
        sa.ForeignKeyConstraint(
            ["site_id", "pid"], ["participant.site_id", "participant.pid"], name=f"fk_{table}_site_id_pid"
        ),
        sa.ForeignKeyConstraint(["recorded_by"], ["account.id"], name=f"fk_{table}_recorded_by"),
    ]


def _create_tables() -> None:
    op.create_table(
        "withdrawal",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("effective_on", sa.Date(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        *_of_person("withdrawal", "site_id", "pid", "number"),
        sa.CheckConstraint("scope IN ('collection', 'contact', 'dosing', 'identity', 'sharing')", name="scope_known"),
    )
    op.create_table(
        "screening",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("protocol_version_id", sa.Integer(), nullable=False),
        sa.Column("screened_on", sa.Date(), nullable=True),
        sa.Column("answers", sa.Text(), nullable=False),
        sa.Column("eligible", sa.Boolean(), nullable=True),
        sa.Column("unmet", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        *_of_person("screening", "site_id", "pid", "number"),
        sa.ForeignKeyConstraint(
            ["protocol_version_id"], ["protocol_version.id"], name="fk_screening_protocol_version_id"
        ),
    )
    op.create_table(
        "treatment_trial",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("atc", sa.String(7), nullable=False),
        sa.Column("weeks", sa.Integer(), nullable=False),
        sa.Column("maximum_mg", sa.Float(), nullable=True),
        sa.Column("adequate", sa.Boolean(), nullable=False),
        sa.Column("this_episode", sa.Boolean(), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        *_of_person("treatment_trial", "site_id", "id"),
        sa.CheckConstraint("outcome IN ('intolerant', 'none', 'partial', 'response')", name="outcome_known"),
        sa.CheckConstraint("weeks BETWEEN 0 AND 2000", name="weeks_of_a_life"),
    )
    op.create_index("ix_treatment_trial_pid", "treatment_trial", ["site_id", "pid"])


def _tell_screenings() -> None:
    """Everybody's first screening, as far as it was kept: the criteria that were not met."""
    op.execute(
        "INSERT INTO screening (site_id, pid, number, protocol_version_id, screened_on, answers, eligible, unmet, "
        "version, recorded_by, recorded_at) SELECT site_id, pid, 1, protocol_version_id, screened_on, '{}', eligible, "
        "unmet_criteria, 1, created_by, created_at FROM participant"
    )
