"""Therapy sessions of preparation and integration visits. Therapy notes are deliberately not stored."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field as Bounded
from pydantic import Strict
from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, String, Text
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Shape, one_of
from app.models.identifiers import Staff


class TherapyMode(StrEnum):
    in_person = "in_person"
    video = "video"
    phone = "phone"


class TherapySession(SQLModel, table=True):
    """Part of one visit, recorded and corrected with it."""

    __tablename__ = "therapy_session"
    __table_args__ = (
        ForeignKeyConstraint(["site_id", "visit_id"], ["visit.site_id", "visit.id"]),
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        one_of("mode", TherapyMode),
        CheckConstraint("minutes BETWEEN 1 AND 1440", name="minutes_of_a_day"),
    )

    site_id: int = Field(primary_key=True)
    visit_id: UUID = Field(primary_key=True)
    pid: str = Field(max_length=12)
    minutes: int
    mode: TherapyMode = Field(sa_type=String(16))
    staff: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON list of the site's staff codes, sorted."""


class Therapy(Shape):
    """A therapy session: minutes, mode and staff."""

    minutes: Annotated[int, Bounded(ge=1, le=1_440)]
    mode: Annotated[TherapyMode, Strict(False)]
    staff: Staff


class TherapyRead(Answer):
    minutes: int
    mode: TherapyMode
    staff: list[str]
    cssrs_done: bool
    """Whether the C-SSRS that the protocol plans at the visit was done; where it plans none, either form counts."""
