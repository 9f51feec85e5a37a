"""The first tables, and an audit trail that the database itself keeps append-only.

Revision: 0001
Follows:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


TABLES = (
    "account",
    "audit_chain",
    "audit_entry",
    "study",
    "vault_identity",
    "client_secret",
    "extract",
    "idempotency_record",
    "protocol_version",
    "refresh_token",
    "site",
    "extract_file",
    "extract_subject",
    "participant",
    "role_grant",
    "adverse_event",
    "consent",
    "visit",
    "outcome",
    "outcome_score",
)


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("login", sa.String(64), nullable=False),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("organisation", sa.String(200), nullable=False),
        sa.Column("password_hash", sa.String(200), nullable=True),
        sa.Column("grants_version", sa.Integer(), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('client', 'user')", name="kind_known"),
        sa.PrimaryKeyConstraint("id", name="pk_account"),
        sa.UniqueConstraint("login", name="uq_account_login"),
    )
    op.create_table(
        "audit_chain",
        sa.Column("site_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("site_id", name="pk_audit_chain"),
    )
    op.create_table(
        "audit_entry",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(64), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("subject_type", sa.String(32), nullable=False),
        sa.Column("subject_id", sa.String(64), nullable=False),
        sa.Column("subject_version", sa.Integer(), nullable=False),
        sa.Column("changes", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("request_id", sa.String(64), nullable=True),
        sa.Column("previous_hash", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "seq", name="pk_audit_entry"),
    )
    op.create_index("ix_audit_entry_subject", "audit_entry", ["site_id", "subject_type", "subject_id", "seq"])

    op.create_table(
        "study",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_study"),
        sa.UniqueConstraint("code", name="uq_study_code"),
    )
    op.create_table(
        "vault_identity",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("blind_index", sa.String(32), nullable=False),
        sa.Column("kek_id", sa.String(32), nullable=False),
        sa.Column("wrapped_key", sa.String(200), nullable=False),
        sa.Column("ciphertext", sa.String(400), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("site_id", "pid", name="pk_vault_identity"),
        sa.UniqueConstraint("site_id", "blind_index", name="uq_vault_identity_site_id_blind_index"),
    )
    op.create_table(
        "client_secret",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_client_secret_account_id"),
        sa.PrimaryKeyConstraint("id", name="pk_client_secret"),
    )
    op.create_index("ix_client_secret_account_id", "client_secret", ["account_id"])

    op.create_table(
        "extract",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("profile", sa.String(16), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("requested_by", sa.Uuid(), nullable=False),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.Column("decision_reason", sa.Text(), nullable=True),
        sa.Column("manifest", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("profile IN ('deidentified')", name="profile_known"),
        sa.CheckConstraint("status IN ('requested', 'refused', 'ready')", name="status_known"),
        sa.CheckConstraint("decided_by IS NULL OR decided_by <> requested_by", name="second_person"),
        sa.ForeignKeyConstraint(["decided_by"], ["account.id"], name="fk_extract_decided_by"),
        sa.ForeignKeyConstraint(["requested_by"], ["account.id"], name="fk_extract_requested_by"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_extract_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_extract"),
    )
    op.create_table(
        "idempotency_record",
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("key_digest", sa.String(64), nullable=False),
        sa.Column("request_digest", sa.String(64), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=True),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("location", sa.String(200), nullable=True),
        sa.Column("etag", sa.String(64), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_idempotency_record_account_id"),
        sa.PrimaryKeyConstraint("account_id", "key_digest", name="pk_idempotency_record"),
    )
    op.create_table(
        "protocol_version",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("title", sa.String(200), nullable=False),
        sa.Column("definition", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_protocol_version_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_protocol_version"),
        sa.UniqueConstraint("study_id", "version", name="uq_protocol_version_study_id_version"),
    )
    op.create_table(
        "refresh_token",
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("family", sa.Uuid(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_refresh_token_account_id"),
        sa.PrimaryKeyConstraint("digest", name="pk_refresh_token"),
    )
    op.create_index("ix_refresh_token_account_id", "refresh_token", ["account_id"])
    op.create_index("ix_refresh_token_family", "refresh_token", ["family"])

    op.create_table(
        "site",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("country", sa.String(3), nullable=True),
        sa.Column("timezone", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_site_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_site"),
        sa.UniqueConstraint("study_id", "code", name="uq_site_study_id_code"),
    )
    op.create_table(
        "extract_file",
        sa.Column("extract_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("media_type", sa.String(64), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["extract_id"], ["extract.id"], name="fk_extract_file_extract_id"),
        sa.PrimaryKeyConstraint("extract_id", "name", name="pk_extract_file"),
    )
    op.create_table(
        "extract_subject",
        sa.Column("extract_id", sa.Uuid(), nullable=False),
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("subject", sa.String(16), nullable=False),
        sa.Column("anchor_on", sa.Date(), nullable=True),
        sa.ForeignKeyConstraint(["extract_id"], ["extract.id"], name="fk_extract_subject_extract_id"),
        sa.PrimaryKeyConstraint("extract_id", "site_id", "pid", name="pk_extract_subject"),
    )
    op.create_table(
        "participant",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("protocol_version_id", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("status_on", sa.Date(), nullable=True),
        sa.Column("age_at_consent", sa.Integer(), nullable=False),
        sa.Column("sex", sa.String(16), nullable=False),
        sa.Column("race", sa.String(64), nullable=True),
        sa.Column("ethnicity", sa.String(64), nullable=True),
        sa.Column("planned_arm", sa.String(64), nullable=True),
        sa.Column("actual_arm", sa.String(64), nullable=True),
        sa.Column("screened_on", sa.Date(), nullable=True),
        sa.Column("enrolled_on", sa.Date(), nullable=True),
        sa.Column("eligible", sa.Boolean(), nullable=False),
        sa.Column("unmet_criteria", sa.Text(), nullable=False),
        sa.Column("findings", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("sex IN ('F', 'M', 'U', 'UNDIFFERENTIATED')", name="sex_known"),
        sa.CheckConstraint(
            "status IN ('screened', 'screen_failed', 'enrolled', 'active', 'completed', 'withdrawn', 'lost_to_follow_up', 'died', 'terminated')",
            name="status_known",
        ),
        sa.CheckConstraint("age_at_consent BETWEEN 18 AND 120", name="adult"),
        sa.ForeignKeyConstraint(["created_by"], ["account.id"], name="fk_participant_created_by"),
        sa.ForeignKeyConstraint(
            ["protocol_version_id"], ["protocol_version.id"], name="fk_participant_protocol_version_id"
        ),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name="fk_participant_site_id"),
        sa.PrimaryKeyConstraint("site_id", "pid", name="pk_participant"),
    )
    op.create_index("ix_participant_page", "participant", ["site_id", "created_at", "pid"])
    op.create_index("ix_participant_pid", "participant", ["pid"])

    op.create_table(
        "role_grant",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("account_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=True),
        sa.Column("site_id", sa.Integer(), nullable=True),
        sa.Column("granted_by", sa.Uuid(), nullable=True),
        sa.Column("granted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("(study_id IS NULL) = (role = 'admin')", name="admin_is_deployment_wide"),
        sa.CheckConstraint("role IN ('admin', 'analyst', 'custodian', 'monitor', 'site_staff')", name="role_known"),
        sa.CheckConstraint("site_id IS NULL OR role IN ('site_staff', 'monitor')", name="site_only_for_clinical_roles"),
        sa.ForeignKeyConstraint(["account_id"], ["account.id"], name="fk_role_grant_account_id"),
        sa.ForeignKeyConstraint(["granted_by"], ["account.id"], name="fk_role_grant_granted_by"),
        sa.ForeignKeyConstraint(["site_id"], ["site.id"], name="fk_role_grant_site_id"),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name="fk_role_grant_study_id"),
        sa.PrimaryKeyConstraint("id", name="pk_role_grant"),
    )
    op.create_index("ix_role_grant_account_id", "role_grant", ["account_id"])

    op.create_table(
        "adverse_event",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("term", sa.String(200), nullable=False),
        sa.Column("codings", sa.Text(), nullable=False),
        sa.Column("pt", sa.String(200), nullable=True),
        sa.Column("soc", sa.String(200), nullable=True),
        sa.Column("onset", sa.String(10), nullable=True),
        sa.Column("onset_earliest", sa.Date(), nullable=True),
        sa.Column("onset_latest", sa.Date(), nullable=True),
        sa.Column("end", sa.String(10), nullable=True),
        sa.Column("severity", sa.String(16), nullable=False),
        sa.Column("death", sa.Boolean(), nullable=False),
        sa.Column("life_threatening", sa.Boolean(), nullable=False),
        sa.Column("hospitalisation", sa.Boolean(), nullable=False),
        sa.Column("disability", sa.Boolean(), nullable=False),
        sa.Column("congenital_anomaly", sa.Boolean(), nullable=False),
        sa.Column("medically_important", sa.Boolean(), nullable=False),
        sa.Column("serious", sa.Boolean(), nullable=False),
        sa.Column("serious_as_reported", sa.Boolean(), nullable=True),
        sa.Column("relatedness_drug", sa.String(16), nullable=True),
        sa.Column("relatedness_therapy", sa.String(16), nullable=True),
        sa.Column("action_taken", sa.String(20), nullable=True),
        sa.Column("outcome", sa.String(24), nullable=True),
        sa.Column("expected", sa.Boolean(), nullable=True),
        sa.Column("special_interest", sa.String(64), nullable=True),
        sa.Column("aware_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("findings", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "action_taken IS NULL OR action_taken IN ('dose_not_changed', 'dose_reduced', 'drug_interrupted', 'drug_withdrawn', 'not_applicable', 'unknown')",
            name="action_taken_known",
        ),
        sa.CheckConstraint("outcome <> 'fatal' OR death", name="fatal_is_death"),
        sa.CheckConstraint(
            "outcome IS NULL OR outcome IN ('fatal', 'not_recovered', 'recovered', 'recovered_with_sequelae', 'recovering', 'unknown')",
            name="outcome_known",
        ),
        sa.CheckConstraint(
            "relatedness_drug IS NULL OR relatedness_drug IN ('not_related', 'unlikely', 'possible', 'probable', 'definite')",
            name="relatedness_drug_known",
        ),
        sa.CheckConstraint(
            "relatedness_therapy IS NULL OR relatedness_therapy IN ('not_related', 'unlikely', 'possible', 'probable', 'definite')",
            name="relatedness_therapy_known",
        ),
        sa.CheckConstraint("severity IN ('mild', 'moderate', 'severe')", name="severity_known"),
        sa.CheckConstraint(
            "serious = (death OR life_threatening OR hospitalisation OR disability OR congenital_anomaly OR medically_important)",
            name="serious_by_criteria",
        ),
        sa.ForeignKeyConstraint(["created_by"], ["account.id"], name="fk_adverse_event_created_by"),
        sa.ForeignKeyConstraint(
            ["site_id", "pid"], ["participant.site_id", "participant.pid"], name="fk_adverse_event_site_id_pid"
        ),
        sa.PrimaryKeyConstraint("site_id", "id", name="pk_adverse_event"),
    )
    op.create_index("ix_adverse_event_page", "adverse_event", ["site_id", "created_at", "id"])
    op.create_index("ix_adverse_event_pid", "adverse_event", ["site_id", "pid"])

    op.create_table(
        "consent",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("version", sa.String(64), nullable=False),
        sa.Column("given_on", sa.Date(), nullable=True),
        sa.Column("scopes", sa.Text(), nullable=False),
        sa.Column("data_sharing", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["site_id", "pid"], ["participant.site_id", "participant.pid"], name="fk_consent_site_id_pid"
        ),
        sa.PrimaryKeyConstraint("site_id", "pid", "version", name="pk_consent"),
    )
    op.create_table(
        "visit",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("visit_code", sa.String(64), nullable=False),
        sa.Column("occurrence", sa.Integer(), nullable=False),
        sa.Column("occurred_on", sa.Date(), nullable=True),
        sa.Column("ended_on", sa.Date(), nullable=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("deviation_reason", sa.Text(), nullable=True),
        sa.Column("findings", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("(occurred_on IS NULL) = (status IN ('missed', 'not_applicable'))", name="date_when_held"),
        sa.CheckConstraint("status <> 'missed' OR deviation_reason IS NOT NULL", name="missed_with_reason"),
        sa.CheckConstraint(
            "status IN ('completed', 'partially_done', 'missed', 'not_applicable')", name="status_known"
        ),
        sa.CheckConstraint("ended_on IS NULL OR ended_on >= occurred_on", name="ends_after_start"),
        sa.CheckConstraint("occurrence >= 1", name="occurrence_counts"),
        sa.ForeignKeyConstraint(["created_by"], ["account.id"], name="fk_visit_created_by"),
        sa.ForeignKeyConstraint(
            ["site_id", "pid"], ["participant.site_id", "participant.pid"], name="fk_visit_site_id_pid"
        ),
        sa.PrimaryKeyConstraint("site_id", "id", name="pk_visit"),
        sa.UniqueConstraint(
            "site_id", "pid", "visit_code", "occurrence", name="uq_visit_site_id_pid_visit_code_occurrence"
        ),
    )
    op.create_index("ix_visit_page", "visit", ["site_id", "created_at", "id"])

    op.create_table(
        "outcome",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("pid", sa.String(12), nullable=False),
        sa.Column("visit_id", sa.Uuid(), nullable=False),
        sa.Column("instrument", sa.String(64), nullable=False),
        sa.Column("instrument_version", sa.String(64), nullable=False),
        sa.Column("collected_on", sa.Date(), nullable=True),
        sa.Column("items", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["created_by"], ["account.id"], name="fk_outcome_created_by"),
        sa.ForeignKeyConstraint(
            ["site_id", "pid"], ["participant.site_id", "participant.pid"], name="fk_outcome_site_id_pid"
        ),
        sa.ForeignKeyConstraint(
            ["site_id", "visit_id"], ["visit.site_id", "visit.id"], name="fk_outcome_site_id_visit_id"
        ),
        sa.PrimaryKeyConstraint("site_id", "id", name="pk_outcome"),
        sa.UniqueConstraint("site_id", "visit_id", "instrument", name="uq_outcome_site_id_visit_id_instrument"),
    )
    op.create_index("ix_outcome_page", "outcome", ["site_id", "created_at", "id"])
    op.create_index("ix_outcome_pid", "outcome", ["site_id", "pid"])

    op.create_table(
        "outcome_score",
        sa.Column("site_id", sa.Integer(), nullable=False),
        sa.Column("outcome_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("band", sa.String(64), nullable=True),
        sa.Column("reason", sa.String(200), nullable=True),
        sa.Column("rule", sa.String(128), nullable=False),
        sa.ForeignKeyConstraint(
            ["site_id", "outcome_id"], ["outcome.site_id", "outcome.id"], name="fk_outcome_score_site_id_outcome_id"
        ),
        sa.PrimaryKeyConstraint("site_id", "outcome_id", "name", name="pk_outcome_score"),
    )
    _protect_audit_trail()


def downgrade() -> None:
    _unprotect_audit_trail()
    for table in reversed(TABLES):
        op.drop_table(table)


_REFUSED = "audit entries are append-only"


def _protect_audit_trail() -> None:
    """UPDATE, DELETE, REPLACE and TRUNCATE of audit entries fail in the database, whoever asks."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            f"""CREATE FUNCTION audit_entry_refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION '{_REFUSED}'; END $$"""
        )
        op.execute(
            """CREATE TRIGGER audit_entry_no_change BEFORE UPDATE OR DELETE ON audit_entry
            FOR EACH ROW EXECUTE FUNCTION audit_entry_refuse()"""
        )
        op.execute(
            """CREATE TRIGGER audit_entry_no_truncate BEFORE TRUNCATE ON audit_entry
            FOR EACH STATEMENT EXECUTE FUNCTION audit_entry_refuse()"""
        )
        for trigger in ("audit_entry_no_change", "audit_entry_no_truncate"):
            op.execute(f"ALTER TABLE audit_entry ENABLE ALWAYS TRIGGER {trigger}")
        return
    for event in ("UPDATE", "DELETE"):
        op.execute(
            f"""CREATE TRIGGER audit_entry_no_{event.lower()} BEFORE {event} ON audit_entry
            BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"""
        )
    op.execute(
        f"""CREATE TRIGGER audit_entry_no_replace BEFORE INSERT ON audit_entry
        WHEN EXISTS (SELECT 1 FROM audit_entry WHERE site_id = NEW.site_id AND seq = NEW.seq)
        BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"""
    )


def _unprotect_audit_trail() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION audit_entry_refuse() CASCADE")
        return
    for event in ("update", "delete", "replace"):
        op.execute(f"DROP TRIGGER audit_entry_no_{event}")
