"""The state of the registry as a monitoring system sees it: counts of the whole deployment."""

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlmodel import Session, col

from app.database import within
from app.models.adverse_event import AdverseEvent
from app.models.base import now
from app.models.extract import Extract, ExtractStatus
from app.models.notification import Delivery, DeliveryState
from app.models.safety_report import SaeReport
from app.models.sync import SyncOperation, SyncState
from app.services.outbox import every_site


class State(Collector):
    """Asked of the database at each scrape."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def collect(self) -> Iterator[Metric]:
        building = [ExtractStatus.requested, ExtractStatus.building, ExtractStatus.failed]
        yield self._counted("registry_extracts", "Extracts that wait for somebody", col(Extract.status), building)
        open_ones = [DeliveryState.pending, DeliveryState.dead]
        yield self._counted("registry_deliveries", "Messages not delivered", col(Delivery.state), open_ones)
        held = [SyncState.waiting, SyncState.refused]
        yield self._counted("registry_sync_operations", "Acts of apps not stored", col(SyncOperation.state), held)
        overdue = GaugeMetricFamily("registry_serious_events_overdue", "Serious events past their clock, unreported")
        overdue.add_metric([], self._overdue())
        yield overdue

    def _counted(self, name: str, about: str, column: Any, states: Iterable[str]) -> Metric:
        wanted = [str(state) for state in states]
        counted = sa.select(column, sa.func.count()).where(column.in_(wanted)).group_by(column)
        found = {str(state): count for state, count in self._session.execute(counted)}
        family = GaugeMetricFamily(name, about, labels=["state"])
        for state in wanted:
            family.add_metric([state], found.get(state, 0))
        return family

    def _overdue(self) -> int:
        sent = sa.select(col(SaeReport.number)).where(
            col(SaeReport.site_id) == col(AdverseEvent.site_id),
            col(SaeReport.adverse_event_id) == col(AdverseEvent.id),
        )
        late = sa.select(sa.func.count()).where(col(AdverseEvent.due_at) < now(), ~sent.exists())
        with within(self._session, every_site(self._session)):
            return int(self._session.execute(late).scalar_one())
