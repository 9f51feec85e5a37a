"""Stored answers to creating requests, so that a retry gets the same answer and creates nothing."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Column, Text
from sqlmodel import Field, SQLModel

from app.models.base import now


class IdempotencyRecord(SQLModel, table=True):
    """One answer, stored in the transaction of the record. The key is stored only as a keyed hash."""

    __tablename__ = "idempotency_record"

    account_id: UUID = Field(primary_key=True, foreign_key="account.id")
    key_digest: str = Field(primary_key=True, max_length=64)
    request_digest: str = Field(max_length=64)
    site_id: int | None = None
    status: int
    location: str | None = Field(default=None, max_length=200)
    etag: str | None = Field(default=None, max_length=64)
    body: str = Field(sa_column=Column(Text, nullable=False))
    created_at: datetime = Field(default_factory=now)
