"""Adverse events of a study counted by group, over the sites that exist for the actor."""

from collections.abc import Iterator, Mapping, Sequence

from sqlalchemy import case, func, select
from sqlmodel import Session

from app.access import Actor
from app.models.adverse_event import AdverseEvent
from app.models.ae_summary import AeSummary, AeSummaryQuery, AeSummaryRow, Population
from app.models.base import now, table_of
from app.models.participant import Participant
from app.models.voided import counts
from app.protocol.incidence import OF_PERSON, Event, Incidence, Person, incidence
from app.services.dosing.exposure import NEVER, Exposure, exposures

UNCODED, NOT_GIVEN = "UNCODED", "not given"
_PERSON, _EVENT = table_of(Participant), table_of(AdverseEvent)
_OF_EVENT = {
    "soc": func.coalesce(_EVENT.c.soc, UNCODED),
    "pt": func.coalesce(_EVENT.c.pt, UNCODED),
    "relatedness": func.coalesce(_EVENT.c.relatedness_drug, NOT_GIVEN),
    "relatedness_therapy": func.coalesce(_EVENT.c.relatedness_therapy, NOT_GIVEN),
    "severity": _EVENT.c.severity,
}


def summary(session: Session, actor: Actor, query: AeSummaryQuery) -> AeSummary:
    """Raises NotFound for a study or site that does not exist for the actor."""
    sites = actor.sites_at(query.study, query.site)
    seen = exposures(session, sites)
    people = list(_people(session, actor, sites, query.population, seen))
    rows = incidence(people, _events(session, sites, query, seen), query.by)
    return AeSummary(
        as_of=now(),
        study=query.study,
        population=query.population,
        participants=len(people),
        items=[_row(row, query) for row in rows],
    )


def _people(
    session: Session, actor: Actor, sites: Sequence[int], population: Population, seen: Mapping[str, Exposure]
) -> Iterator[Person]:
    wanted = (_PERSON.c.site_id, _PERSON.c.pid, _PERSON.c.enrolled_on, _PERSON.c.actual_arm, _PERSON.c.planned_arm)
    for row in session.execute(select(*wanted).where(_PERSON.c.site_id.in_(sites), counts(_PERSON))):
        exposure = seen.get(row.pid, NEVER)
        if population is Population.safety and not exposure.doses:
            continue
        if population is Population.enrolled and row.enrolled_on is None:
            continue
        groups = {"site": actor.places[row.site_id].site, "arm": row.actual_arm or row.planned_arm or NOT_GIVEN}
        first = exposure.doses[0] if exposure.doses else None
        yield Person(row.pid, groups, first, exposure.last_seen)


def _events(
    session: Session, sites: Sequence[int], query: AeSummaryQuery, seen: Mapping[str, Exposure]
) -> Iterator[Event]:
    """Grouped by the database, each participant's by themselves."""
    by = {name: _OF_EVENT[name] for name in query.by if name not in OF_PERSON}
    apart = [_EVENT.c.pid, *by.values(), *([_EVENT.c.onset_latest] if query.emergent else [])]
    onset, number = _EVENT.c.onset_earliest, func.count()
    first = case((func.count(onset) == number, func.min(onset)))
    statement = select(number, first, *apart).where(_EVENT.c.site_id.in_(sites), counts(_EVENT)).group_by(*apart)
    if query.serious is not None:
        statement = statement.where(_EVENT.c.serious == query.serious)
    for alike, begun, symbols, *values in session.execute(statement.execution_options(yield_per=1000)):
        if query.emergent and not seen.get(symbols, NEVER).emergent(values.pop()):
            continue
        yield Event(symbols, begun, dict(zip(by, values, strict=True)), alike)


def _row(row: Incidence, query: AeSummaryQuery) -> AeSummaryRow:
    return AeSummaryRow.of_row(
        row._asdict(),
        group=dict(zip(query.by, row.group, strict=True)),
        events_per_100_person_years=row.events_rate,
        first_events_per_100_person_years=row.first_event_rate,
    )
