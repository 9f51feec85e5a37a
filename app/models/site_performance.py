"""The performance of a study's sites, for monitors."""

from app.models.base import Answer
from app.models.data_query_shapes import QueryCounts
from app.models.participant import ParticipantStatus
from app.models.sync import UnsettledActs
from app.models.verification import RecordCoverage
from app.protocol.site_rates import RateMark


class EnrolmentCounts(Answer):
    registered: int
    """All participants, also those who were only screened."""

    enrolled: int
    """Those with a day of enrolment, whatever their present status."""

    by_status: dict[ParticipantStatus, int]


class WindowCompliance(Answer):
    with_window: int
    """The number of visits that took place and whose window is known."""

    in_window: int
    share: float | None


class EventReporting(Answer):
    events: int
    """Events of enrolled participants that can have begun within their participant-months."""

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
    """Data queries that are not cancelled, divided by registered participants."""

    adverse_events: EventReporting
    verification: RecordCoverage
    unsettled_acts: UnsettledActs


class MonitoringSites(Answer):
    study: str
    sites: list[SitePerformance]
