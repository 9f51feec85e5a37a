"""What there is to be permitted, and which role holds what. docs/permissions.md shows it by route."""

from collections.abc import Mapping
from enum import StrEnum

from app.models.account import AccountKind, Role


class Permission(StrEnum):
    """`resource:action`, sorted. A route states exactly one."""

    account_read = "account:read"
    account_write = "account:write"
    adverse_event_read = "adverse-event:read"
    adverse_event_review = "adverse-event:review"
    adverse_event_write = "adverse-event:write"
    audit_read = "audit:read"
    change_read = "change:read"
    codebook_read = "codebook:read"
    cut_make = "cut:make"
    cut_read = "cut:read"
    data_query_answer = "data-query:answer"
    data_query_raise = "data-query:raise"
    data_query_read = "data-query:read"
    dosing_session_read = "dosing-session:read"
    dosing_session_write = "dosing-session:write"
    extract_approve = "extract:approve"
    extract_download = "extract:download"
    extract_read = "extract:read"
    extract_request = "extract:request"
    label_approve = "label:approve"
    label_open = "label:open"
    label_read = "label:read"
    lock_read = "lock:read"
    lock_write = "lock:write"
    me_read = "me:read"
    me_write = "me:write"
    monitoring_read = "monitoring:read"
    outcome_read = "outcome:read"
    outcome_write = "outcome:write"
    participant_lookup = "participant:lookup"
    participant_read = "participant:read"
    participant_write = "participant:write"
    safety_signal_read = "safety-signal:read"
    safety_signal_review = "safety-signal:review"
    signature_read = "signature:read"
    signature_write = "signature:write"
    study_read = "study:read"
    study_write = "study:write"
    subscription_read = "subscription:read"
    subscription_write = "subscription:write"
    sync_use = "sync:use"
    verification_read = "verification:read"
    verification_write = "verification:write"
    visit_read = "visit:read"
    visit_write = "visit:write"


_P = Permission
CLINICAL_READS = {
    _P.adverse_event_read,
    _P.change_read,
    _P.dosing_session_read,
    _P.outcome_read,
    _P.participant_read,
    _P.safety_signal_read,
    _P.data_query_read,
    _P.lock_read,
    _P.signature_read,
    _P.verification_read,
    _P.visit_read,
}
_EVERYONE = {_P.me_read, _P.me_write, _P.study_read, _P.codebook_read}
_SITE_WORK = {
    _P.adverse_event_write,
    _P.audit_read,
    _P.dosing_session_write,
    _P.data_query_answer,
    _P.outcome_write,
    _P.participant_lookup,
    _P.participant_write,
    _P.safety_signal_review,
    _P.sync_use,
    _P.visit_write,
}
_MONITORING = {
    _P.adverse_event_review,
    _P.audit_read,
    _P.data_query_raise,
    _P.label_open,
    _P.label_read,
    _P.lock_write,
    _P.monitoring_read,
    _P.verification_write,
}
_RELEASING = {
    _P.cut_make,
    _P.cut_read,
    _P.extract_approve,
    _P.extract_read,
    _P.label_approve,
    _P.label_open,
    _P.label_read,
}
_RUNNING = {_P.subscription_read, _P.subscription_write}
GRANTS: Mapping[Role, frozenset[Permission]] = {
    Role.site_staff: frozenset(CLINICAL_READS | _EVERYONE | _SITE_WORK),
    Role.investigator: frozenset(CLINICAL_READS | _EVERYONE | _SITE_WORK | {_P.signature_write}),
    Role.monitor: frozenset(CLINICAL_READS | _EVERYONE | _MONITORING),
    Role.analyst: frozenset(_EVERYONE | {_P.cut_read, _P.extract_download, _P.extract_read, _P.extract_request}),
    Role.custodian: frozenset(_EVERYONE | _RELEASING),
    Role.admin: frozenset(_EVERYONE | _RUNNING | {_P.account_read, _P.account_write, _P.audit_read, _P.study_write}),
}
_PEOPLE_ONLY = {_P.safety_signal_review}
"""A clinician's own assessment: a site app passes it on with the token of the person, not with its own."""


def granted(role: Role, kind: AccountKind) -> frozenset[Permission]:
    """What a role lets a person or a site app do."""
    return GRANTS[role] - _PEOPLE_ONLY if kind is AccountKind.client else GRANTS[role]
