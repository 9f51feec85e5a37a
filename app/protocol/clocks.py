"""Instants and calendar days: clinical deadlines are instants, days are those of the site's calendar."""

from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, Strict

from app.protocol.base import Code, Definition, Text, Title


class SusarKind(StrEnum):
    """Suspected unexpected serious adverse reactions, by how soon the authority must be informed."""

    fatal_or_life_threatening = "fatal_or_life_threatening"
    other = "other"


class Clock(Definition):
    """How soon a safety report is due. Exactly one of `hours` and `calendar_days`."""

    code: Code
    label: Title
    starts: Literal["site_aware", "sponsor_informed", "first_report"]
    hours: Annotated[int, Field(ge=1, le=8_760)] | None = None
    calendar_days: Annotated[int, Field(ge=1, le=365)] | None = None
    """Due by the end of that day; the day on which the clock starts is day 0."""

    event: Annotated[SusarKind, Strict(False)] | None = None
    """The unexpected reactions to which it applies; None: it is only documented and not checked."""

    source: Text

    def due_at(self, started: datetime, zone: ZoneInfo) -> datetime:
        """The deadline in UTC. Raises ValueError if `started` has no time zone."""
        if self.hours is not None:
            return instant(started) + timedelta(hours=self.hours)
        return end_of_day(local_day(started, zone) + timedelta(days=self.calendar_days or 0), zone)


def instant(at: datetime) -> datetime:
    """The same moment in UTC, where adding minutes is exact. Raises ValueError without a time zone."""
    if at.utcoffset() is None:
        raise ValueError("A moment needs its time zone")
    return at.astimezone(UTC)


def local_day(at: datetime, zone: ZoneInfo) -> date:
    """The calendar day at a site at this moment. Raises ValueError without a time zone."""
    return instant(at).astimezone(zone).date()


def end_of_day(day: date, zone: ZoneInfo) -> datetime:
    """The moment, in UTC, at which a calendar day of a site is over. A day has 23 or 25 hours where clocks change."""
    return datetime.combine(day + timedelta(days=1), time.min, zone).astimezone(UTC)
