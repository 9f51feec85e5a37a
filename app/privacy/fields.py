"""The class of every column of every table, which decides how the column may be treated in an extract.

Classes follow the PHUSE de-identification standard for SDTM 3.2: direct and quasi identifiers, dates, free text,
and clinical or sensitive content. `operational` and `system` are the registry's own.
"""

from collections.abc import Mapping
from enum import StrEnum


class FieldClass(StrEnum):
    clinical = "clinical"
    date = "date"
    direct = "direct"
    free_text = "free_text"
    operational = "operational"
    quasi = "quasi"
    sensitive = "sensitive"
    system = "system"


def _table(**classes: str) -> Mapping[str, FieldClass]:
    """Column -> class, from each class's column names, separated by spaces."""
    return {name: FieldClass(kind) for kind, names in classes.items() for name in names.split()}


_ACCOUNTS = (
    "id kind login display_name organisation password_hash password_given_at grants_version oidc_issuer oidc_subject "
    "disabled_at created_at"
)
FIELDS: Mapping[str, Mapping[str, FieldClass]] = {
    "account": _table(operational=_ACCOUNTS),
    "client_secret": _table(operational="id account_id digest created_at revoked_at expires_at last_used_at"),
    "refresh_token": _table(operational="digest account_id family expires_at used_at revoked_at created_at"),
    "revocation": _table(operational="id account_id expires_at revoked_at"),
    "throttle": _table(operational="key failures last_failed_at locked_until"),
    "totp": _table(operational="account_id sealed last_step created_at confirmed_at"),
    "role_grant": _table(operational="id account_id role study_id site_id granted_by granted_at revoked_at"),
    "study": _table(operational="id code title created_at"),
    "protocol_version": _table(clinical="version", operational="id study_id title definition created_at"),
    "site": _table(quasi="code name country timezone", operational="id study_id created_at"),
    "participant": _table(
        direct="pid",
        quasi="site_id age_at_consent sex race ethnicity",
        clinical="status planned_arm actual_arm eligible unmet_criteria",
        date="status_on earlier_ends screened_on enrolled_on",
        free_text="voiding_reason",
        operational="protocol_version_id findings version created_by created_at updated_at voided_by voided_at",
    ),
    "consent": _table(
        direct="pid",
        quasi="site_id",
        date="given_on",
        free_text="voiding_reason",
        operational="version number scopes data_sharing created_at voided_by voided_at",
    ),
    "vault_identity": _table(
        direct="pid blind_index ciphertext wrapped_key", quasi="site_id", operational="kek_id created_at"
    ),
    "label_disclosure": _table(
        direct="pid",
        clinical="ground",
        free_text="reason decision_reason",
        operational="id study_id status requested_by decided_by open_until read_at version created_at updated_at",
    ),
    "pid_reservation": _table(
        quasi="site_id",
        free_text="closing_reason",
        operational="id device created_by created_at closed_by closed_at",
    ),
    "reserved_pid": _table(direct="pid", quasi="site_id", operational="reservation_id"),
    "visit": _table(
        direct="pid",
        quasi="site_id",
        clinical="visit_code occurrence status",
        date="occurred_on ended_on",
        free_text="deviation_reason voiding_reason",
        operational="id findings protocol_version_id version created_by created_at updated_at voided_by voided_at",
    ),
    "outcome": _table(
        direct="pid",
        quasi="site_id",
        clinical="instrument instrument_version origin",
        sensitive="items",
        date="collected_on",
        free_text="voiding_reason",
        operational="id visit_id rater version created_by created_at updated_at voided_by voided_at",
    ),
    "outcome_score": _table(quasi="site_id", clinical="name value band", operational="outcome_id reason rule"),
    "adverse_event": _table(
        direct="pid",
        quasi="site_id",
        clinical=(
            "pt soc severity serious relatedness_drug relatedness_therapy action_taken outcome expected "
            "special_interest"
        ),
        sensitive="death life_threatening hospitalisation disability congenital_anomaly medically_important",
        date="onset onset_earliest onset_latest end aware_at due_at downgraded_at",
        free_text="term codings voiding_reason",
        operational="id serious_as_reported findings version created_by created_at updated_at voided_by voided_at",
    ),
    "signature": _table(
        direct="pid",
        quasi="site_id",
        operational="id visit_id meaning content_form content_sha256 signer signer_name second_factor signed_at",
    ),
    "sae_report": _table(
        quasi="site_id",
        sensitive="content",
        date="aware_at due_at submitted_at",
        free_text="narrative late_reason nullification_reason",
        operational="adverse_event_id number kind event_version submitted_by",
    ),
    "ae_review": _table(
        quasi="site_id",
        clinical="relatedness_drug relatedness_therapy expected susar unblinded",
        date="due_at informed_at reviewed_at",
        free_text="comment",
        operational="adverse_event_id number kind event_version reviewed_by",
    ),
    "ae_review_withdrawal": _table(
        quasi="site_id", free_text="reason", operational="adverse_event_id number withdrawn_by withdrawn_at"
    ),
    "dosing_session": _table(
        direct="pid",
        quasi="site_id",
        clinical="state confirmations discharge",
        sensitive="medications",
        date="started_at ended_at released_at closed_at",
        free_text="voiding_reason",
        operational="id visit_id staff version created_by created_at updated_at voided_by voided_at",
    ),
    "dose": _table(
        direct="pid",
        quasi="site_id",
        clinical="kind planned_mg given_mg",
        date="given_at",
        free_text="deviation_reason",
        operational="id session_id findings version created_by created_at updated_at",
    ),
    "vital_reading": _table(
        direct="pid",
        quasi="site_id",
        clinical="timepoint measured",
        date="taken_at",
        free_text="voiding_reason",
        operational="id session_id findings version created_by created_at updated_at voided_by voided_at",
    ),
    "therapy_session": _table(direct="pid", quasi="site_id", clinical="minutes mode", operational="visit_id staff"),
    "safety_signal": _table(
        direct="pid",
        quasi="site_id",
        clinical="rule rule_version severity holds_dosing state decision",
        sensitive="because",
        date="raised_at due_at reviewed_at trigger_corrected_at",
        free_text="assessment",
        operational="id protocol_version_id outcome_id reading_id source_version reviewed_by version",
    ),
    "withdrawal": _table(
        direct="pid",
        quasi="site_id",
        clinical="scope",
        date="effective_on",
        free_text="reason voiding_reason",
        operational="number recorded_by recorded_at voided_by voided_at",
    ),
    "screening": _table(
        direct="pid",
        quasi="site_id",
        clinical="eligible",
        sensitive="answers unmet",
        date="screened_on",
        free_text="voiding_reason",
        operational="number protocol_version_id version recorded_by recorded_at voided_by voided_at",
    ),
    "treatment_trial": _table(
        direct="pid",
        quasi="site_id",
        clinical="adequate outcome this_episode",
        sensitive="atc weeks maximum_mg",
        free_text="voiding_reason",
        operational="id version recorded_by recorded_at voided_by voided_at",
    ),
    "data_query": _table(
        direct="pid rule_key",
        quasi="site_id",
        free_text="text",
        operational=(
            "id subject_type subject_id visit_code occurrence field origin rule rule_holds state opened_by opened_at "
            "open_since answered_at closed_at version updated_at"
        ),
    ),
    "data_query_message": _table(quasi="site_id", free_text="text", operational="query_id number kind author at"),
    "data_lock": _table(
        direct="pid",
        quasi="site_id",
        clinical="visit_code",
        free_text="reason lifting_reason",
        operational="id kind scope visit_id set_by set_at lifted_by lifted_at",
    ),
    "verification": _table(
        direct="pid",
        quasi="site_id",
        free_text="note",
        operational="id subject_type visit_id outcome_id event_id session_id subject_version result verified_by "
        "verified_at",
    ),
    "verification_withdrawal": _table(
        quasi="site_id", free_text="reason", operational="verification_id withdrawn_by withdrawn_at"
    ),
    "subscription": _table(
        quasi="site_id",
        operational=(
            "id kind address study_id event_types sealed version disabled_at created_by created_at updated_at"
        ),
    ),
    "notification": _table(
        quasi="site_id", date="due_at", operational="id type study_id subject_type subject_id occurred_at"
    ),
    "delivery": _table(
        operational=(
            "id notification_id subscription_id state attempts next_attempt_at claimed_until last_error created_at "
            "delivered_at"
        )
    ),
    "audit_chain": _table(system="site_id seq hash"),
    "audit_entry": _table(
        system=(
            "site_id seq at actor action subject_type subject_id subject_version changes reason request_id "
            "previous_hash hash"
        )
    ),
    "idempotency_record": _table(
        system="account_id key_digest request_digest site_id status location etag body created_at"
    ),
    "sync_operation": _table(
        direct="sealed", system="account_id id digest state location etag problem created_at updated_at"
    ),
    "extract": _table(
        operational=(
            "id study_id profile purpose agreement status formats organisation cut heads requested_by decided_by "
            "decision_reason manifest expires_at version created_at updated_at"
        )
    ),
    "extract_subject": _table(
        direct="pid subject",
        quasi="site_id site_group age_group sex race country status",
        date="anchor_on collection_ended_on",
        operational="extract_id serious_shown",
    ),
    "extract_file": _table(operational="extract_id name media_type rows sha256 bytes build sealed_key"),
    "extract_build": _table(operational="extract_id build leased_until attempts rows"),
    "extract_chunk": _table(operational="extract_id build name start content"),
    "data_cut": _table(operational="id study_id name purpose heads created_by created_at"),
}
"""Table -> column -> class."""
