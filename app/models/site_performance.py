"""How the sites of a study do, as a monitor is shown it."""

from app.models.base import Answer
from app.models.data_query_shapes import QueryCounts
from app.models.participant import ParticipantStatus
from app.models.sync import UnsettledActs
from app.models.verification import RecordCoverage
from app.protocol.site_rates import RateMark


class EnrolmentCounts(Answer):
    registered: int
    """Everybody with a pid, also those who were screened only."""

    enrolled: int
    """Those with a day of enrolment, whatever became of them."""

    by_status: dict[ParticipantStatus, int]


class WindowCompliance(Answer):
    with_window: int
    """Visits held whose window is known."""

    in_window: int
    share: float | None


class EventReporting(Answer):
    events: int
    """Of enrolled participants, that can have begun within their participant-months."""

    participant_months: float
    """From enrolment to leaving, or until today."""

    per_participant_month: float | None
    expected: float | None
    mark: RateMark | None


class SitePerformance(Answer):
    site: str
    participants: EnrolmentCounts
    visits: WindowCompliance
    data_queries: QueryCounts
    data_queries_per_participant: float | None
    """All but the cancelled ones, by registered participants."""

    adverse_events: EventReporting
    verification: RecordCoverage
    unsettled_acts: UnsettledActs


class MonitoringSites(Answer):
    study: str
    sites: list[SitePerformance]
