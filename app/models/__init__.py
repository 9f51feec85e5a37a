"""Tables and shapes, one noun a file. Importing this package fills `SQLModel.metadata` for migrations."""

from app.models import (
    account,
    adverse_event,
    audit,
    extract,
    idempotency,
    notification,
    outcome,
    participant,
    sign_in,
    signature,
    study,
    visit,
)

__all__ = [
    "account",
    "adverse_event",
    "audit",
    "extract",
    "idempotency",
    "notification",
    "outcome",
    "participant",
    "sign_in",
    "signature",
    "study",
    "visit",
]
