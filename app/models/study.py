"""Studies, their protocol versions and their sites."""

from datetime import datetime
from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import AfterValidator, StringConstraints
from pydantic_core import PydanticCustomError
from sqlalchemy import Column, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Code, InstantShown, Shape, ShortText, now


class Study(SQLModel, table=True):
    """One clinical study. A deployment can hold several."""

    id: int | None = Field(default=None, primary_key=True)
    code: str = Field(max_length=64, unique=True)
    title: str = Field(max_length=200)
    created_at: datetime = Field(default_factory=now)


class ProtocolVersion(SQLModel, table=True):
    """A version of a study's protocol, as data. It never changes; each participant follows one version."""

    __tablename__ = "protocol_version"
    __table_args__ = (UniqueConstraint("study_id", "version"),)

    id: int | None = Field(default=None, primary_key=True)
    study_id: int = Field(foreign_key="study.id")
    version: str = Field(max_length=64)
    title: str = Field(max_length=200)
    definition: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON of the definition file."""

    created_at: datetime = Field(default_factory=now)


class Site(SQLModel, table=True):
    """A centre that enrols in one study. Every clinical row belongs to exactly one."""

    __table_args__ = (UniqueConstraint("study_id", "code"),)

    id: int | None = Field(default=None, primary_key=True)
    study_id: int = Field(foreign_key="study.id")
    code: str = Field(max_length=64)
    name: str = Field(max_length=200)
    country: str | None = Field(default=None, max_length=3)
    timezone: str = Field(default="UTC", max_length=64)
    created_at: datetime = Field(default_factory=now)


def _known_zone(name: str) -> str:
    if name not in available_timezones():
        raise PydanticCustomError("unknown_timezone", "Must be a name of the IANA time zone database")
    return name


class StudyCreate(Shape):
    code: Code
    title: ShortText


class StudyRead(Answer):
    code: str
    title: str
    created_at: InstantShown


class ProtocolSummary(Answer):
    study: str
    version: str
    title: str
    created_at: InstantShown


class ProtocolRead(ProtocolSummary):
    definition: dict[str, Any]


class SiteCreate(Shape):
    code: Code
    name: ShortText
    country: Annotated[str, StringConstraints(pattern=r"^[A-Z]{3}$")] | None = None
    """ISO 3166-1 alpha-3."""

    timezone: Annotated[str, StringConstraints(max_length=64), AfterValidator(_known_zone)] = "UTC"
    """IANA name; visit windows count the site's local calendar days."""


class SiteRead(Answer):
    study: str
    code: str
    name: str
    country: str | None
    timezone: str
    created_at: InstantShown


class StudyList(Answer):
    items: list[StudyRead]
    next: str | None = None


class ProtocolList(Answer):
    items: list[ProtocolSummary]
    next: str | None = None


class SiteList(Answer):
    items: list[SiteRead]
    next: str | None = None
