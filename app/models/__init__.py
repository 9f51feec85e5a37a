"""Tables and shapes, one noun a file. Importing this package fills `SQLModel.metadata` for migrations."""

from app.models import (
    account,
    adverse_event,
    audit,
    course,
    dosing_session,
    extract,
    idempotency,
    outcome,
    participant,
    safety_report,
    safety_signal,
    sign_in,
    signature,
    study,
    therapy_session,
    visit,
)

__all__ = [
    "account",
    "adverse_event",
    "audit",
    "course",
    "dosing_session",
    "extract",
    "idempotency",
    "outcome",
    "participant",
    "safety_report",
    "safety_signal",
    "sign_in",
    "signature",
    "study",
    "therapy_session",
    "visit",
]
