"""Electronic signatures, and the role of those who give them.

Revision: 0005
Follows: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_SITES = (
    "site_id = ANY ((SELECT string_to_array(nullif(current_setting('registry.sites', true), ''), ',')::int[])::int[])"
)
_KNOWN = "'admin', 'analyst', 'custodian', 'monitor', 'site_staff'"
_AT_SITES = "'site_staff', 'monitor'"
_REFUSED = "signatures are append-only"


def upgrade() -> None:
    _roles("'admin', 'analyst', 'custodian', 'investigator', 'monitor', 'site_staff'", f"'investigator', {_AT_SITES}")
    op.create_table(
        "signature",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("visit_id", sa.Uuid(), nullable=True),
        sa.Column("meaning", sa.String(16), nullable=False),
        sa.Column("content_form", sa.Integer(), nullable=False),
        sa.Column("content_sha256", sa.String(64), nullable=False),
        sa.Column("signer", sa.Uuid(), nullable=False),
        sa.Column("signer_name", sa.String(200), nullable=False),
        sa.Column("second_factor", sa.Boolean(), nullable=False),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("meaning IN ('approval', 'authorship', 'responsibility', 'review')", name="meaning_known"),
        sa.CheckConstraint("length(content_sha256) = 64", name="content_hashed"),
        sa.ForeignKeyConstraint(
            ["site_id", "pid"], ["participant.site_id", "participant.pid"], name="fk_signature_site_id_pid"
        ),
        sa.ForeignKeyConstraint(
            ["site_id", "visit_id"], ["visit.site_id", "visit.id"], name="fk_signature_site_id_visit_id"
        ),
        sa.ForeignKeyConstraint(["signer"], ["account.id"], name="fk_signature_signer"),
        sa.PrimaryKeyConstraint("site_id", "id", name="pk_signature"),
    )
    op.create_index("ix_signature_page", "signature", ["site_id", "signed_at", "id"])
    op.create_index("ix_signature_pid", "signature", ["site_id", "pid"])
    if op.get_bind().dialect.name == "postgresql":
        _guard_on_postgresql()
    else:
        _guard_on_sqlite()


def downgrade() -> None:
    op.drop_table("signature")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION signature_refuse()")
    op.execute("UPDATE role_grant SET role = 'site_staff' WHERE role = 'investigator'")  # all but the right to sign
    _roles(_KNOWN, _AT_SITES)


def _roles(known: str, at_sites: str) -> None:
    with op.batch_alter_table("role_grant") as grants:
        grants.drop_constraint("role_known", type_="check")
        grants.drop_constraint("site_only_for_clinical_roles", type_="check")
        grants.create_check_constraint("role_known", f"role IN ({known})")
        grants.create_check_constraint("site_only_for_clinical_roles", f"site_id IS NULL OR role IN ({at_sites})")


def _guard_on_postgresql() -> None:
    op.execute("ALTER TABLE signature ENABLE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY own_sites ON signature USING ({_SITES}) WITH CHECK ({_SITES})")
    op.execute(
        f"""CREATE FUNCTION signature_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION '{_REFUSED}'; END $$"""
    )
    op.execute(
        """CREATE TRIGGER signature_no_change BEFORE UPDATE OR DELETE ON signature
        FOR EACH ROW EXECUTE FUNCTION signature_refuse()"""
    )
    op.execute(
        """CREATE TRIGGER signature_no_truncate BEFORE TRUNCATE ON signature
        FOR EACH STATEMENT EXECUTE FUNCTION signature_refuse()"""
    )
    for trigger in ("signature_no_change", "signature_no_truncate"):
        op.execute(f"ALTER TABLE signature ENABLE ALWAYS TRIGGER {trigger}")


def _guard_on_sqlite() -> None:
    for event in ("UPDATE", "DELETE"):
        op.execute(
            f"""CREATE TRIGGER signature_no_{event.lower()} BEFORE {event} ON signature
            BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"""
        )
    op.execute(
        f"""CREATE TRIGGER signature_no_replace BEFORE INSERT ON signature
        WHEN EXISTS (SELECT 1 FROM signature WHERE site_id = NEW.site_id AND id = NEW.id)
        BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"""
    )
