"""Adverse events counted."""

from typing import Annotated

from fastapi import Depends, Query

from app.access import Actor, requires
from app.database import ReadSession
from app.models.ae_summary import AeSummary, AeSummaryQuery
from app.permissions import Permission
from app.services.safety import ae_summary
from app.web.route import Router

router = Router(prefix="/v1/adverse-events/summary", tags=["adverse events"])
Reader = Annotated[Actor, Depends(requires(Permission.adverse_event_read))]


@router.get("")
def summarise_adverse_events(
    query: Annotated[AeSummaryQuery, Query()], actor: Reader, session: ReadSession
) -> AeSummary:
    """Participants and events side by side, with denominators and rates, at your sites of a study."""
    return ae_summary.summary(session, actor, query)
