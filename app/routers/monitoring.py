"""Overviews for monitors: what is urgent, data queries by age, and the performance of sites."""

from typing import Annotated

from fastapi import Depends, Query

from app.access import Actor, requires
from app.database import ReadSession
from app.models.data_query_shapes import MonitoringQueries, StudyQuery
from app.models.monitoring import MonitoringQuery, MonitoringSummary
from app.models.site_performance import MonitoringSites
from app.permissions import Permission
from app.services.quality import monitoring
from app.services.quality.query_ages import monitoring_queries
from app.services.quality.site_performance import monitoring_sites
from app.web.route import Router

router = Router(prefix="/v1/monitoring", tags=["monitoring"])
Monitor = Annotated[Actor, Depends(requires(Permission.monitoring_read))]


@router.get("/summary")
def read_summary(query: Annotated[MonitoringQuery, Query()], actor: Monitor, session: ReadSession) -> MonitoringSummary:
    """What is overdue, due soon, or was downgraded at your sites, and how much is waiting at each."""
    return monitoring.summary(session, actor, query)


@router.get("/queries")
def read_query_ages(query: Annotated[StudyQuery, Query()], actor: Monitor, session: ReadSession) -> MonitoringQueries:
    """How many data queries are in each state at your sites of a study, and how old the open ones are."""
    return monitoring_queries(session, actor, query.study)


@router.get("/sites")
def read_site_performance(
    query: Annotated[StudyQuery, Query()], actor: Monitor, session: ReadSession
) -> MonitoringSites:
    """Enrolment, visit windows, data queries, adverse events and verification of a study's sites, side by side."""
    return monitoring_sites(session, actor, query.study)
