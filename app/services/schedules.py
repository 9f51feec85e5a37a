"""Schedules: of one participant, and what is due across the sites of a study. A handful of queries for either."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

from sqlalchemy import Row, select
from sqlmodel import Session

from app.access import Actor
from app.errors import NotFound
from app.models.base import now, table_of
from app.models.outcome import Outcome
from app.models.participant import Consent, Participant, ParticipantStatus
from app.models.schedule import DueList, DueQuery, DueVisit, PlannedVisitRead, ScheduleRead
from app.models.study import Site
from app.models.visit import Visit, WindowRead
from app.protocol.clocks import local_day
from app.protocol.planning import PlannedVisit, Recorded, VisitState, plan
from app.services import consents
from app.services.participants import enrolled
from app.services.studies import protocol_of

_PERSON, _VISIT, _OUTCOME, _CONSENT, _SITE = (table_of(model) for model in (Participant, Visit, Outcome, Consent, Site))
_LEFT = frozenset(
    {
        ParticipantStatus.withdrawn,
        ParticipantStatus.died,
        ParticipantStatus.lost_to_follow_up,
        ParticipantStatus.terminated,
        ParticipantStatus.screen_failed,
    }
)
_WAITING = frozenset({VisitState.due, VisitState.overdue})


def schedule(session: Session, actor: Actor, symbols: str) -> ScheduleRead:
    """Every planned visit of a participant, on today's calendar of the site. Raises NotFound."""
    person = enrolled(session, actor, symbols)
    today = _today(session, [person.site_id])[person.site_id]
    recorded = _recorded(session, [person.site_id], person.row.pid)[person.row.pid]
    left_on = person.row.status_on if ParticipantStatus(person.row.status) in _LEFT else None
    agreed = consents.agreed(session, person)
    planned = plan(person.protocol, recorded, today, left_on, agreed.scopes(today))
    return ScheduleRead(
        participant=person.row.pid,
        protocol_version=person.protocol_version,
        today=today,
        items=[PlannedVisitRead(**_shown(visit)) for visit in planned],
        reconsent_to=consents.reconsents(person, agreed, today),
    )


def due(session: Session, actor: Actor, study: str, query: DueQuery) -> DueList:
    """What is due or overdue at the actor's sites of a study, or whose window meets a period. Raises NotFound."""
    sites = actor.sites_at(study, query.site)
    if not sites:
        raise NotFound
    today, recorded, scopes = _today(session, sites), _recorded(session, sites), _scopes(session, sites)
    found = [
        DueVisit(**_shown(visit), participant=row.pid, site=actor.places[row.site_id].site)
        for row in session.execute(select(_PERSON).where(_PERSON.c.site_id.in_(sites)))
        for visit in _planned(session, row, today[row.site_id], recorded[row.pid], scopes.get(row.pid))
        if _meets(visit, query)
    ]
    ordered = sorted(found, key=_urgency)
    return DueList(items=ordered[: query.limit], truncated=len(ordered) > query.limit)


def _planned(
    session: Session, row: Row[Any], today: date, recorded: Sequence[Recorded], scopes: frozenset[str] | None
) -> Iterable[PlannedVisit]:
    left_on = row.status_on if row.status in _LEFT else None
    return plan(protocol_of(session, row.protocol_version_id), recorded, today, left_on, scopes)


def _meets(visit: PlannedVisit, query: DueQuery) -> bool:
    if query.due_from is None and query.due_to is None:
        return visit.state in _WAITING
    if visit.window is None or visit.state in {VisitState.done, VisitState.missed, VisitState.not_applicable}:
        return False
    starts_in_time = query.due_to is None or visit.window.start <= query.due_to
    return starts_in_time and (query.due_from is None or visit.window.end >= query.due_from)


def _urgency(visit: DueVisit) -> tuple[date, str, str, int]:
    end = visit.window.end if visit.window else date.max
    return end, visit.participant, visit.visit_code, visit.occurrence


def _today(session: Session, sites: Sequence[int]) -> Mapping[int, date]:
    at = now()
    found = session.execute(select(_SITE.c.id, _SITE.c.timezone).where(_SITE.c.id.in_(sites)))
    return {site_id: local_day(at, ZoneInfo(zone)) for site_id, zone in found}


def _recorded(session: Session, sites: Sequence[int], pid: str | None = None) -> Mapping[str, list[Recorded]]:
    """What is recorded, by pid, each visit with the instruments that have an outcome."""
    visits = select(_VISIT).where(_VISIT.c.site_id.in_(sites))
    outcomes = select(_OUTCOME.c.visit_id, _OUTCOME.c.instrument).where(_OUTCOME.c.site_id.in_(sites))
    if pid is not None:
        visits, outcomes = visits.where(_VISIT.c.pid == pid), outcomes.where(_OUTCOME.c.pid == pid)
    given: dict[Any, set[str]] = defaultdict(set)
    for visit_id, code in session.execute(outcomes):
        given[visit_id].add(code)
    found: dict[str, list[Recorded]] = defaultdict(list)
    for row in session.execute(visits):
        instruments = frozenset(given[row.id])
        found[row.pid].append(Recorded(row.visit_code, row.occurrence, row.status, row.occurred_on, instruments))
    return found


def _scopes(session: Session, sites: Sequence[int]) -> Mapping[str, frozenset[str]]:
    """Scopes of anybody's newest consent."""
    order = (_CONSENT.c.pid, _CONSENT.c.given_on, _CONSENT.c.version)
    rows = session.execute(
        select(_CONSENT.c.pid, _CONSENT.c.scopes).where(_CONSENT.c.site_id.in_(sites)).order_by(*order)
    )
    return {pid: frozenset(json.loads(scopes)) for pid, scopes in rows}


def _shown(visit: PlannedVisit) -> dict[str, Any]:
    window = visit.window
    return {
        "visit_code": visit.visit,
        "occurrence": visit.occurrence,
        "optional": visit.optional,
        "state": visit.state,
        "occurred_on": visit.on,
        "window": WindowRead(planned=window.planned, start=window.start, end=window.end) if window else None,
        "waits_for": visit.waits_for,
        "deviation_days": visit.deviation_days,
        "missing_instruments": list(visit.missing),
    }
