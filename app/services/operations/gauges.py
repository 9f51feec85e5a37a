"""The state of the registry as a monitoring system sees it: counts of the whole deployment."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col

from app.database import Database, within
from app.models.base import now
from app.models.extract import Extract, ExtractStatus
from app.models.notification import DeliveryState
from app.models.sync import SyncOperation, SyncState
from app.outages import reason
from app.services.offline.sync_shelf import UNSETTLED
from app.services.operations.overdue_work import Undelivered, last_backup, undelivered
from app.services.safety.sae_clocks import overdue
from app.services.studies import every_site

log = structlog.get_logger()

_HELD = "held"
_ACT_IS = sa.case(
    (sa.and_(col(SyncOperation.state) == SyncState.waiting, col(SyncOperation.problem).is_not(None)), _HELD),
    else_=col(SyncOperation.state),
)
"""The metric's label for each state of an act of sync: `waiting` acts are done without anybody's help, `held` ones wait
for a person, for example to lift a lock."""


class State(Collector):
    """Queries the database at each scrape. While it is not reachable, its only metric is `registry_database_up` 0."""

    def __init__(self, database: Database, backup_folder: Path | None) -> None:
        self._database, self._backup_folder = database, backup_folder

    def collect(self) -> Iterator[Metric]:
        yield _last_backup(self._backup_folder)
        found: list[Metric] = []
        try:
            with self._database.read() as session:
                found = list(_figures(session))
        except SQLAlchemyError as away:
            log.warning("database_away_at_scrape", kind=type(away).__name__, reason=reason(away))
        yield GaugeMetricFamily("registry_database_up", "Whether the database answers", value=bool(found))
        yield from found


def _figures(session: Session) -> Iterator[Metric]:
    building = [ExtractStatus.requested, ExtractStatus.building, ExtractStatus.failed]
    yield _counted(session, "registry_extracts", "Extracts that wait for somebody", col(Extract.status), building)
    yield from _messages(undelivered(session))
    unsettled = [SyncState.waiting, _HELD, SyncState.refused]
    yield _counted(session, "registry_sync_operations", "Acts of apps not stored", _ACT_IS, unsettled)
    yield _oldest_act(session)
    about = "Events with a clock that ran out unmet"
    yield GaugeMetricFamily("registry_serious_events_overdue", about, value=_overdue(session))


def _messages(found: Mapping[str, Undelivered]) -> Iterator[Metric]:
    counted = GaugeMetricFamily("registry_deliveries", "Messages not delivered", labels=["state"])
    for state, of_it in found.items():
        counted.add_metric([state], of_it.messages)
    yield counted
    at, pending = now(), found[DeliveryState.pending]
    for name, about, since in (
        ("registry_delivery_late_seconds", "How long a message that is due has waited for a worker", pending.due),
        ("registry_delivery_oldest_seconds", "Age of the oldest pending message", pending.oldest),
    ):
        yield GaugeMetricFamily(name, about, value=max(0.0, (at - since).total_seconds()) if since else 0)


def _last_backup(folder: Path | None) -> Metric:
    """0 if the folder shows no backup; no sample if no folder is configured."""
    family = GaugeMetricFamily("registry_backup_timestamp_seconds", "When the last backup was made")
    if folder is not None:
        made = None
        with suppress(OSError):
            made = last_backup(folder)
        family.add_metric([], made.timestamp() if made else 0)
    return family


def _counted(session: Session, name: str, about: str, column: Any, states: Iterable[str]) -> Metric:
    wanted = [str(state) for state in states]
    counted = sa.select(column, sa.func.count()).where(column.in_(wanted)).group_by(column)
    found = {str(state): count for state, count in session.execute(counted)}
    family = GaugeMetricFamily(name, about, labels=["state"])
    for state in wanted:
        family.add_metric([state], found.get(state, 0))
    return family


def _oldest_act(session: Session) -> Metric:
    of_unsettled = sa.select(sa.func.min(SyncOperation.created_at)).where(col(SyncOperation.state).in_(UNSETTLED))
    came = session.execute(of_unsettled).scalar_one()
    age = max(0.0, (now() - came).total_seconds()) if came else 0
    return GaugeMetricFamily("registry_sync_oldest_seconds", "Age of the oldest act of an app not stored", value=age)


def _overdue(session: Session) -> int:
    sites = every_site(session)
    with within(session, sites):
        return len({clock.event_id for clock in overdue(session, sites, now())})
