"""Planned visits: of one participant, and what is due at the sites of a study."""

from typing import Annotated

from fastapi import Depends, Query

from app.access import Actor, requires
from app.database import ReadSession
from app.models.identifiers import Pid
from app.models.schedule import DueList, DueQuery, ScheduleRead
from app.permissions import Permission
from app.services.assessments import schedules
from app.web.route import Router

router = Router(prefix="/v1/participants/{pid}", tags=["participants"])
of_study = Router(prefix="/v1/studies/{study}", tags=["participants"])
Reader = Annotated[Actor, Depends(requires(Permission.participant_read))]


@router.get("/schedule")
def read_schedule(pid: Pid, actor: Reader, session: ReadSession) -> ScheduleRead:
    """Every planned visit: its window where that is known, its state today, and which instruments are missing."""
    return schedules.schedule(session, actor, pid)


@of_study.get("/due")
def list_due(study: str, query: Annotated[DueQuery, Query()], actor: Reader, session: ReadSession) -> DueList:
    """What is due or overdue today at your sites, or whose window meets `from` to `to`."""
    return schedules.due(session, actor, study, query)
