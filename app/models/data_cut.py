"""Data cuts: named moments of a study's data, of which extracts can be made later."""

from datetime import datetime
from uuid import UUID, uuid4

from sqlalchemy import Column, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Code, Cursor, Filter, InstantShown, Limit, LongReason, Shape, now


class DataCut(SQLModel, table=True):
    """A named moment. No row is copied: the head of each site's audit chain says which changes belong to it, and later
    changes are undone from the trail (app/services/extracts/as_at.py)."""

    __tablename__ = "data_cut"
    __table_args__ = (UniqueConstraint("study_id", "name"),)

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    study_id: int = Field(foreign_key="study.id")
    name: str = Field(max_length=64)
    purpose: str = Field(sa_column=Column(Text, nullable=False))
    heads: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON {site key: number of the last entry of its chain}."""

    created_by: UUID = Field(foreign_key="account.id")
    created_at: datetime = Field(default_factory=now)


class DataCutCreate(Shape):
    study: Code
    name: Code
    """The name that papers cite, such as 2026-interim or database-lock."""

    purpose: LongReason


class DataCutRead(Answer):
    id: UUID
    study: str
    name: str
    purpose: str
    created_at: InstantShown


class DataCutList(Answer):
    items: list[DataCutRead]
    next: str | None


class DataCutFilter(Filter):
    study: Code | None = None
    limit: Limit = 50
    cursor: Cursor = None
