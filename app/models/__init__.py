"""Tables and shapes, one noun a file. Importing this package fills `SQLModel.metadata` for migrations."""

from app.models import (
    account,
    adverse_event,
    audit,
    data_lock,
    extract,
    idempotency,
    outcome,
    participant,
    sign_in,
    signature,
    study,
    verification,
    visit,
)

__all__ = [
    "account",
    "adverse_event",
    "audit",
    "data_lock",
    "extract",
    "idempotency",
    "outcome",
    "participant",
    "sign_in",
    "signature",
    "study",
    "verification",
    "visit",
]
