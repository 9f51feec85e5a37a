"""What is urgent across the sites of a monitor. The number of statements does not depend on the number of sites."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Row, Table, case, false, func, or_, select, true
from sqlmodel import Session

from app.access import Actor, visible
from app.models.adverse_event import AdverseEvent
from app.models.base import columns, fields_of, now, table_of
from app.models.data_query import DataQuery, QueryState
from app.models.monitoring import (
    DowngradedEvent,
    EventRead,
    MonitoringQuery,
    MonitoringSummary,
    NullifiedEvent,
    OpenSignal,
    SiteCounts,
    UnreviewedAlert,
    UrgentClock,
    VoidedEvent,
    WaitsFor,
)
from app.models.participant import Participant
from app.models.safety_report import AeReview, ReviewKind, SaeReport
from app.models.safety_signal import SafetySignal, SignalState
from app.models.study import ProtocolVersion, Site
from app.models.voided import counts
from app.protocol.expedited import ClockState, RunningClock
from app.services.quality.unsettled_acts import unsettled_acts
from app.services.safety.nullifications import AUTHORITY_WAITS, INFORMED, NULLIFIES, REPORTED
from app.services.safety.sae_clocks import has_review, open_clocks, with_open_clocks
from app.services.studies import protocol_of

_EVENT, _REVIEW, _PERSON = table_of(AdverseEvent), table_of(AeReview), table_of(Participant)
_QUERY, _SIGNAL, _REPORT = table_of(DataQuery), table_of(SafetySignal), table_of(SaeReport)
_SITE, _VERSION = table_of(Site), table_of(ProtocolVersion)
E = TypeVar("E", bound=EventRead)


def summary(session: Session, actor: Actor, query: MonitoringQuery) -> MonitoringSummary:
    """Everything that waits for a monitor or a site, most urgent first."""
    at, sites = now(), actor.sites_at(query.study, query.site)
    waiting = sorted(open_clocks(session, visible(with_open_clocks(sites), actor)), key=_urgency)
    soon = at + timedelta(hours=query.soon_hours)
    overdue = [one for one in waiting if one[1].state(at) is ClockState.overdue]
    due_soon = [one for one in waiting if one[1].state(at) is ClockState.running and one[1].due_at <= soon]
    downgraded, alerts = _downgraded(session, actor, sites), _alerts(session, actor, sites)
    nullified, voided = _nullified(session, actor, sites), _voided(session, actor, sites)
    listed = {
        "overdue": [event for event, _ in overdue],
        "due_soon": [event for event, _ in due_soon],
        "downgraded": downgraded,
        "nullified": nullified,
        "voided": voided,
        "alerts": alerts,
    }
    return MonitoringSummary(
        as_of=at,
        overdue=[_urgent(actor, at, *one) for one in overdue[: query.limit]],
        due_soon=[_urgent(actor, at, *one) for one in due_soon[: query.limit]],
        downgraded=_read(DowngradedEvent, actor, downgraded[: query.limit]),
        nullified=_read(NullifiedEvent, actor, nullified[: query.limit]),
        voided=_read(VoidedEvent, actor, voided[: query.limit]),
        alerts=_read(UnreviewedAlert, actor, alerts[: query.limit]),
        safety_signals=_signals(session, actor, sites, query.limit),
        sites=_counts(session, actor, sites, listed),
    )


def _read(shape: type[E], actor: Actor, events: Sequence[Row[Any]]) -> list[E]:
    return [shape.of_row(fields_of(event), **_about(event, actor)) for event in events]


def _urgency(one: tuple[Row[Any], RunningClock]) -> Any:
    event, clock = one
    return clock.due_at, event.id, clock.code


def _urgent(actor: Actor, at: datetime, event: Row[Any], clock: RunningClock) -> UrgentClock:
    return UrgentClock(**_about(event, actor), **clock._asdict(), state=clock.state(at))


def _about(event: Row[Any], actor: Actor) -> dict[str, Any]:
    place = actor.places[event.site_id]
    return {
        "adverse_event": event.id,
        "participant": event.pid,
        "study": place.study,
        "site": place.site,
        "term": event.pt or event.term,
    }


def _downgraded(session: Session, actor: Actor, sites: Sequence[int]) -> Sequence[Row[Any]]:
    return _unreviewed_since(session, actor, sites, _EVENT.c.downgraded_at, counts(_EVENT))


def _nullified(session: Session, actor: Actor, sites: Sequence[int]) -> Sequence[Row[Any]]:
    """Nullified events that are not voided yet, and who has to act: first the monitor tells the authority, if it was
    told of the event; then the site voids it."""
    waits_for = case((AUTHORITY_WAITS, WaitsFor.authority), else_=WaitsFor.site).label("waits_for")
    of_report = (_REPORT.c.submitted_at.label("nullified_at"), _REPORT.c.nullification_reason, waits_for)
    theirs = visible(select(*columns(AdverseEvent)).join(_REPORT, NULLIFIES), actor).add_columns(*of_report)
    statement = theirs.where(_EVENT.c.site_id.in_(sites), counts(_EVENT))
    return session.execute(statement.order_by(_REPORT.c.submitted_at, _EVENT.c.id)).all()


def _voided(session: Session, actor: Actor, sites: Sequence[int]) -> Sequence[Row[Any]]:
    """Events that a site voided and a monitor must see: voiding stops the clock of a serious event, and closes the
    questions a monitor had asked."""
    asked = has_review(_REVIEW.c.kind == ReviewKind.information_request)
    concerns = or_(_EVENT.c.serious, REPORTED, INFORMED, asked)
    return _unreviewed_since(session, actor, sites, _EVENT.c.voided_at, ~counts(_EVENT), concerns)


def _unreviewed_since(
    session: Session, actor: Actor, sites: Sequence[int], at: Any, *conditions: ColumnElement[bool]
) -> Sequence[Row[Any]]:
    """Events that no monitor has reviewed since the moment in the column `at`."""
    unreviewed = ~has_review(_REVIEW.c.reviewed_at >= at)
    statement = visible(select(*columns(AdverseEvent)), actor).where(
        _EVENT.c.site_id.in_(sites), at.is_not(None), *conditions, unreviewed
    )
    return session.execute(statement.order_by(at, _EVENT.c.id)).all()


def _alerts(session: Session, actor: Actor, sites: Sequence[int]) -> Sequence[Row[Any]]:
    """Unreviewed events of a kind that the protocol version of the participant marks as an alert."""
    of_studies = select(_VERSION.c.id).where(
        _VERSION.c.study_id.in_(select(_SITE.c.study_id).where(_SITE.c.id.in_(sites)))
    )
    marked = [
        (_PERSON.c.protocol_version_id == version) & _EVENT.c.special_interest.in_(sorted(codes))
        for version in session.scalars(of_studies).all()
        if (codes := protocol_of(session, version).alerts)
    ]
    theirs = (_PERSON.c.site_id == _EVENT.c.site_id) & (_PERSON.c.pid == _EVENT.c.pid)
    statement = visible(select(*columns(AdverseEvent)).join(_PERSON, theirs), actor).where(
        _EVENT.c.site_id.in_(sites), counts(_EVENT), or_(false(), *marked), unreviewed_by(actor.account_id)
    )
    return session.execute(statement.order_by(_EVENT.c.created_at, _EVENT.c.id)).all()


def _signals(session: Session, actor: Actor, sites: Sequence[int], limit: int) -> list[OpenSignal]:
    """Safety signals that no clinician of the site has reviewed."""
    waiting = visible(select(*columns(SafetySignal)), actor).where(
        _SIGNAL.c.site_id.in_(sites), _SIGNAL.c.state == SignalState.open
    )
    return [
        OpenSignal.of_row(
            fields_of(row),
            safety_signal=row.id,
            participant=row.pid,
            study=actor.places[row.site_id].study,
            site=actor.places[row.site_id].site,
        )
        for row in session.execute(waiting.order_by(_SIGNAL.c.due_at, _SIGNAL.c.id).limit(limit))
    ]


def unreviewed_by(account_id: Any) -> ColumnElement[bool]:
    """Events that this account has not reviewed at their present version, or not since their last report."""
    since = (
        (_REPORT.c.site_id == _REVIEW.c.site_id)
        & (_REPORT.c.adverse_event_id == _REVIEW.c.adverse_event_id)
        & (_REPORT.c.submitted_at > _REVIEW.c.reviewed_at)
    )
    return ~has_review(
        _REVIEW.c.reviewed_by == account_id,
        _REVIEW.c.event_version == _EVENT.c.version,
        ~select(1).where(since).correlate(_REVIEW).exists(),
    )


def _counts(
    session: Session, actor: Actor, sites: Sequence[int], listed: Mapping[str, Sequence[Row[Any]]]
) -> list[SiteCounts]:
    """The numbers of each site; `listed` are the events of the lists, by name."""
    by_name = {name: Counter(event.site_id for event in events) for name, events in listed.items()}
    counted = [_per_site(session, table, sites, conditions) for table, conditions in _counted(actor, now())]
    unsettled = unsettled_acts(session, sites)
    return [
        SiteCounts(
            study=actor.places[site_id].study,
            site=actor.places[site_id].site,
            **{name: count for rows in counted for name, count in rows[site_id].items()},
            **{name: by_site[site_id] for name, by_site in by_name.items()},
            unsettled_acts=unsettled[site_id],
        )
        for site_id in sorted(sites, key=lambda site: actor.places[site])
    ]


def _counted(actor: Actor, at: datetime) -> list[tuple[Table, Mapping[str, ColumnElement[bool]]]]:
    """Each table that is counted by site, once for each condition."""
    unreviewed, waits = unreviewed_by(actor.account_id), _SIGNAL.c.state == SignalState.open
    return [
        (_PERSON, {"participants": true()}),
        (
            _EVENT,
            {
                "adverse_events": true(),
                "serious": _EVENT.c.serious,
                "unreviewed": unreviewed,
                "unreviewed_serious": unreviewed & _EVENT.c.serious,
            },
        ),
        (_SIGNAL, {"safety_signals_open": waits, "safety_signals_overdue": waits & (_SIGNAL.c.due_at < at)}),
        (
            _QUERY,
            {
                "data_queries_open": _QUERY.c.state == QueryState.open,
                "data_queries_answered": _QUERY.c.state == QueryState.answered,
            },
        ),
    ]


def _per_site(
    session: Session, table: Table, sites: Sequence[int], conditions: Mapping[str, ColumnElement[bool]]
) -> Mapping[int, Mapping[str, int]]:
    sums = [func.sum(case((condition, 1), else_=0)).label(name) for name, condition in conditions.items()]
    statement = select(table.c.site_id, *sums).where(table.c.site_id.in_(sites)).group_by(table.c.site_id)
    if "voided_at" in table.c:
        statement = statement.where(counts(table))
    numbers = {row.site_id: {name: row._mapping[name] for name in conditions} for row in session.execute(statement)}
    return {site_id: numbers.get(site_id, dict.fromkeys(conditions, 0)) for site_id in sites}
