"""The windows of a page of visits, each by the protocol version that it was recorded by."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from sqlalchemy import Row, and_, select
from sqlmodel import Session

from app.access import Actor
from app.models.among import among
from app.models.base import table_of
from app.models.participant import Participant
from app.models.visit import Visit, VisitInWindow
from app.models.voided import counts
from app.protocol.schedule import Held, window_of
from app.services.assessments import visits
from app.services.studies import protocol_of

_PERSON, _VISIT = table_of(Participant), table_of(Visit)


def beside_windows(session: Session, actor: Actor, rows: Sequence[Row[Any]]) -> list[VisitInWindow]:
    """These visits, each with its window. One query."""
    versions, held = _courses(session, rows)
    reads = []
    for row in rows:
        protocol = protocol_of(session, row.protocol_version_id or versions[row.pid])
        visit = protocol.planned(row.visit_code)
        window = window_of(protocol, visit, held[row.pid], row.occurrence, row.occurred_on) if visit else None
        reads.append(visits.read_in_window(row, actor, window))
    return reads


def _courses(session: Session, rows: Sequence[Row[Any]]) -> tuple[Mapping[str, int], Mapping[str, Held]]:
    """By pid: the participant's protocol version, and the days of the visits that took place."""
    of_person = and_(_VISIT.c.site_id == _PERSON.c.site_id, _VISIT.c.pid == _PERSON.c.pid)
    took_place = and_(of_person, among(_VISIT.c.pid, "pids"), _VISIT.c.occurred_on.is_not(None), counts(_VISIT))
    of_visit = (_VISIT.c[name] for name in ("visit_code", "occurrence", "occurred_on"))
    wanted = (
        select(_PERSON.c.pid, _PERSON.c.protocol_version_id, *of_visit)
        .join_from(_PERSON, _VISIT, took_place, isouter=True)
        .where(_PERSON.c.site_id.in_(sorted({row.site_id for row in rows})), among(_PERSON.c.pid, "pids"))
    )
    versions: dict[str, int] = {}
    held: dict[str, dict[tuple[str, int], date]] = defaultdict(dict)
    pids = {"pids": sorted({row.pid for row in rows})}
    for pid, version_id, code, occurrence, day in session.execute(wanted, pids).all():
        versions[pid] = version_id
        if day is not None:
            held[pid][code, occurrence] = day
    return versions, held
