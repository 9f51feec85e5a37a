"""Schedules: of one participant, and what is due across the sites of a study. The cost is a few statements for one
participant, and three for each thousand of a study."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import date
from heapq import nsmallest
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Row, Table, and_, func, select
from sqlmodel import Session

from app.access import Actor
from app.errors import Fault, ValidationFailed
from app.models.among import among
from app.models.base import now, table_of
from app.models.outcome import Outcome, done
from app.models.participant import Participant, left_on
from app.models.schedule import DueList, DueQuery, DueVisit, PlannedVisitRead, ScheduleRead
from app.models.screening import Screening
from app.models.study import Site
from app.models.visit import Visit, WindowRead
from app.models.voided import counts
from app.protocol.clocks import local_day
from app.protocol.planning import PlannedVisit, Recorded, VisitState, plan
from app.services.participation import consent_history, screenings
from app.services.participation.consent_history import ConsentHistory
from app.services.participation.participants import Person, visible_person
from app.services.studies import protocol_of

_PERSON, _VISIT, _OUTCOME, _SITE, _SCREENING = (
    table_of(model) for model in (Participant, Visit, Outcome, Site, Screening)
)
_SCREENINGS = (
    select(func.count())
    .where(_SCREENING.c.site_id == _PERSON.c.site_id, _SCREENING.c.pid == _PERSON.c.pid, counts(_SCREENING))
    .scalar_subquery()
    .label("screenings")
)
"""The number of a participant's screenings."""

_WAITING = frozenset({VisitState.due, VisitState.overdue})
_MEASURED = tuple(_OUTCOME.c[name] for name in ("visit_id", "instrument", "instrument_version", "origin", "items"))
_AT_ONCE = 1_000
"""The number of participants that are read at once."""


def schedule(session: Session, actor: Actor, symbols: str) -> ScheduleRead:
    """Every planned visit of a participant, with its state today at the site; nothing is planned of a voided one.
    Raises NotFound."""
    person = visible_person(session, actor, symbols)
    today = _today(session, [person.site_id])[person.site_id]
    consents = consent_history.history_of(session, person)
    measured = session.execute(select(*_MEASURED).where(_theirs(_OUTCOME, person), counts(_OUTCOME))).all()
    theirs = and_(_VISIT.c.site_id == _PERSON.c.site_id, _VISIT.c.pid == _PERSON.c.pid, counts(_VISIT))
    beside = select(_VISIT, _SCREENINGS).select_from(_PERSON).outerjoin(_VISIT, theirs).where(_theirs(_PERSON, person))
    found = session.execute(beside).all()
    visits, last = [row for row in found if row.id is not None], found[0].screenings
    planned = planned_for(session, person.row, consents, visits, done_at(measured), today, last)
    planned = [] if person.row.voided_at else planned
    return ScheduleRead(
        participant=person.row.pid,
        protocol_version=person.protocol_version,
        today=today,
        items=[PlannedVisitRead.of_row(visit._asdict(), **_named(visit)) for visit in planned],
        reconsent_to=consent_history.reconsents(person.row, person.protocol, person.amendments, consents, today),
    )


def due(session: Session, actor: Actor, study: str, query: DueQuery) -> DueList:
    """What is due or overdue at the actor's sites of a study, or whose window meets a period. Raises NotFound,
    ValidationFailed."""
    sites = actor.sites_at(study, query.site)
    if query.due_from is not None and query.due_to is not None and query.due_to < query.due_from:
        raise ValidationFailed(Fault("/to", "before_from", "A period does not end before it starts"))
    today = _today(session, sites)
    again, parts = screenings.again_of(session, sites), _in_parts(session, sites)
    waiting = (visit for people in parts for visit in _waiting(session, people, today, query, again))
    first = nsmallest(query.limit + 1, waiting, key=_urgency)
    items = [
        DueVisit.of_row(visit._asdict(), **_named(visit), participant=row.pid, site=actor.places[row.site_id].site)
        for row, visit in first[: query.limit]
    ]
    return DueList(items=items, truncated=len(first) > query.limit)


def _in_parts(session: Session, sites: Sequence[int]) -> Iterator[Sequence[Row[Any]]]:
    """The participants of these sites in parts, so that memory does not grow with the study."""
    names = ("site_id", "pid", "status", "status_on", "earlier_ends", "screened_on", "protocol_version_id")
    ordered = (
        select(*(_PERSON.c[name] for name in names))
        .where(_PERSON.c.site_id.in_(sites), counts(_PERSON))
        .order_by(_PERSON.c.site_id, _PERSON.c.pid)
    )
    yield from session.execute(ordered.execution_options(yield_per=_AT_ONCE)).partitions()


def _waiting(
    session: Session,
    people: Sequence[Row[Any]],
    today: Mapping[int, date],
    query: DueQuery,
    again: Mapping[str, int],
) -> Iterator[tuple[Row[Any], PlannedVisit]]:
    """The visits of these participants that the query asks for. Outcomes are not read, as an open visit has none."""
    sites, pids = sorted({row.site_id for row in people}), [row.pid for row in people]
    wanted = select(*(_VISIT.c[name] for name in ("pid", "visit_code", "occurrence", "status", "occurred_on")))
    recorded: dict[str, list[Recorded]] = defaultdict(list)
    theirs = _VISIT.c.site_id.in_(sites), among(_VISIT.c.pid, "pids", pids), counts(_VISIT)
    for pid, *visit in session.execute(wanted.where(*theirs)):
        recorded[pid].append(Recorded(*visit))
    consents = consent_history.histories_of(session, sites, pids)
    for row in people:
        day, left = today[row.site_id], left_on(row)
        protocol = protocol_of(session, row.protocol_version_id)
        scopes, withdrawn = consents[row.pid].scopes(day), consents[row.pid].withdrawn(day)
        last = again.get(row.pid, 1), row.screened_on
        for planned in plan(protocol, recorded[row.pid], day, left, scopes, withdrawn, *last, open_only=True):
            if _meets(planned, query):
                yield row, planned


def _meets(visit: PlannedVisit, query: DueQuery) -> bool:
    if query.due_from is None and query.due_to is None:
        return visit.state in _WAITING
    if visit.window is None or visit.state in {VisitState.done, VisitState.missed, VisitState.not_applicable}:
        return False
    starts_in_time = query.due_to is None or visit.window.start <= query.due_to
    return starts_in_time and (query.due_from is None or visit.window.end >= query.due_from)


def _urgency(one: tuple[Row[Any], PlannedVisit]) -> tuple[date, str, str, int]:
    row, visit = one
    return visit.closes or date.max, row.pid, visit.visit, visit.occurrence


def _today(session: Session, sites: Sequence[int]) -> Mapping[int, date]:
    at = now()
    zones = session.execute(select(_SITE.c.id, _SITE.c.timezone).where(_SITE.c.id.in_(sites)))
    return {site_id: local_day(at, ZoneInfo(zone)) for site_id, zone in zones}


def _theirs(table: Table, person: Person) -> ColumnElement[bool]:
    return (table.c.site_id == person.site_id) & (table.c.pid == person.row.pid)


def done_at(measured: Iterable[Row[Any]]) -> Mapping[UUID, Set[str]]:
    """The instruments done at each visit, from these outcomes."""
    instruments: dict[UUID, set[str]] = defaultdict(set)
    for row in measured:
        if done(row, json.loads(row.items)):
            instruments[row.visit_id].add(row.instrument)
    return instruments


def planned_for(
    session: Session,
    person: Any,
    consents: ConsentHistory,
    visits: Sequence[Row[Any]],
    given: Mapping[UUID, Set[str]],
    today: date,
    screening: int,
) -> list[PlannedVisit]:
    """The visits that a participant's protocol version plans, with those recorded and the instruments `given` at each;
    `screening`: the number of the last one.
    Visits recorded by another version keep its windows and instruments, as what a later version asks for cannot be
    given at a past visit."""
    recorded = [
        Recorded(row.visit_code, row.occurrence, row.status, row.occurred_on, frozenset(given.get(row.id, ())))
        for row in visits
    ]
    versions = {(row.visit_code, row.occurrence): row.protocol_version_id for row in visits if row.protocol_version_id}
    version, left = person.protocol_version_id, left_on(person)
    scopes, withdrawn = consents.scopes(today), consents.withdrawn(today)

    def planned_by(other: int) -> list[PlannedVisit]:
        protocol, last = protocol_of(session, other), (screening, person.screened_on)
        return plan(protocol, recorded, today, left, scopes, withdrawn, *last)

    past = {
        (visit.visit, visit.occurrence, other): visit
        for other in {*versions.values()} - {version}
        for visit in planned_by(other)
    }
    planned = []
    for visit in planned_by(version):
        key = visit.visit, visit.occurrence
        own = past.get((*key, versions.get(key, version)), visit)
        planned.append(visit._replace(window=own.window, deviation_days=own.deviation_days, missing=own.missing))
    return planned


def _named(visit: PlannedVisit) -> dict[str, Any]:
    """The fields of an answer that have another name or form there."""
    return {
        "visit_code": visit.visit,
        "occurred_on": visit.on,
        "window": WindowRead(**visit.window._asdict()) if visit.window else None,
        "missing_instruments": list(visit.missing),
    }
