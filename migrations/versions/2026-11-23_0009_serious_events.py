"""Reports and reviews of adverse events, and when one was called serious no more.

Revision: 0009
Follows: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_SITES = (
    "site_id = ANY ((SELECT string_to_array(nullif(current_setting('registry.sites', true), ''), ',')::int[])::int[])"
)
_RELATEDNESS = "('not_related', 'unlikely', 'possible', 'probable', 'definite')"
_TABLES = ("sae_report", "ae_review")


def upgrade() -> None:
    op.add_column("adverse_event", sa.Column("downgraded_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("ix_adverse_event_due", "adverse_event", ["site_id", "due_at"])
    _create_sae_report()
    _create_ae_review()
    if op.get_bind().dialect.name == "postgresql":
        _guard_on_postgresql()
    else:
        _guard_on_sqlite()


def downgrade() -> None:
    for table in reversed(_TABLES):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION safety_report_refuse()")
    op.drop_index("ix_adverse_event_due", "adverse_event")
    op.drop_column("adverse_event", "downgraded_at")


def _event_key(table: str) -> list[sa.Column[object] | sa.Constraint]:
    return [
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("adverse_event_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "adverse_event_id", "number", name=f"pk_{table}"),
        sa.ForeignKeyConstraint(
            ["site_id", "adverse_event_id"],
            ["adverse_event.site_id", "adverse_event.id"],
            name=f"fk_{table}_site_id_adverse_event_id",
        ),
    ]


def _create_sae_report() -> None:
    op.create_table(
        "sae_report",
        *_event_key("sae_report"),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("event_version", sa.Integer(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("narrative", sa.Text(), nullable=True),
        sa.Column("aware_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("late_reason", sa.Text(), nullable=True),
        sa.Column("submitted_by", sa.Uuid(), nullable=False),
        sa.Column("submitted_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('final', 'follow_up', 'initial')", name="kind_known"),
        sa.CheckConstraint("(number = 1) = (kind = 'initial')", name="initial_is_first"),
        sa.CheckConstraint("submitted_at <= due_at OR late_reason IS NOT NULL", name="late_with_reason"),
        sa.ForeignKeyConstraint(["submitted_by"], ["account.id"], name="fk_sae_report_submitted_by"),
    )


def _create_ae_review() -> None:
    op.create_table(
        "ae_review",
        *_event_key("ae_review"),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("event_version", sa.Integer(), nullable=False),
        sa.Column("relatedness_drug", sa.String(16), nullable=True),
        sa.Column("relatedness_therapy", sa.String(16), nullable=True),
        sa.Column("expected", sa.Boolean(), nullable=True),
        sa.Column("susar", sa.Boolean(), nullable=True),
        sa.Column("unblinded", sa.Boolean(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("informed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("reviewed_by", sa.Uuid(), nullable=False),
        sa.Column("reviewed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "kind IN ('acknowledged', 'assessment', 'authority_informed', 'information_request')", name="kind_known"
        ),
        *(
            sa.CheckConstraint(f"{name} IS NULL OR {name} IN {_RELATEDNESS}", name=f"{name}_known")
            for name in ("relatedness_drug", "relatedness_therapy")
        ),
        sa.ForeignKeyConstraint(["reviewed_by"], ["account.id"], name="fk_ae_review_reviewed_by"),
    )
    op.create_index("ix_ae_review_by", "ae_review", ["site_id", "reviewed_by", "adverse_event_id"])


def _guard_on_postgresql() -> None:
    op.execute(
        """CREATE FUNCTION safety_report_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"""
    )
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_sites ON {table} USING ({_SITES}) WITH CHECK ({_SITES})")
        op.execute(
            f"""CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table}
            FOR EACH ROW EXECUTE FUNCTION safety_report_refuse()"""
        )
        op.execute(
            f"""CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}
            FOR EACH STATEMENT EXECUTE FUNCTION safety_report_refuse()"""
        )
        for trigger in (f"{table}_no_change", f"{table}_no_truncate"):
            op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")


def _guard_on_sqlite() -> None:
    for table in _TABLES:
        same = "site_id = NEW.site_id AND adverse_event_id = NEW.adverse_event_id AND number = NEW.number"
        events = {
            "update": "BEFORE UPDATE",
            "delete": "BEFORE DELETE",
            "replace": "BEFORE INSERT",
        }
        for name, event in events.items():
            when = f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same})" if name == "replace" else ""
            op.execute(
                f"""CREATE TRIGGER {table}_no_{name} {event} ON {table} {when}
                BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"""
            )
