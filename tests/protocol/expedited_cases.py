"""What is said, reported and reviewed of a serious event on which day, and the clocks that follow."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from app.protocol.clocks import Clock, SusarKind
from app.protocol.expedited import EventFacts, Report, Review, RunningClock, Said, clocks

NOON = datetime(2026, 3, 27, 12, tzinfo=UTC)
"""A Friday; on the Sunday after it clocks go forward in Berlin."""

WITHIN = timedelta(hours=24)
FATAL, OTHER = (
    Clock(code=code, label="x", starts="sponsor_informed", event=kind, calendar_days=days, source="t")
    for code, kind, days in (("FATAL", SusarKind.fatal_or_life_threatening, 7), ("OTHER", SusarKind.other, 15))
)
SUSAR, EXPECTED, UNLIKELY = (True, False), (True, True), (False, False)
"""Assessments: whether the sponsor suspects the drug, and expects the event."""


def at(day: float) -> datetime:
    return NOON + timedelta(days=day)


def said(
    day: float,
    *criteria: str,
    version: int = 1,
    suspected: bool = False,
    aware: float | None = None,
    within: timedelta = WITHIN,
) -> Said:
    aware_at = None if aware is None else at(aware)
    return Said(version, at(day), aware_at, frozenset(criteria), suspected, None, within)


def reported(day: float, version: int = 1) -> Report:
    return Report(version, at(day))


def nullified(day: float, version: int = 1) -> Report:
    return Report(version, at(day), nullifies=True)


def assessed(day: float, verdict: tuple[bool, bool], version: int = 1) -> Review:
    return Review(version, at(day), *verdict)


def informed(day: float, version: int = 1) -> Review:
    return Review(version, at(day), informed_at=at(day))


def facts(*versions: Said, reports: tuple[Report, ...] = (), reviews: tuple[Review, ...] = ()) -> EventFacts:
    return EventFacts(versions, reports, reviews)


def found(given: EventFacts, zone: str = "UTC") -> dict[str, RunningClock]:
    return {one.code: one for one in clocks(given, [FATAL, OTHER], ZoneInfo(zone))}


def days(clock: RunningClock | None) -> tuple[float | None, ...] | None:
    """Start, due time and end of a clock in days since noon."""
    if clock is None:
        return None
    return tuple(one and round((one - NOON) / timedelta(days=1), 6) for one in clock[1:])


HOSPITAL, DEATH = said(0, "hospitalisation"), said(0, "death")
DIED = (HOSPITAL, said(9, "hospitalisation", "death", version=2))
