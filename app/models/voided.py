"""Records that a site entered in error: for another participant, or twice.

They are voided and never deleted. The row keeps what it said (ICH E6(R3), 4.2.2 and 4.2.4) and counts as never
recorded, also for days past. docs/decisions/0035 says what follows from it.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ColumnElement, Index, Text, text
from sqlmodel import Field, SQLModel

from app.models.base import LongReason, Shape

_STAYS = "voided_at IS NULL"


class Voidable(SQLModel):
    """The columns of a table of records that can be voided."""

    voided_by: UUID | None = Field(default=None, foreign_key="account.id")
    voided_at: datetime | None = None
    """When it was voided; since then it counts as never recorded."""

    voiding_reason: str | None = Field(default=None, sa_type=Text)

    def void(self, by: UUID, at: datetime, reason: str) -> None:
        """Let the record count no more."""
        self.voided_by, self.voided_at, self.voiding_reason = by, at, reason


VOIDING_FIELDS = ("voided_at", "voiding_reason")
"""The fields of an answer that a voiding changes, for whoever saw an earlier version."""


class RecordVoiding(Shape):
    """Why a record was entered in error."""

    reason: LongReason


def counts(records: Any) -> ColumnElement[bool]:
    """The condition that rows of `records` (a model, an alias of one, or a table) are not voided. Every statement about
    what was recorded must contain it; tests/test_voided_everywhere.py finds those that do not. An outcome or a dosing
    session that counts belongs to a visit that does; doses count with their session, and readings of vital signs with
    their session and by themselves."""
    there: ColumnElement[bool] = getattr(records, "c", records).voided_at.is_(None)
    return there


def voided_whole() -> CheckConstraint:
    """A constraint: who voided a row, when and why are all given, or none of them."""
    rule = "(voided_at IS NULL) = (voided_by IS NULL) AND (voided_at IS NULL) = (voiding_reason IS NULL)"
    return CheckConstraint(rule, name="voided_whole")


def once(name: str, *columns: str, among: str | None = None) -> Index:
    """A unique index of the rows that are not voided (and meet the condition `among`), so that what was voided can be
    recorded anew."""
    where = text(f"{among} AND {_STAYS}") if among else text(_STAYS)
    return Index(name, *columns, unique=True, sqlite_where=where, postgresql_where=where)
