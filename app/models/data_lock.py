"""Freezes and locks: which clinical data may not be changed, since when, why, and who lifted them."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import Field as Bounded
from pydantic import Strict, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, String, Text
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Code, Cursor, Filter, InstantShown, Limit, QueryBool, Reason, Shape, now, one_of
from app.models.contradiction import contradiction
from app.models.identifiers import Pid, PidShown


class LockKind(StrEnum):
    """`freeze`: closed for cleaning, the site edits nothing and reports new adverse events. `lock`: closed for good."""

    freeze = "freeze"
    lock = "lock"


class LockScope(StrEnum):
    participant = "participant"
    site = "site"
    study = "study"
    visit = "visit"
    visit_code = "visit_code"


class DataLock(SQLModel, table=True):
    """One freeze or lock at one site. One of a whole study has a row for each site, all with the same id."""

    __tablename__ = "data_lock"
    __table_args__ = (
        ForeignKeyConstraint(["site_id"], ["site.id"]),
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        ForeignKeyConstraint(["site_id", "visit_id"], ["visit.site_id", "visit.id"]),
        one_of("kind", LockKind),
        one_of("scope", LockScope),
        CheckConstraint("(pid IS NOT NULL) = (scope IN ('participant', 'visit'))", name="participant_when_theirs"),
        CheckConstraint("(visit_id IS NOT NULL) = (scope = 'visit')", name="visit_when_its"),
        CheckConstraint("(visit_code IS NOT NULL) = (scope = 'visit_code')", name="code_when_its"),
        CheckConstraint(
            "(lifted_at IS NULL) = (lifted_by IS NULL) AND (lifted_at IS NULL) = (lifting_reason IS NULL)",
            name="lifted_whole",
        ),
        Index("ix_data_lock_page", "site_id", "set_at", "id"),
        Index("ix_data_lock_pid", "site_id", "pid"),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    kind: LockKind = Field(sa_type=String(8))
    scope: LockScope = Field(sa_type=String(16))
    pid: str | None = Field(default=None, max_length=12)
    visit_id: UUID | None = None
    visit_code: str | None = Field(default=None, max_length=64)
    reason: str = Field(sa_column=Column(Text, nullable=False))
    set_by: UUID = Field(foreign_key="account.id")
    set_at: datetime = Field(default_factory=now)
    lifted_by: UUID | None = Field(default=None, foreign_key="account.id")
    lifted_at: datetime | None = None
    lifting_reason: str | None = Field(default=None, sa_column=Column(Text))


class LockCreate(Shape):
    """The data to freeze or lock: a participant, a visit, the visits with a code at a site, a site, or, without any of
    these, the study."""

    kind: Annotated[LockKind, Strict(False)]
    study: Code
    site: Code | None = None
    participant: Pid | None = None
    visit: UUID | None = Bounded(default=None, strict=False)
    visit_code: Code | None = None
    reason: Reason

    @model_validator(mode="after")
    def _one_scope(self) -> "LockCreate":
        if sum(asked is not None for asked in (self.participant, self.visit, self.visit_code)) > 1:
            raise PydanticCustomError("several_scopes", "Give one of participant, visit and visit_code")
        if self.visit_code is not None and self.site is None:
            raise contradiction("site_missing", "A visit code is closed at a site: give the site too", "site")
        return self

    @property
    def scope(self) -> LockScope:
        asked = {
            LockScope.participant: self.participant,
            LockScope.visit: self.visit,
            LockScope.visit_code: self.visit_code,
            LockScope.site: self.site,
        }
        return next((scope for scope, given in asked.items() if given is not None), LockScope.study)


class LiftingCreate(Shape):
    reason: Reason


class LockRead(Answer):
    id: UUID
    kind: LockKind
    scope: LockScope
    study: str
    site: str | None
    """Null where the whole study is closed."""

    participant: PidShown | None
    visit: UUID | None
    visit_code: str | None
    reason: str
    set_by: UUID
    set_at: InstantShown
    in_force: bool
    lifted_by: UUID | None
    lifted_at: InstantShown | None
    lifting_reason: str | None


class LockList(Answer):
    items: list[LockRead]
    next: str | None


class LockFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    participant: Pid | None = None
    visit: UUID | None = None
    visit_code: Code | None = None
    kind: LockKind | None = None
    scope: LockScope | None = None
    in_force: QueryBool | None = None
    limit: Limit = 50
    cursor: Cursor = None
