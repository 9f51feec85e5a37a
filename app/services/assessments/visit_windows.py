"""The windows of a page of visits, each by the protocol version that it was recorded by."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from sqlalchemy import Row, and_, select
from sqlmodel import Session

from app.access import Actor
from app.models.among import among
from app.models.base import table_of
from app.models.participant import Participant
from app.models.visit import Visit, VisitInWindow
from app.models.voided import counts
from app.protocol.schedule import Held, Window, window_of
from app.services.assessments import visits
from app.services.studies import protocol_of

_PERSON, _VISIT = table_of(Participant), table_of(Visit)


class Courses(NamedTuple):
    """By pid: the participant's protocol version, and the days of the visits that took place."""

    versions: Mapping[str, int]
    held: Mapping[str, Held]


def beside_windows(session: Session, actor: Actor, rows: Sequence[Row[Any]]) -> list[VisitInWindow]:
    """These visits, each with its window. One query."""
    courses = _courses(session, rows)
    return [visits.read_in_window(row, actor, _window(session, row, courses)) for row in rows]


def _courses(session: Session, rows: Sequence[Row[Any]]) -> Courses:
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
    for pid, version_id, code, occurrence, day in session.execute(
        wanted, {"pids": sorted({row.pid for row in rows})}
    ).all():
        versions[pid] = version_id
        if day is not None:
            held[pid][code, occurrence] = day
    return Courses(versions, held)


def _window(session: Session, row: Row[Any], courses: Courses) -> Window | None:
    protocol = protocol_of(session, row.protocol_version_id or courses.versions[row.pid])
    visit, held = protocol.planned(row.visit_code), courses.held[row.pid]
    return window_of(protocol, visit, held, row.occurrence, row.occurred_on) if visit else None
