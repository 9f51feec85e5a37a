"""Freezes and locks of clinical data with the gate before the writes that they forbid; source data verification.

Revision: 0011
Follows: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_SITES = (
    "site_id = ANY ((SELECT string_to_array(nullif(current_setting('registry.sites', true), ''), ',')::int[])::int[])"
)
_APPENDED = {"verification": "id", "verification_withdrawal": "verification_id"}
_REFUSED = "verifications are append-only"


def upgrade() -> None:
    _data_lock()
    _verification()
    for table, key in _APPENDED.items():
        _append_only(table, key)
    if op.get_bind().dialect.name == "postgresql":
        for table in ("data_lock", *_APPENDED):
            _own_sites(table)
        _gate()


def downgrade() -> None:
    op.drop_table("verification_withdrawal")
    op.drop_table("verification")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION verification_refuse()")
        op.execute("DROP FUNCTION locks_in_force(integer, text)")
    op.drop_table("data_lock")


def _data_lock() -> None:
    op.create_table(
        "data_lock",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("pid", sa.String(12), nullable=True),
        sa.Column("visit_id", sa.Uuid(), nullable=True),
        sa.Column("visit_code", sa.String(64), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("set_by", sa.Uuid(), nullable=False),
        sa.Column("set_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lifted_by", sa.Uuid(), nullable=True),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lifting_reason", sa.Text(), nullable=True),
        sa.CheckConstraint("kind IN ('freeze', 'lock')", name="kind_known"),
        sa.CheckConstraint("scope IN ('participant', 'site', 'study', 'visit', 'visit_code')", name="scope_known"),
        sa.CheckConstraint("(pid IS NOT NULL) = (scope IN ('participant', 'visit'))", name="participant_when_theirs"),
        sa.CheckConstraint("(visit_id IS NOT NULL) = (scope = 'visit')", name="visit_when_its"),
        sa.CheckConstraint("(visit_code IS NOT NULL) = (scope = 'visit_code')", name="code_when_its"),
        sa.CheckConstraint(
            "(lifted_at IS NULL) = (lifted_by IS NULL) AND (lifted_at IS NULL) = (lifting_reason IS NULL)",
            name="lifted_whole",
        ),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name="fk_data_lock_site_id"),
        sa.ForeignKeyConstraint(
            ["site_id", "pid"], ["participant.site_id", "participant.pid"], name="fk_data_lock_site_id_pid"
        ),
        sa.ForeignKeyConstraint(
            ["site_id", "visit_id"], ["visit.site_id", "visit.id"], name="fk_data_lock_site_id_visit_id"
        ),
        sa.ForeignKeyConstraint(["set_by"], ["account.id"], name="fk_data_lock_set_by"),
        sa.ForeignKeyConstraint(["lifted_by"], ["account.id"], name="fk_data_lock_lifted_by"),
        sa.PrimaryKeyConstraint("site_id", "id", name="pk_data_lock"),
    )
    op.create_index("ix_data_lock_page", "data_lock", ["site_id", "set_at", "id"])
    op.create_index("ix_data_lock_pid", "data_lock", ["site_id", "pid"])


def _verification() -> None:
    op.create_table(
        "verification",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("subject_type", sa.String(16), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("visit_id", sa.Uuid(), nullable=True),
        sa.Column("outcome_id", sa.Uuid(), nullable=True),
        sa.Column("event_id", sa.Uuid(), nullable=True),
        sa.Column("subject_version", sa.Integer(), nullable=False),
        sa.Column("result", sa.String(16), nullable=False),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("verified_by", sa.Uuid(), nullable=False),
        sa.Column("verified_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "subject_type IN ('adverse_event', 'outcome', 'participant', 'visit')", name="subject_type_known"
        ),
        sa.CheckConstraint("result IN ('discrepant', 'verified')", name="result_known"),
        sa.CheckConstraint("(visit_id IS NOT NULL) = (subject_type = 'visit')", name="visit_when_its"),
        sa.CheckConstraint("(outcome_id IS NOT NULL) = (subject_type = 'outcome')", name="outcome_when_its"),
        sa.CheckConstraint("(event_id IS NOT NULL) = (subject_type = 'adverse_event')", name="event_when_its"),
        sa.ForeignKeyConstraint(
            ["site_id", "pid"], ["participant.site_id", "participant.pid"], name="fk_verification_site_id_pid"
        ),
        sa.ForeignKeyConstraint(
            ["site_id", "visit_id"], ["visit.site_id", "visit.id"], name="fk_verification_site_id_visit_id"
        ),
        sa.ForeignKeyConstraint(
            ["site_id", "outcome_id"], ["outcome.site_id", "outcome.id"], name="fk_verification_site_id_outcome_id"
        ),
        sa.ForeignKeyConstraint(
            ["site_id", "event_id"],
            ["adverse_event.site_id", "adverse_event.id"],
            name="fk_verification_site_id_event_id",
        ),
        sa.ForeignKeyConstraint(["verified_by"], ["account.id"], name="fk_verification_verified_by"),
        sa.PrimaryKeyConstraint("site_id", "id", name="pk_verification"),
    )
    op.create_index("ix_verification_page", "verification", ["site_id", "verified_at", "id"])
    op.create_index("ix_verification_pid", "verification", ["site_id", "pid"])
    op.create_table(
        "verification_withdrawal",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("verification_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("withdrawn_by", sa.Uuid(), nullable=False),
        sa.Column("withdrawn_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["site_id", "verification_id"],
            ["verification.site_id", "verification.id"],
            name="fk_verification_withdrawal_site_id_verification_id",
        ),
        sa.ForeignKeyConstraint(["withdrawn_by"], ["account.id"], name="fk_verification_withdrawal_withdrawn_by"),
        sa.PrimaryKeyConstraint("site_id", "verification_id", name="pk_verification_withdrawal"),
    )


def _append_only(table: str, key: str) -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"""CREATE OR REPLACE FUNCTION verification_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN RAISE EXCEPTION '{_REFUSED}'; END $$"""
        )
        guards = {"no_change": "BEFORE UPDATE OR DELETE", "no_truncate": "BEFORE TRUNCATE"}
        for name, moment in guards.items():
            op.execute(f"CREATE TRIGGER {table}_{name} {moment} ON {table} EXECUTE FUNCTION verification_refuse()")
            op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_{name}")
        return
    for event in ("UPDATE", "DELETE"):
        op.execute(
            f"""CREATE TRIGGER {table}_no_{event.lower()} BEFORE {event} ON {table}
            BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"""
        )
    op.execute(
        f"""CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}
        WHEN EXISTS (SELECT 1 FROM {table} WHERE site_id = NEW.site_id AND {key} = NEW.{key})
        BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"""
    )


def _own_sites(table: str) -> None:
    op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_sites ON {table} USING ({_SITES}) WITH CHECK ({_SITES})")


def _gate() -> None:
    """Take the site's gate as one of many, and only then look: each statement in here sees what was committed when it
    began, which for the second one is after the wait. 11 is the gate's key in app/services/unlocked.py."""
    op.execute(
        """CREATE FUNCTION locks_in_force(asked_site integer, asked_pid text)
        RETURNS SETOF data_lock LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
          PERFORM pg_advisory_xact_lock_shared(11, asked_site);
          RETURN QUERY SELECT held.* FROM data_lock AS held
            WHERE held.site_id = asked_site AND held.lifted_at IS NULL
              AND (held.pid IS NULL OR held.pid = asked_pid);
        END $$"""
    )
