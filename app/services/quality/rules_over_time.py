"""Rules that are broken by time and not by a write: visits overdue, instruments or raters missing, events without
follow-up, or of the drug before there was a dose.

`refresh` checks every site, for a command or a job. It also raises data queries for findings that have none yet, and
finds what two visits recorded at the same moment could not see of each other. Running it twice, or in two workers at
once, raises nothing twice.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Row, select
from sqlmodel import Session, SQLModel, col

from app.database import Database, within
from app.models.adverse_event import SUSPECTED, AdverseEvent
from app.models.adverse_event_shapes import ENDED
from app.models.base import from_json, now, table_of
from app.models.data_query import DataQuery, QueryState, SubjectType
from app.models.outcome import Outcome
from app.models.participant import IN_STUDY, Participant, ParticipantStatus
from app.models.study import Site
from app.models.visit import Visit
from app.models.voided import counts
from app.protocol.clocks import local_day
from app.protocol.definition import Protocol, VisitKind
from app.protocol.planning import PlannedVisit, VisitState
from app.protocol.schedule import window_of
from app.services.assessments import visit_findings
from app.services.assessments.schedules import done_at, planned_for
from app.services.dosing.dosing_over_time import doubts_of_dosing
from app.services.dosing.exposure import NEVER, Exposure, exposures
from app.services.participation import screenings
from app.services.participation.consent_history import ConsentHistory, histories_of, reconsents
from app.services.participation.participants import amendments_of
from app.services.quality.rule_queries import Doubt, doubts_of, settle
from app.services.safety import adverse_events
from app.services.studies import newest_protocol, protocol_of

STALE = timedelta(days=90)
"""After so long without a change or a report, an ongoing adverse event gets a data query. The registry's own choice:
guidelines ask for follow-up until resolution (ICH E6(R2), 4.3.2) and give no number."""

_Records = dict[str, list[Row[Any]]]


def refresh(database: Database) -> int:
    """Check every site against the rules, each in transactions of its own so that no site waits for another; gives the
    number of data queries that were raised, closed or opened again."""
    wanted: list[Any] = [Site.id, Site.timezone]
    with database.read() as session:
        sites = session.execute(select(*wanted).order_by(col(Site.id))).all()
    changed = 0
    for site_id, timezone in sites:
        of_site = partial(refresh_site, today=local_day(now(), ZoneInfo(timezone)))
        for part in (visit_findings.refresh, adverse_events.refresh, of_site):
            with database.write() as session, within(session, [site_id]):
                changed += part(session, site_id)
    return changed


def refresh_site(session: Session, site_id: int, today: date) -> int:
    """The same for one site, in the caller's transaction. A constant number of reading statements.

    Sites write meanwhile, so the data queries are read before the findings. A write in between updates the queries of
    its own findings; these have another version then, and are left as that write made them."""
    wanted: list[Any] = [DataQuery.rule_key, DataQuery.rule_holds, DataQuery.version, DataQuery.state]
    known = session.execute(select(*wanted, col(DataQuery.closed_at)).where(col(DataQuery.site_id) == site_id)).all()
    closed = {row.rule_key: row.closed_at for row in known if row.state == QueryState.closed}
    found = list(_doubts(session, site_id, today, closed))
    holding = {row.rule_key for row in known if row.rule_holds}
    came = [doubt for doubt in found if doubt.key not in holding]
    return settle(
        session, site_id, came, holding - {doubt.key for doubt in found}, {row.rule_key: row.version for row in known}
    )


def _doubts(session: Session, site_id: int, today: date, closed: Mapping[str, datetime]) -> Iterator[Doubt]:
    people, outcomes = _rows(session, site_id, Participant), _rows(session, site_id, Outcome)
    held, events = (_by_pid(_rows(session, site_id, model)) for model in (Visit, AdverseEvent))
    consents = histories_of(session, [site_id], [person.pid for person in people])
    measured, given = _by_pid(outcomes), done_at(outcomes)
    yield from doubts_of_dosing(session, site_id, today)
    if not people:
        return
    newest, exposed = newest_protocol(session, site_id), exposures(session, [site_id])
    again = screenings.again_of(session, [site_id])
    for person in people:
        protocol = protocol_of(session, person.protocol_version_id)
        yield from doubts_of(SubjectType.participant, person.pid, None, from_json(person.findings))
        last = again.get(person.pid, 1)
        yield from _of_visits(session, person, held[person.pid], given, consents[person.pid], today, last)
        yield from _of_consent(person, protocol, newest, consents[person.pid], today)
        yield from _of_completion(protocol, person, held[person.pid])
        yield from _of_events(person, events[person.pid], closed)
        yield from _of_causes(person.pid, events[person.pid], exposed.get(person.pid, NEVER))
        yield from _of_raters(session, person, measured[person.pid])
        yield from _of_days(session, person, held[person.pid], measured[person.pid])


def _rows(session: Session, site_id: int, model: type[SQLModel]) -> Sequence[Row[Any]]:
    table = table_of(model)
    return session.execute(select(table).where(table.c.site_id == site_id, counts(table))).all()


def _by_pid(rows: Sequence[Row[Any]]) -> _Records:
    grouped: _Records = defaultdict(list)
    for row in rows:
        grouped[row.pid].append(row)
    return grouped


def _of_visits(
    session: Session,
    person: Row[Any],
    held: list[Row[Any]],
    given: Mapping[UUID, Set[str]],
    consents: ConsentHistory,
    today: date,
    screening: int,
) -> Iterator[Doubt]:
    ids = {(row.visit_code, row.occurrence): row.id for row in held}
    for row in held:
        yield from doubts_of(SubjectType.visit, person.pid, row.id, from_json(row.findings))
    for visit in planned_for(session, person, consents, held, given, today, screening):
        yield from _of_planned(person.pid, visit, ids.get((visit.visit, visit.occurrence)))


def _of_planned(pid: str, visit: PlannedVisit, visit_id: UUID | None) -> Iterator[Doubt]:
    if visit.state is VisitState.overdue:
        yield Doubt(
            "visit_overdue",
            "The visit's window has passed, and nothing is recorded of it",
            pid,
            SubjectType.missing_visit,
            visit_code=visit.visit,
            occurrence=visit.occurrence,
        )
    if visit.state is VisitState.done:
        for instrument in visit.missing:
            message = f"The visit took place, and {instrument}, which the protocol plans at it, was not done"
            yield Doubt("instrument_missing", message, pid, SubjectType.visit, visit_id, detail=instrument)


def _of_consent(
    person: Row[Any], protocol: Protocol, newest: Protocol, consents: ConsentHistory, today: date
) -> Iterator[Doubt]:
    """Participants have to be informed of new information that may affect their willingness to continue, and to consent
    again (ICH E6(R2), 4.8.2)."""
    for version in reconsents(person, protocol, amendments_of(protocol, newest), consents, today):
        message = f"An amendment asks for consent by version {version}, and none is recorded"
        yield Doubt(
            "reconsent_missing", message, person.pid, SubjectType.participant, field="/consents", detail=version
        )


def _of_completion(protocol: Protocol, person: Row[Any], held: list[Row[Any]]) -> Iterator[Doubt]:
    """A participant who completed the study needs a record of the endpoint visit (CDISC SDTM DS: COMPLETED is
    distinct from the reasons for ending early). A missed visit is recorded as missed, with its reason."""
    if person.status != ParticipantStatus.completed:
        return
    recorded = {row.visit_code for row in held}
    for visit in protocol.visits:
        if visit.kind is VisitKind.endpoint and visit.code not in recorded:
            message = f"Completed the study, and nothing is recorded of {visit.code}, the visit of its endpoint"
            about = SubjectType.participant
            yield Doubt("completed_without_endpoint", message, person.pid, about, field="/status", detail=visit.code)


def _of_events(person: Row[Any], events: list[Row[Any]], closed: Mapping[str, datetime]) -> Iterator[Doubt]:
    """Adverse events without follow-up. `closed`: when each closed query was closed. An accepted answer counts as
    follow-up, although it does not change the event."""
    message = f"Ongoing, and nothing was added for {STALE.days} days"
    for row in events:
        yield from doubts_of(SubjectType.adverse_event, person.pid, row.id, from_json(row.findings))
        ongoing = row.end is None and row.outcome not in ENDED
        stale = Doubt("ongoing_event_stale", message, person.pid, SubjectType.adverse_event, row.id, field="/outcome")
        followed_up = max(filter(None, (row.updated_at, closed.get(stale.key))))
        if ongoing and person.status in IN_STUDY and followed_up < now() - STALE:
            yield stale


def _of_causes(pid: str, events: list[Row[Any]], exposure: Exposure) -> Iterator[Doubt]:
    """Events held to be reactions to the drug that began before the first dose: a reaction is one to a dose (ICH E2A,
    II.A.2). What an app has not sent yet is told by the next pass, so no write asks this."""
    message = "Held to be possibly related to the drug, and no dose is recorded by the time it began"
    for row in events:
        began = row.onset_latest is not None and not exposure.emergent(row.onset_latest)
        if began and row.relatedness_drug in SUSPECTED:
            about = SubjectType.adverse_event
            yield Doubt("related_before_dose", message, pid, about, row.id, field="/relatedness_drug")


def _of_raters(session: Session, person: Row[Any], measured: list[Row[Any]]) -> Iterator[Doubt]:
    rule = protocol_of(session, person.protocol_version_id).rater_independence
    for row in measured:
        if rule and row.rater is None and row.instrument in rule.covers:
            message = f"No rater is named, and the protocol wants {row.instrument} rated by nobody who treats here"
            yield Doubt("rater_missing", message, person.pid, SubjectType.outcome, row.id, field="/rater")


def _of_days(session: Session, person: Row[Any], held: list[Row[Any]], measured: list[Row[Any]]) -> Iterator[Doubt]:
    """Outcomes collected outside the window of their visit. Within it they may be of another day than the visit, as
    some questionnaires are filled in at home."""
    visits = {row.id: row for row in held if row.occurred_on is not None}
    days = {(row.visit_code, row.occurrence): row.occurred_on for row in visits.values()}
    for row in measured:
        visit, on = visits.get(row.visit_id), row.collected_on
        if visit is None or on is None or visit.occurred_on <= on <= (visit.ended_on or visit.occurred_on):
            continue
        protocol = protocol_of(session, visit.protocol_version_id or person.protocol_version_id)
        planned = protocol.planned(visit.visit_code)
        window = window_of(protocol, planned, days, visit.occurrence, visit.occurred_on) if planned else None
        if window is None or not window.start <= on <= window.end:
            message = "Collected neither on the days of the visit nor in its window"
            yield Doubt(
                "collected_on_another_day", message, person.pid, SubjectType.outcome, row.id, field="/collected_on"
            )
