"""The monitor's summary: clocks of adverse events, and what is urgent across sites."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field as Bounded

from app.models.base import Answer, Code, Filter, FromQuery, InstantShown, Limit
from app.models.identifiers import PidShown
from app.models.safety_signal import SignalSeverity
from app.models.sync import UnsettledActs
from app.protocol.expedited import ClockState


class ClockRead(Answer):
    code: str
    """`SAE-REPORT`, `FOLLOW-UP`, `INFORMATION`, or a clock of the protocol."""

    started_at: InstantShown
    due_at: InstantShown
    met_at: InstantShown | None
    state: ClockState


class ClockList(Answer):
    as_of: InstantShown
    items: list[ClockRead]
    next: str | None = None


class UrgentClock(ClockRead):
    """An open clock, with the event that it belongs to."""

    adverse_event: UUID
    participant: PidShown
    study: str
    site: str
    term: str


class EventRead(Answer):
    """Which event it is, for a list of what is urgent."""

    adverse_event: UUID
    participant: PidShown
    study: str
    site: str
    term: str


class DowngradedEvent(EventRead):
    """An event that has ceased to be serious, fatal or life-threatening, and that no monitor has reviewed since."""

    downgraded_at: InstantShown


class WaitsFor(StrEnum):
    """`authority`: the sponsor tells the authority that was informed, and a monitor records it (`authority_informed`).
    `site`: everybody knows, and the site voids the event."""

    authority = "authority"
    site = "site"


class NullifiedEvent(EventRead):
    """An event of which a report said that it never was, and that its site has not voided yet."""

    nullified_at: InstantShown
    nullification_reason: str
    waits_for: WaitsFor


class VoidedEvent(EventRead):
    """An event that its site voided as entered in error, and that no monitor has reviewed since: a serious one, one
    that was reported or told to an authority, or one about which a monitor had asked for information."""

    voided_at: InstantShown
    voiding_reason: str


class UnreviewedAlert(EventRead):
    """An event of a kind that the protocol marks `alert`, which you have not reviewed at its present version."""

    special_interest: str
    created_at: InstantShown


class OpenSignal(Answer):
    """A safety signal that nobody has reviewed."""

    safety_signal: UUID
    participant: PidShown
    study: str
    site: str
    rule: str
    severity: SignalSeverity
    holds_dosing: bool
    raised_at: InstantShown
    due_at: InstantShown


class SiteCounts(Answer):
    """The numbers of what waits at one site."""

    study: str
    site: str
    participants: int
    adverse_events: int
    serious: int
    unreviewed: int
    """Events that you have not reviewed at their present version, or that were reported on since."""

    unreviewed_serious: int
    overdue: int
    due_soon: int
    downgraded: int
    nullified: int
    voided: int
    alerts: int
    safety_signals_open: int
    safety_signals_overdue: int
    data_queries_open: int
    data_queries_answered: int
    """Answered by the site, and waiting for the monitor."""

    unsettled_acts: UnsettledActs


class MonitoringSummary(Answer):
    """Each list has the most urgent first and at most `limit` items; the counts of `sites` are complete."""

    as_of: InstantShown
    overdue: list[UrgentClock]
    due_soon: list[UrgentClock]
    downgraded: list[DowngradedEvent]
    nullified: list[NullifiedEvent]
    voided: list[VoidedEvent]
    alerts: list[UnreviewedAlert]
    safety_signals: list[OpenSignal]
    sites: list[SiteCounts]


class MonitoringQuery(Filter):
    study: Code | None = None
    site: Code | None = None
    soon_hours: Annotated[int, Bounded(ge=1, le=720), FromQuery] = 24
    """`due_soon` has what is due within this many hours."""

    limit: Limit = 100
