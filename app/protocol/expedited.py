"""The clocks of one serious adverse event: what is due to whom, by when, and when it was met."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from zoneinfo import ZoneInfo

from app.protocol.clocks import Clock, SusarKind

FIRST_REPORT, INFORMATION = "SAE-REPORT", "INFORMATION"
"""Codes of the two clocks that every study has: the first report, and the answer to a request for information."""


class ClockState(StrEnum):
    late = "late"
    met = "met"
    overdue = "overdue"
    running = "running"


class RunningClock(NamedTuple):
    """One deadline. `met_at` None: still open."""

    code: str
    started_at: datetime
    due_at: datetime
    met_at: datetime | None

    def state(self, at: datetime) -> ClockState:
        """How it stands at a moment: what comes exactly at its time is in time."""
        if self.met_at is not None:
            return ClockState.late if self.met_at > self.due_at else ClockState.met
        return ClockState.overdue if at > self.due_at else ClockState.running


class EventFacts(NamedTuple):
    """What the clocks of an event hang on. Reports and requests are moments, oldest first."""

    started_at: datetime
    due_at: datetime | None
    """None for an event that is not serious (any more): no first report is due."""

    reported: tuple[datetime, ...]
    requests: tuple[tuple[datetime, datetime], ...]
    """Requests for information: when asked, and by when."""

    susar_since: datetime | None
    """When the last assessment called it a suspected unexpected serious adverse reaction; None: it did not."""

    fatal_or_life_threatening: bool
    authority_informed: datetime | None


def clocks(facts: EventFacts, expedited: Iterable[Clock], zone: ZoneInfo) -> Iterator[RunningClock]:
    """Every clock of the event. The sponsor is informed by the first report, or, where an assessment came before any
    report, by that (Regulation (EU) 536/2014, article 42(2); 21 CFR 312.32(c): from the sponsor's knowledge)."""
    first = facts.reported[0] if facts.reported else None
    if facts.due_at is not None:
        yield RunningClock(FIRST_REPORT, facts.started_at, facts.due_at, first)
    for asked_at, due_at in facts.requests:
        answered = next((at for at in facts.reported if at >= asked_at), None)
        yield RunningClock(INFORMATION, asked_at, due_at, answered)
    if facts.susar_since is None:
        return
    kind = SusarKind.fatal_or_life_threatening if facts.fatal_or_life_threatening else SusarKind.other
    started = min(first or facts.susar_since, facts.susar_since)
    for clock in expedited:
        if clock.event == kind:
            yield RunningClock(clock.code, started, clock.due_at(started, zone), facts.authority_informed)
