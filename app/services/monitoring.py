"""What is urgent across the sites of a monitor, in a handful of queries however many sites there are."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, case, func, select
from sqlmodel import Session

from app.access import Actor, visible
from app.models.adverse_event import AdverseEvent
from app.models.base import columns, now, table_of
from app.models.monitoring import (
    Downgraded,
    MonitoringQuery,
    MonitoringSummary,
    SiteCounts,
    UrgentClock,
)
from app.models.participant import Participant
from app.models.safety_report import AeReview
from app.protocol.expedited import ClockState
from app.services.sae_clocks import clocks_of, with_open_clocks

_EVENT, _REVIEW, _PERSON = table_of(AdverseEvent), table_of(AeReview), table_of(Participant)


def summary(session: Session, actor: Actor, query: MonitoringQuery) -> MonitoringSummary:
    """Everything that waits, most urgent first."""
    at, sites = now(), actor.sites_at(query.study, query.site)
    waiting = _open_clocks(session, actor, sites, at)
    soon = at + timedelta(hours=query.soon_hours)
    overdue = [clock for clock in waiting if clock.state is ClockState.overdue]
    due_soon = [clock for clock in waiting if clock.state is ClockState.running and clock.due_at <= soon]
    downgraded = _downgraded(session, actor, sites)
    return MonitoringSummary(
        as_of=at,
        overdue=overdue[: query.limit],
        due_soon=due_soon[: query.limit],
        downgraded=downgraded[: query.limit],
        sites=_counts(session, actor, sites, overdue, due_soon, downgraded),
    )


def _open_clocks(session: Session, actor: Actor, sites: Sequence[int], at: datetime) -> list[UrgentClock]:
    """Every clock that nobody has met, by its time."""
    events = session.execute(with_open_clocks(actor, sites)).all()
    running = clocks_of(session, events)
    found = [
        UrgentClock(**_about(event, actor), **clock._asdict(), state=clock.state(at))
        for event in events
        for clock in running[event.id]
        if clock.met_at is None
    ]
    return sorted(found, key=lambda clock: (clock.due_at, clock.adverse_event, clock.code))


def _about(event: Row[Any], actor: Actor) -> dict[str, Any]:
    place = actor.places[event.site_id]
    return {
        "adverse_event": event.id,
        "participant": event.pid,
        "study": place.study,
        "site": place.site,
        "term": event.pt or event.term,
    }


def _downgraded(session: Session, actor: Actor, sites: Sequence[int]) -> list[Downgraded]:
    since = (_REVIEW.c.site_id == _EVENT.c.site_id) & (_REVIEW.c.adverse_event_id == _EVENT.c.id)
    reviewed = select(1).where(since, _REVIEW.c.reviewed_at >= _EVENT.c.downgraded_at).correlate(_EVENT).exists()
    statement = visible(select(*columns(AdverseEvent)), actor).where(
        _EVENT.c.site_id.in_(sites), _EVENT.c.downgraded_at.is_not(None), ~reviewed
    )
    rows = session.execute(statement.order_by(_EVENT.c.downgraded_at, _EVENT.c.id)).all()
    return [Downgraded(**_about(row, actor), downgraded_at=row.downgraded_at) for row in rows]


def unreviewed_by(actor: Actor) -> ColumnElement[bool]:
    """Events that this account has not reviewed at their present version."""
    own = (
        (_REVIEW.c.site_id == _EVENT.c.site_id)
        & (_REVIEW.c.adverse_event_id == _EVENT.c.id)
        & (_REVIEW.c.reviewed_by == actor.account_id)
        & (_REVIEW.c.event_version == _EVENT.c.version)
    )
    return ~select(1).where(own).correlate(_EVENT).exists()


def _counts(
    session: Session,
    actor: Actor,
    sites: Sequence[int],
    overdue: Sequence[UrgentClock],
    due_soon: Sequence[UrgentClock],
    downgraded: Sequence[Downgraded],
) -> list[SiteCounts]:
    unreviewed = unreviewed_by(actor)
    wanted = select(
        _EVENT.c.site_id,
        func.count().label("adverse_events"),
        _sum(_EVENT.c.serious).label("serious"),
        _sum(unreviewed).label("unreviewed"),
        _sum(unreviewed & _EVENT.c.serious).label("unreviewed_serious"),
    )
    events = {row.site_id: row._asdict() for row in session.execute(_per_site(wanted, _EVENT, sites))}
    counted = select(_PERSON.c.site_id, func.count().label("participants"))
    people = {row.site_id: row.participants for row in session.execute(_per_site(counted, _PERSON, sites))}
    none = {"adverse_events": 0, "serious": 0, "unreviewed": 0, "unreviewed_serious": 0}
    rows = []
    for site_id in sorted(sites, key=lambda site: actor.places[site]):
        place = actor.places[site_id]
        rows.append(
            SiteCounts(
                study=place.study,
                site=place.site,
                participants=people.get(site_id, 0),
                **{name: events.get(site_id, none)[name] for name in none},
                **{
                    name: sum((item.study, item.site) == place for item in items)
                    for name, items in (("overdue", overdue), ("due_soon", due_soon), ("downgraded", downgraded))
                },
            )
        )
    return rows


def _per_site(statement: Any, table: Any, sites: Sequence[int]) -> Any:
    return statement.where(table.c.site_id.in_(sites)).group_by(table.c.site_id)


def _sum(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, 1), else_=0))
