"""The audit trail: one hash chain per site, and chain 0 for what belongs to no site."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import StringConstraints
from sqlalchemy import BigInteger, Column, Index, Text
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Code, Cursor, Filter, Instant, InstantShown, Limit, OfPages, now
from app.models.identifiers import Pid

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


class AuditFormat(StrEnum):
    json = "json"
    csv = "csv"


class AuditRow(Answer):
    """One changed field of one entry, with all fields of the entry that its hash covers. An entry without changes gives
    one row whose field is null. The CSV has these columns in this order."""

    chain: int
    """`site_id` of the canonical form: 0 is the registry's own chain."""

    study: str | None
    site: str | None
    seq: int
    at: InstantShown
    actor: str
    actor_name: str | None
    action: str
    subject_type: str
    subject_id: str
    subject_version: int
    field: str | None
    old: object
    new: object
    reason: str | None
    request_id: str | None
    previous_hash: str
    hash: str


class AuditList(Answer):
    items: list[AuditRow]
    next: str | None = None


class AuditFilter(Filter):
    """All filters apply together. `limit` counts entries: the rows of one entry are always on one page."""

    study: Code | None = None
    site: Code | None = None
    participant: Pid | None = None
    subject_type: Code | None = None
    subject_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    actor: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    action: Annotated[str, StringConstraints(pattern=r"^[a-z:-]{1,64}$")] | None = None
    at_from: Instant | None = None
    at_to: Instant | None = None
    format: AuditFormat = AuditFormat.json
    limit: Annotated[Limit, OfPages] = 100
    cursor: Annotated[Cursor, OfPages] = None


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
