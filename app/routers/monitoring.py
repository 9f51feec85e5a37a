"""The monitor's morning: what is urgent, in one call."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.access import Actor, requires
from app.database import ReadSession
from app.models.monitoring import MonitoringQuery, MonitoringSummary
from app.permissions import Permission
from app.services import monitoring
from app.web.route import StrictRoute

router = APIRouter(prefix="/v1/monitoring", tags=["monitoring"], route_class=StrictRoute)
Reader = Annotated[Actor, Depends(requires(Permission.monitoring_read))]


@router.get("/summary")
def read_summary(query: Annotated[MonitoringQuery, Query()], actor: Reader, session: ReadSession) -> MonitoringSummary:
    """What is overdue, due soon, or was downgraded at your sites, and how much waits at each."""
    return monitoring.summary(session, actor, query)
