"""The audit trail: one hash chain per site, and chain 0 for what belongs to no site."""

from datetime import datetime
from uuid import UUID

from pydantic import Field as Bounded
from sqlalchemy import BigInteger, Column, Index, Text
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Filter, InstantShown, Limit, now

REGISTRY_CHAIN = 0
"""The chain of everything that belongs to no site: accounts, studies, extracts."""


class AuditChain(SQLModel, table=True):
    """The head of one chain. Locked last in each transaction, so that a chain's order is its commit order."""

    __tablename__ = "audit_chain"

    site_id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    seq: int = Field(default=0, sa_type=BigInteger)
    hash: str = Field(max_length=64)


class AuditEntry(SQLModel, table=True):
    """Who, when, what, old, new, why. Append-only by trigger as well as by code."""

    __tablename__ = "audit_entry"
    __table_args__ = (Index("ix_audit_entry_subject", "site_id", "subject_type", "subject_id", "seq"),)

    site_id: int = Field(primary_key=True)
    seq: int = Field(primary_key=True, sa_type=BigInteger)
    at: datetime = Field(default_factory=now)
    actor: str = Field(max_length=64)
    """Account id, or `system`."""

    action: str = Field(max_length=64)
    subject_type: str = Field(max_length=32)
    subject_id: str = Field(max_length=64)
    subject_version: int
    changes: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON list of {field, old, new}, sorted by field."""

    reason: str | None = Field(default=None, sa_column=Column(Text))
    request_id: str | None = Field(default=None, max_length=64)
    previous_hash: str = Field(max_length=64)
    hash: str = Field(max_length=64)


class FieldChange(Answer):
    field: str
    old: object
    new: object


class AuditRead(Answer):
    """One entry as it is shown: enough to verify the hash."""

    site: str | None
    seq: int
    at: InstantShown
    actor: str
    action: str
    subject_type: str
    subject_id: str
    subject_version: int
    changes: list[FieldChange]
    reason: str | None
    request_id: str | None


class HistoryRead(Answer):
    """One changed field of one record."""

    field: str
    old: object
    new: object
    actor: UUID | str
    actor_name: str | None
    at: InstantShown
    reason: str | None
    action: str
    version: int


class HistoryList(Answer):
    items: list[HistoryRead]
    next: str | None = None


class HistoryFilter(Filter):
    limit: Limit = 500
    cursor: str | None = Bounded(default=None, max_length=1000)
