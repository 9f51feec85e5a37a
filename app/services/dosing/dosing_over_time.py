"""What the pass asks about dosing days: findings of doses and vital signs, and what is missing when a day is over."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, func, select
from sqlmodel import Session, col

from app.models.base import columns, from_json
from app.models.data_query import SubjectType
from app.models.dosing_session import Dose, DosingSession, SessionState, VitalReading
from app.models.participant import Participant
from app.models.visit import HELD, Visit
from app.models.voided import counts
from app.protocol.definition import Protocol
from app.protocol.vitals import open_vitals
from app.services.dosing.dosing_day import moments, taken
from app.services.quality.rule_queries import VITALS_MISSING, Doubt, doubts_of_session
from app.services.studies import protocol_of

_Parts = dict[UUID, list[Any]]
_PLANNED_BY = func.coalesce(col(Visit.protocol_version_id), col(Participant.protocol_version_id)).label("planned_by")
_DAYS = (
    select(
        *(col(one) for one in (Visit.id, Visit.pid, Visit.visit_code, Visit.occurred_on, Visit.ended_on)),
        *(col(one) for one in (DosingSession.state, DosingSession.ended_at)),
        col(DosingSession.id).label("session_id"),
        _PLANNED_BY,
    )
    .join(Participant, (col(Participant.site_id) == col(Visit.site_id)) & (col(Participant.pid) == col(Visit.pid)))
    .outerjoin(
        DosingSession,
        (col(DosingSession.site_id) == col(Visit.site_id))
        & (col(DosingSession.visit_id) == col(Visit.id))
        & counts(DosingSession),
    )
    .where(col(Visit.status).in_(HELD), counts(Visit))
)
"""Visits that took place, each with its dosing session if it has one."""


def doubts_of_dosing(session: Session, site_id: int, today: date) -> Iterator[Doubt]:
    """Of a whole site, in three statements."""
    doses = _by_session(session, site_id, Dose)
    readings = _by_session(session, site_id, VitalReading, counts(VitalReading))
    for row in session.execute(_DAYS.where(col(Visit.site_id) == site_id)):
        protocol = protocol_of(session, row.planned_by)
        if row.session_id is not None:
            parts = [("/doses", one) for one in doses[row.session_id]]
            parts += [("/vitals", one) for one in readings[row.session_id]]
            found = [(place, one.id, from_json(one.findings)) for place, one in parts]
            yield from doubts_of_session(row.pid, row.session_id, found)
            if row.state == SessionState.closed:
                yield from _of_vitals(protocol, row, doses[row.session_id], readings[row.session_id])
        elif protocol.dosing and protocol.dosing.dose(row.visit_code) and (row.ended_on or row.occurred_on) < today:
            message = "A dosing visit that took place, and no dosing session of it is recorded"
            yield Doubt("dosing_session_missing", message, row.pid, SubjectType.visit, row.id)


def _by_session(
    session: Session, site_id: int, model: type[Dose] | type[VitalReading], *those: ColumnElement[bool]
) -> _Parts:
    grouped: _Parts = defaultdict(list)
    of_it = (col(DosingSession.site_id) == col(model.site_id)) & (col(DosingSession.id) == col(model.session_id))
    theirs = select(*columns(model)).join(DosingSession, of_it)
    for row in session.execute(theirs.where(col(model.site_id) == site_id, counts(DosingSession), *those)):
        grouped[row.session_id].append(row)
    return grouped


def _of_vitals(protocol: Protocol, row: Any, doses: list[Any], readings: list[Any]) -> Iterator[Doubt]:
    """One question for each time point of a closed session, however many of its measures are missing."""
    missing: dict[str, list[str]] = defaultdict(list)
    if protocol.vitals is not None:
        for one in open_vitals(protocol.vitals, moments(row, doses), taken(readings)):
            missing[one.timepoint].append(one.measure)
    for timepoint, measures in missing.items():
        message = f"The session is closed without the vital signs of {timepoint}: {', '.join(measures)}"
        about = SubjectType.dosing_session, row.session_id
        yield Doubt(VITALS_MISSING, message, row.pid, *about, field="/vitals", detail=timepoint)
