"""Dosing and therapy sessions, vital signs, safety signals, and who rated an outcome.

Revision: 0006
Follows: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = ("dosing_session", "dose", "vital_reading", "therapy_session", "safety_signal")
_SITES = (
    "site_id = ANY ((SELECT string_to_array(nullif(current_setting('registry.sites', true), ''), ',')::int[])::int[])"
)
"""As in 0003."""


def upgrade() -> None:
    op.add_column("outcome", sa.Column("rater", sa.String(64), nullable=True))
    _sessions()
    _doses_and_vitals()
    _therapy()
    _signals()
    if op.get_bind().dialect.name == "postgresql":
        for table in TABLES:
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"CREATE POLICY own_sites ON {table} USING ({_SITES}) WITH CHECK ({_SITES})")


def downgrade() -> None:
    for table in reversed(TABLES):
        op.drop_table(table)
    op.drop_column("outcome", "rater")


def _of_site(table: str, *columns: sa.schema.SchemaItem) -> None:
    """A table of a site's own records, each with an id."""
    site = sa.Column("site_id", sa.Integer(), nullable=False)
    own = sa.Column("id", sa.Uuid(), nullable=False)
    op.create_table(table, site, own, *columns, sa.PrimaryKeyConstraint("site_id", "id", name=f"pk_{table}"))


def _kept(table: str) -> tuple[sa.schema.SchemaItem, ...]:
    """Who made it and when."""
    return (
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["account.id"], name=f"fk_{table}_created_by"),
    )


def _refers(table: str, column: str, to: str, key: str = "id") -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_site_id_{column}"
    return sa.ForeignKeyConstraint(["site_id", column], [f"{to}.site_id", f"{to}.{key}"], name=name)


def _sessions() -> None:
    _of_site(
        "dosing_session",
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("visit_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("staff", sa.Text(), nullable=False),
        sa.Column("confirmations", sa.Text(), nullable=False),
        sa.Column("discharge", sa.Text(), nullable=False),
        sa.Column("medications", sa.Text(), nullable=False),
        *_kept("dosing_session"),
        _refers("dosing_session", "pid", "participant", "pid"),
        _refers("dosing_session", "visit_id", "visit"),
        sa.UniqueConstraint("site_id", "visit_id", name="uq_dosing_session_site_id_visit_id"),
        sa.CheckConstraint("state IN ('open', 'closed')", name="state_known"),
        sa.CheckConstraint("(state = 'closed') = (closed_at IS NOT NULL)", name="closed_at_once"),
        sa.CheckConstraint("state = 'open' OR ended_at IS NOT NULL", name="closed_after_end"),
        sa.CheckConstraint("ended_at IS NULL OR ended_at >= started_at", name="ends_after_start"),
        sa.CheckConstraint("released_at IS NULL OR released_at >= ended_at", name="released_after_end"),
    )
    op.create_index("ix_dosing_session_page", "dosing_session", ["site_id", "created_at", "id"])
    op.create_index("ix_dosing_session_pid", "dosing_session", ["site_id", "pid"])
    still_open = sa.text("state = 'open'")
    op.create_index(
        "uq_dosing_session_open",
        "dosing_session",
        ["site_id", "pid"],
        unique=True,
        sqlite_where=still_open,
        postgresql_where=still_open,
    )


def _doses_and_vitals() -> None:
    _of_site(
        "dose",
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("planned_mg", sa.Float(), nullable=False),
        sa.Column("given_mg", sa.Float(), nullable=True),
        sa.Column("given_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deviation_reason", sa.Text(), nullable=True),
        sa.Column("findings", sa.Text(), nullable=False),
        *_kept("dose"),
        _refers("dose", "pid", "participant", "pid"),
        _refers("dose", "session_id", "dosing_session"),
        sa.UniqueConstraint("site_id", "session_id", "kind", name="uq_dose_site_id_session_id_kind"),
        sa.CheckConstraint("kind IN ('initial', 'supplemental')", name="kind_known"),
        sa.CheckConstraint("planned_mg > 0", name="planned_counts"),
        sa.CheckConstraint("given_mg > 0", name="given_counts"),
        sa.CheckConstraint("(given_mg IS NULL) = (given_at IS NULL)", name="given_at_a_time"),
        sa.CheckConstraint("given_mg IS NOT NULL OR deviation_reason IS NOT NULL", name="not_given_with_reason"),
    )
    _of_site(
        "vital_reading",
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("timepoint", sa.String(64), nullable=True),
        sa.Column("taken_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("measured", sa.Text(), nullable=False),
        sa.Column("findings", sa.Text(), nullable=False),
        *_kept("vital_reading"),
        _refers("vital_reading", "pid", "participant", "pid"),
        _refers("vital_reading", "session_id", "dosing_session"),
    )
    op.create_index("ix_dose_pid", "dose", ["site_id", "pid"])
    op.create_index("ix_vital_reading_session_id", "vital_reading", ["site_id", "session_id"])
    op.create_index("ix_vital_reading_pid", "vital_reading", ["site_id", "pid"])


def _therapy() -> None:
    op.create_table(
        "therapy_session",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("visit_id", sa.Uuid(), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("minutes", sa.Integer(), nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("staff", sa.Text(), nullable=False),
        _refers("therapy_session", "pid", "participant", "pid"),
        _refers("therapy_session", "visit_id", "visit"),
        sa.CheckConstraint("mode IN ('in_person', 'video', 'phone')", name="mode_known"),
        sa.CheckConstraint("minutes BETWEEN 1 AND 1440", name="minutes_of_a_day"),
        sa.PrimaryKeyConstraint("site_id", "visit_id", name="pk_therapy_session"),
    )


def _signals() -> None:
    _of_site(
        "safety_signal",
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("protocol_version_id", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(64), nullable=False),
        sa.Column("rule_version", sa.String(64), nullable=False),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("holds_dosing", sa.Boolean(), nullable=False),
        sa.Column("outcome_id", sa.Uuid(), nullable=True),
        sa.Column("reading_id", sa.Uuid(), nullable=True),
        sa.Column("source_version", sa.Integer(), nullable=False),
        sa.Column("because", sa.Text(), nullable=False),
        sa.Column("trigger_corrected_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("raised_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reviewed_by", sa.Uuid(), nullable=True),
        sa.Column("reviewed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decision", sa.String(16), nullable=True),
        sa.Column("assessment", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        _refers("safety_signal", "pid", "participant", "pid"),
        _refers("safety_signal", "outcome_id", "outcome"),
        _refers("safety_signal", "reading_id", "vital_reading"),
        sa.ForeignKeyConstraint(
            ["protocol_version_id"], ["protocol_version.id"], name="fk_safety_signal_protocol_version_id"
        ),
        sa.ForeignKeyConstraint(["reviewed_by"], ["account.id"], name="fk_safety_signal_reviewed_by"),
        sa.UniqueConstraint(
            *("site_id", "outcome_id", "rule", "source_version"),
            name="uq_safety_signal_site_id_outcome_id_rule_source_version",
        ),
        sa.UniqueConstraint(
            *("site_id", "reading_id", "rule", "source_version"),
            name="uq_safety_signal_site_id_reading_id_rule_source_version",
        ),
        sa.CheckConstraint("state IN ('open', 'reviewed')", name="state_known"),
        sa.CheckConstraint("severity IN ('low', 'moderate', 'high')", name="severity_known"),
        sa.CheckConstraint("decision IS NULL OR decision IN ('no_risk', 'managed', 'referred')", name="decision_known"),
        sa.CheckConstraint("(outcome_id IS NULL) <> (reading_id IS NULL)", name="one_source"),
        sa.CheckConstraint("(state = 'open') = (reviewed_at IS NULL)", name="reviewed_at_once"),
        sa.CheckConstraint("(decision IS NULL) = (reviewed_at IS NULL)", name="reviewed_with_decision"),
        sa.CheckConstraint("(assessment IS NULL) = (reviewed_at IS NULL)", name="reviewed_with_assessment"),
        sa.CheckConstraint("(reviewed_by IS NULL) = (reviewed_at IS NULL)", name="reviewed_by_somebody"),
    )
    op.create_index("ix_safety_signal_page", "safety_signal", ["site_id", "raised_at", "id"])
    op.create_index("ix_safety_signal_pid", "safety_signal", ["site_id", "pid"])
