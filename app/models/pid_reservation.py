"""Blocks of pids reserved for a site before anybody is enrolled under them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID, uuid4

from pydantic import Field as Bounded
from sqlalchemy import CheckConstraint, Column, ForeignKeyConstraint, Index, Text
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Code, Cursor, Filter, InstantShown, Limit, QueryBool, Reason, Shape, now
from app.models.identifiers import PidShown

LARGEST_BLOCK = 500


class PidReservation(SQLModel, table=True):
    """One block of pids: for which device, and whether it is closed."""

    __tablename__ = "pid_reservation"
    __table_args__ = (
        CheckConstraint(
            "(closed_at IS NULL) = (closed_by IS NULL) AND (closed_at IS NULL) = (closing_reason IS NULL)",
            name="closed_whole",
        ),
        Index("ix_pid_reservation_page", "site_id", "created_at", "id"),
    )

    site_id: int = Field(foreign_key="site.id", primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    device: str | None = Field(default=None, max_length=64)
    created_by: UUID = Field(foreign_key="account.id")
    created_at: datetime = Field(default_factory=now)
    closed_by: UUID | None = Field(default=None, foreign_key="account.id")
    closed_at: datetime | None = None
    closing_reason: str | None = Field(default=None, sa_column=Column(Text))


class ReservedPid(SQLModel, table=True):
    """One pid of a block. It is never deleted, so that the pid is never drawn again."""

    __tablename__ = "reserved_pid"
    __table_args__ = (
        ForeignKeyConstraint(["site_id", "reservation_id"], ["pid_reservation.site_id", "pid_reservation.id"]),
        Index("ix_reserved_pid_pid", "pid"),
        Index("ix_reserved_pid_reservation", "site_id", "reservation_id"),
    )

    site_id: int = Field(primary_key=True)
    pid: str = Field(primary_key=True, max_length=12)
    reservation_id: UUID


class ReservationCreate(Shape):
    study: Code
    site: Code
    count: Annotated[int, Bounded(ge=1, le=LARGEST_BLOCK)]
    device: Code | None = None
    """The tablet or laptop that uses the block, by the site's own code; not a person's name."""


class ClosureCreate(Shape):
    reason: Reason


class ReservationRead(Answer):
    id: UUID
    study: str
    site: str
    device: str | None
    drawn: int
    pids: list[PidShown]
    """The pids under which nobody is enrolled yet."""

    created_at: InstantShown
    closed_at: InstantShown | None


class ReservationList(Answer):
    items: list[ReservationRead]
    next: str | None


class ReservationFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    device: Code | None = None
    open: QueryBool | None = None
    limit: Limit = 50
    cursor: Cursor = None
