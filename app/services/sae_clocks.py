"""The clocks of stored events, for one event and across sites."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import Row, and_, or_, select
from sqlmodel import Session, col

from app.access import Actor, Rows, visible
from app.models.adverse_event import AdverseEvent
from app.models.base import columns, table_of
from app.models.participant import Participant
from app.models.safety_report import AeReview, ReviewKind, SaeReport
from app.models.study import Site
from app.protocol.expedited import EventFacts, RunningClock, clocks
from app.services.studies import protocol_of

_EVENT, _REPORT, _REVIEW = table_of(AdverseEvent), table_of(SaeReport), table_of(AeReview)


def with_open_clocks(actor: Actor, site_ids: Sequence[int]) -> Rows:
    """Events that may have an open clock: serious ones without a report, those asked about, and those assessed as
    unexpected reactions. Narrowed to what exists for the actor."""
    reported = _same_event(_REPORT)
    followed = or_(_REVIEW.c.kind == ReviewKind.information_request, _REVIEW.c.susar)
    statement = visible(select(*columns(AdverseEvent)), actor).where(
        _EVENT.c.site_id.in_(site_ids),
        or_(
            and_(_EVENT.c.serious, ~select(1).where(reported).correlate(_EVENT).exists()),
            select(1).where(_same_event(_REVIEW), followed).correlate(_EVENT).exists(),
        ),
    )
    return statement.order_by(_EVENT.c.due_at, _EVENT.c.id)


def _same_event(table: Any) -> Any:
    return and_(table.c.site_id == _EVENT.c.site_id, table.c.adverse_event_id == _EVENT.c.id)


def clocks_of(session: Session, events: Sequence[Row[Any]]) -> dict[UUID, list[RunningClock]]:
    """The clocks of some events, in four queries however many they are."""
    reports = _by_event(session, _REPORT, events)
    reviews = _by_event(session, _REVIEW, events)
    zones = _zones(session, {event.site_id for event in events})
    versions = _protocol_versions(session, events)
    found = {}
    for event in events:
        safety = protocol_of(session, versions[event.site_id, event.pid]).safety
        facts = _facts(event, timedelta(hours=safety.sae_report_hours), reports[event.id], reviews[event.id])
        found[event.id] = list(clocks(facts, safety.clocks, zones[event.site_id]))
    return found


def _by_event(session: Session, table: Any, events: Iterable[Row[Any]]) -> Mapping[UUID, list[Row[Any]]]:
    ids, sites = [event.id for event in events], sorted({event.site_id for event in events})
    theirs = select(table).where(table.c.site_id.in_(sites), table.c.adverse_event_id.in_(ids))
    grouped = defaultdict(list)
    for row in session.execute(theirs.order_by(table.c.number)):
        grouped[row.adverse_event_id].append(row)
    return grouped


def _zones(session: Session, site_ids: set[int]) -> dict[int, ZoneInfo]:
    found = session.execute(select(col(Site.id), col(Site.timezone)).where(col(Site.id).in_(site_ids)))
    return {site_id: ZoneInfo(name) for site_id, name in found}


def _protocol_versions(session: Session, events: Iterable[Row[Any]]) -> dict[tuple[int, str], int]:
    person = table_of(Participant)
    pids, sites = {event.pid for event in events}, {event.site_id for event in events}
    wanted = select(person.c.site_id, person.c.pid, person.c.protocol_version_id)
    found = session.execute(wanted.where(person.c.site_id.in_(sites), person.c.pid.in_(pids)))
    return {(site_id, symbols): version for site_id, symbols, version in found}


def _facts(event: Row[Any], hours: timedelta, reports: Sequence[Row[Any]], reviews: Sequence[Row[Any]]) -> EventFacts:
    assessed = [review for review in reviews if review.kind == ReviewKind.assessment]
    informed = [review.informed_at for review in reviews if review.kind == ReviewKind.authority_informed]
    return EventFacts(
        started_at=event.due_at - hours if event.due_at else event.created_at,
        due_at=event.due_at,
        reported=tuple(report.submitted_at for report in reports),
        requests=tuple(
            (review.reviewed_at, review.due_at) for review in reviews if review.kind == ReviewKind.information_request
        ),
        susar_since=assessed[-1].reviewed_at if assessed and assessed[-1].susar else None,
        fatal_or_life_threatening=event.death or event.life_threatening,
        authority_informed=min(informed, default=None),
    )
