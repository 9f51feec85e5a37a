"""Outcomes: one administration of an instrument at a visit; the scores are the server's own."""

from collections.abc import Mapping
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID, uuid4

from pydantic import Field as Bounded
from pydantic import model_validator
from sqlalchemy import Column, ForeignKeyConstraint, Index, String, Text
from sqlmodel import Field, SQLModel

from app.models.base import (
    Answer,
    Code,
    Cursor,
    Filter,
    InstantShown,
    Limit,
    PastDate,
    QueryBool,
    Reason,
    Shape,
    now,
    one_of,
)
from app.models.contradiction import contradiction
from app.models.identifiers import Pid, PidShown, StaffCode
from app.models.voided import Voidable, once, voided_whole
from app.protocol import scoring
from app.protocol.instruments import instruments


class OutcomeOrigin(StrEnum):
    """Whether an outcome's scores were computed from items or imported as totals."""

    historical_total = "historical_total"
    items = "items"


def answered(row: Any, items: Mapping[str, Any]) -> bool:
    """Whether anything was measured: an item has a value, or there are historical totals."""
    return row.origin == OutcomeOrigin.historical_total or any(value is not None for value in items.values())


def done(row: Any, items: Mapping[str, Any]) -> bool:
    """Whether an outcome is complete enough to count as the form that a protocol asks for."""
    instrument = instruments()[f"{row.instrument}/{row.instrument_version}"]
    return row.origin == OutcomeOrigin.historical_total or scoring.done(instrument, items)


class Outcome(Voidable, table=True):
    """Item values as given. One instrument is administered once at a visit."""

    __table_args__ = (
        ForeignKeyConstraint(["site_id", "visit_id"], ["visit.site_id", "visit.id"]),
        ForeignKeyConstraint(["site_id", "pid"], ["participant.site_id", "participant.pid"]),
        once("uq_outcome_site_id_visit_id_instrument", "site_id", "visit_id", "instrument"),
        one_of("origin", OutcomeOrigin),
        voided_whole(),
        Index("ix_outcome_page", "site_id", "created_at", "id"),
        Index("ix_outcome_pid", "site_id", "pid"),
    )

    site_id: int = Field(primary_key=True)
    id: UUID = Field(default_factory=uuid4, primary_key=True)
    pid: str = Field(max_length=12)
    visit_id: UUID
    instrument: str = Field(max_length=64)
    instrument_version: str = Field(max_length=64)
    collected_on: date | None = None
    items: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON {item code: value or null}; every item of the instrument is present."""

    rater: str | None = Field(default=None, max_length=64)
    origin: OutcomeOrigin = Field(
        default=OutcomeOrigin.items, sa_type=String(20), sa_column_kwargs={"server_default": "items"}
    )
    """`historical_total`: imported totals without items."""

    version: int = 1
    created_by: UUID = Field(foreign_key="account.id")
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)


class OutcomeScore(SQLModel, table=True):
    """One score of an outcome, with the rule and version that computed it."""

    __tablename__ = "outcome_score"
    __table_args__ = (
        ForeignKeyConstraint(["site_id", "outcome_id"], ["outcome.site_id", "outcome.id"]),
        {"sqlite_with_rowid": False},  # its rows are small and always sought by their key: one tree instead of two
    )

    site_id: int = Field(primary_key=True)
    outcome_id: UUID = Field(primary_key=True)
    name: str = Field(primary_key=True, max_length=64)
    value: float | None = None
    band: str | None = Field(default=None, max_length=64)
    reason: str | None = Field(default=None, max_length=200)
    rule: str = Field(max_length=128)


Items = Annotated[dict[Code, Annotated[int, Bounded(ge=-1_000_000, le=1_000_000)] | None], Bounded(max_length=200)]
"""Item code -> whole number, or null for a missing or not applicable item. The instrument sets the ranges."""


Totals = Annotated[dict[Code, Annotated[float, Bounded(ge=-1_000_000, le=1_000_000)]], Bounded(max_length=50)]
"""Name of a score -> its value, as the client has it."""


class OutcomeInVisit(Shape):
    instrument: Code
    instrument_version: Code | None = None
    """Absent: the newest version shipped."""

    collected_on: PastDate | None = None
    rater: StaffCode | None = None
    """The rater's code at the site; absent for self-rated instruments."""

    items: Items | None = None
    """Absent only for historical totals, if the protocol accepts them."""

    totals: Totals | None = None
    """The client's own scores: beside items they must equal the server's, without items they are historical."""

    @model_validator(mode="after")
    def _something_was_measured(self) -> "OutcomeInVisit":
        if self.items is None and not self.totals:
            raise contradiction("items_missing", "Give items, or the totals of a historical outcome", "items")
        return self


class OutcomeCreate(OutcomeInVisit):
    participant: Pid
    visit: UUID = Bounded(strict=False)


class OutcomeAmend(Shape):
    """A correction: the items sent replace the stored values of the same codes; scores are computed again."""

    reason: Reason
    collected_on: PastDate | None = None
    rater: StaffCode | None = None
    items: Items | None = None
    totals: Totals | None = None
    """For a historical outcome the new scores; for any other a check against the server's."""


class Rescoring(Shape):
    """Why an outcome is scored again, and by which version of its instrument: absent, the newest."""

    reason: Reason
    instrument_version: Code | None = None


class ScoreRead(Answer):
    name: str
    value: int | float | None
    band: str | None
    reason: str | None
    rule: str


class OutcomeRead(Answer):
    id: UUID
    participant: PidShown
    study: str
    site: str
    visit: UUID
    visit_code: str
    instrument: str
    instrument_version: str
    collected_on: date | None
    rater: str | None
    items: dict[str, int | None]
    origin: OutcomeOrigin
    scores: list[ScoreRead]
    version: int
    created_at: InstantShown
    updated_at: InstantShown
    voided_at: InstantShown | None
    """When it was voided as entered in error; since then it counts as never recorded."""

    voiding_reason: str | None


class OutcomeList(Answer):
    items: list[OutcomeRead]
    next: str | None


class OutcomeFilter(Filter):
    study: Code | None = None
    site: Code | None = None
    participant: Pid | None = None
    instrument: Code | None = None
    visit_code: Code | None = None
    voided: QueryBool = False
    """True: only what was voided."""

    limit: Limit = 50
    cursor: Cursor = None
