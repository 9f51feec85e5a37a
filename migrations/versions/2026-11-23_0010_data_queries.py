"""Data queries, and what was said on them.

Revision: 0010
Follows: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_SITES = (
    "site_id = ANY ((SELECT string_to_array(nullif(current_setting('registry.sites', true), ''), ',')::int[])::int[])"
)
_REFUSED = "messages on data queries are append-only"


def upgrade() -> None:
    _create_queries()
    _create_messages()
    if op.get_bind().dialect.name == "postgresql":
        _guard_on_postgresql()
    else:
        _guard_on_sqlite()


def downgrade() -> None:
    op.drop_table("data_query_message")
    op.drop_table("data_query")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION data_query_message_refuse()")


def _create_queries() -> None:
    op.create_table(
        "data_query",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("subject_type", sa.String(16), nullable=False),
        sa.Column("subject_id", sa.Uuid(), nullable=True),
        sa.Column("visit_code", sa.String(64), nullable=True),
        sa.Column("occurrence", sa.Integer(), nullable=True),
        sa.Column("field", sa.String(200), nullable=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("rule", sa.String(64), nullable=True),
        sa.Column("rule_key", sa.String(255), nullable=True),
        sa.Column("rule_holds", sa.Boolean(), nullable=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("opened_by", sa.Uuid(), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("open_since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("answered_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "subject_type IN ('adverse_event', 'dosing_session', 'missing_visit', 'outcome', 'participant', 'visit')",
            name="subject_type_known",
        ),
        sa.CheckConstraint("origin IN ('monitor', 'rule')", name="origin_known"),
        sa.CheckConstraint("state IN ('answered', 'cancelled', 'closed', 'open')", name="state_known"),
        sa.CheckConstraint(
            "(origin = 'rule') = (rule IS NOT NULL AND rule_key IS NOT NULL AND rule_holds IS NOT NULL)",
            name="rule_known",
        ),
        sa.CheckConstraint("(origin = 'monitor') = (opened_by IS NOT NULL)", name="opener_known"),
        sa.CheckConstraint("(state IN ('closed', 'cancelled')) = (closed_at IS NOT NULL)", name="end_known"),
        sa.CheckConstraint(
            "(subject_type IN ('adverse_event', 'dosing_session', 'outcome', 'visit')) = (subject_id IS NOT NULL)",
            name="subject_known",
        ),
        sa.CheckConstraint(
            "(subject_type = 'missing_visit') = (visit_code IS NOT NULL AND occurrence IS NOT NULL)", name="visit_known"
        ),
        sa.ForeignKeyConstraint(
            ["site_id", "pid"], ["participant.site_id", "participant.pid"], name="fk_data_query_site_id_pid"
        ),
        sa.ForeignKeyConstraint(["opened_by"], ["account.id"], name="fk_data_query_opened_by"),
        sa.PrimaryKeyConstraint("site_id", "id", name="pk_data_query"),
        sa.UniqueConstraint("site_id", "rule_key", name="uq_data_query_site_id_rule_key"),
    )
    op.create_index("ix_data_query_page", "data_query", ["site_id", "opened_at", "id"])
    op.create_index("ix_data_query_pid", "data_query", ["site_id", "pid"])


def _create_messages() -> None:
    op.create_table(
        "data_query_message",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("query_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("author", sa.Uuid(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "kind IN ('answered', 'cancelled', 'closed', 'opened', 'reopened')",
            name="kind_known",
        ),
        sa.ForeignKeyConstraint(
            ["site_id", "query_id"],
            ["data_query.site_id", "data_query.id"],
            name="fk_data_query_message_site_id_query_id",
        ),
        sa.ForeignKeyConstraint(["author"], ["account.id"], name="fk_data_query_message_author"),
        sa.PrimaryKeyConstraint("site_id", "query_id", "number", name="pk_data_query_message"),
    )


def _guard_on_postgresql() -> None:
    for table in ("data_query", "data_query_message"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY own_sites ON {table} USING ({_SITES}) WITH CHECK ({_SITES})")
    op.execute(
        f"""CREATE FUNCTION data_query_message_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION '{_REFUSED}'; END $$"""
    )
    op.execute(
        """CREATE TRIGGER data_query_message_no_change BEFORE UPDATE OR DELETE ON data_query_message
        FOR EACH ROW EXECUTE FUNCTION data_query_message_refuse()"""
    )
    op.execute(
        """CREATE TRIGGER data_query_message_no_truncate BEFORE TRUNCATE ON data_query_message
        FOR EACH STATEMENT EXECUTE FUNCTION data_query_message_refuse()"""
    )
    for trigger in ("data_query_message_no_change", "data_query_message_no_truncate"):
        op.execute(f"ALTER TABLE data_query_message ENABLE ALWAYS TRIGGER {trigger}")


def _guard_on_sqlite() -> None:
    for event in ("UPDATE", "DELETE"):
        op.execute(
            f"""CREATE TRIGGER data_query_message_no_{event.lower()} BEFORE {event} ON data_query_message
            BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"""
        )
    op.execute(
        f"""CREATE TRIGGER data_query_message_no_replace BEFORE INSERT ON data_query_message
        WHEN EXISTS (SELECT 1 FROM data_query_message
          WHERE site_id = NEW.site_id AND query_id = NEW.query_id AND number = NEW.number)
        BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"""
    )
