"""The state of the registry as a monitoring system sees it: counts of the whole deployment."""

from collections.abc import Iterable, Iterator
from typing import Any

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlmodel import Session, col

from app.database import within
from app.models.base import now
from app.models.extract import Extract, ExtractStatus
from app.models.sync import SyncOperation, SyncState
from app.services.backlog import undelivered
from app.services.outbox import every_site
from app.services.sae_clocks import overdue

_HELD = "held"
_ACT_IS = sa.case(
    (sa.and_(col(SyncOperation.state) == SyncState.waiting, col(SyncOperation.problem).is_not(None)), _HELD),
    else_=col(SyncOperation.state),
)
"""What waits by itself is done by itself; what is held, by a lock perhaps, waits for a person."""


class State(Collector):
    """Asked of the database at each scrape."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def collect(self) -> Iterator[Metric]:
        building = [ExtractStatus.requested, ExtractStatus.building, ExtractStatus.failed]
        yield self._counted("registry_extracts", "Extracts that wait for somebody", col(Extract.status), building)
        waiting = GaugeMetricFamily("registry_deliveries", "Messages not delivered", labels=["state"])
        for state, of_it in undelivered(self._session).items():
            waiting.add_metric([state], of_it.messages)
        yield waiting
        unsettled = [SyncState.waiting, _HELD, SyncState.refused]
        yield self._counted("registry_sync_operations", "Acts of apps not stored", _ACT_IS, unsettled)
        late = GaugeMetricFamily("registry_serious_events_overdue", "Events with a clock that ran out unmet")
        late.add_metric([], self._overdue())
        yield late

    def _counted(self, name: str, about: str, column: Any, states: Iterable[str]) -> Metric:
        wanted = [str(state) for state in states]
        counted = sa.select(column, sa.func.count()).where(column.in_(wanted)).group_by(column)
        found = {str(state): count for state, count in self._session.execute(counted)}
        family = GaugeMetricFamily(name, about, labels=["state"])
        for state in wanted:
            family.add_metric([state], found.get(state, 0))
        return family

    def _overdue(self) -> int:
        sites = every_site(self._session)
        with within(self._session, sites):
            return len({clock.event_id for clock in overdue(self._session, sites, now())})
