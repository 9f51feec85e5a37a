"""The reporting clocks of stored adverse events, for one event and across sites."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, Row, Table, and_, or_, select
from sqlmodel import Session, col

from app.access import Rows
from app.models.adverse_event import CRITERIA, SUSPECTED, AdverseEvent
from app.models.among import among
from app.models.audit import AuditEntry
from app.models.base import columns, table_of, values
from app.models.participant import Participant
from app.models.safety_report import STANDS, AeReview, ReportKind, ReviewKind, SaeReport
from app.models.study import Site
from app.models.voided import counts
from app.protocol.definition import Safety
from app.protocol.expedited import (
    ClockState,
    EventFacts,
    Report,
    Review,
    RunningClock,
    Said,
    clocks,
    first_due,
    to_be_reported,
)
from app.services.studies import protocol_of

_EVENT, _REPORT, _REVIEW = table_of(AdverseEvent), table_of(SaeReport), table_of(AeReview)


class OverdueClock(NamedTuple):
    """An event and its passed deadline. Two clocks of one event with the same deadline are one."""

    site_id: int
    event_id: UUID
    due_at: datetime


def overdue(session: Session, site_ids: Sequence[int], at: datetime) -> set[OverdueClock]:
    """Every clock at these sites whose deadline has passed without the report."""
    return {
        OverdueClock(event.site_id, event.id, clock.due_at)
        for event, clock in open_clocks(session, with_open_clocks(site_ids))
        if clock.state(at) is ClockState.overdue
    }


def open_clocks(session: Session, statement: Rows) -> Iterator[tuple[Row[Any], RunningClock]]:
    """Every open clock of the events that the statement finds, with its event."""
    events = session.execute(statement).all()
    running = clocks_of(session, events)
    return ((event, clock) for event in events for clock in running[event.id] if clock.met_at is None)


def with_open_clocks(site_ids: Sequence[int]) -> Rows:
    """Events that may have an open clock: serious ones whose present version was not reported; those with a request for
    information; those that are unexpected reactions, or may be until they are assessed; and those corrected since the
    last report or review."""
    reported_as_it_is = has_report(_REPORT.c.event_version >= _EVENT.c.version)
    reviewed_as_it_is = has_review(_REVIEW.c.event_version >= _EVENT.c.version)
    suspected = _EVENT.c.relatedness_drug.in_(SUSPECTED) & _EVENT.c.expected.is_not(True)
    known = has_report() | (_EVENT.c.serious & has_review())
    statement = select(*columns(AdverseEvent)).where(
        _EVENT.c.site_id.in_(site_ids),
        counts(_EVENT),
        or_(
            and_(_EVENT.c.serious, ~reported_as_it_is),
            has_review(_REVIEW.c.kind == ReviewKind.information_request),
            has_review(_REVIEW.c.expected.is_(False)),
            and_(suspected, known, ~has_review(_REVIEW.c.kind == ReviewKind.assessment)),
            and_(or_(has_report(), has_review()), ~reported_as_it_is, ~reviewed_as_it_is),
        ),
    )
    return statement.order_by(_EVENT.c.due_at, _EVENT.c.id)


def has_report(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether an event has a report that meets the conditions."""
    return _has(_REPORT, *conditions)


def has_review(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether an event has a review that stands and meets the conditions."""
    return _has(_REVIEW, STANDS, *conditions)


def _has(table: Table, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    of_event = and_(table.c.site_id == _EVENT.c.site_id, table.c.adverse_event_id == _EVENT.c.id)
    return select(1).where(of_event, *conditions).correlate(_EVENT).exists()


def clocks_of(session: Session, events: Sequence[Row[Any]]) -> dict[UUID, list[RunningClock]]:
    """The clocks of these events, by five queries for any number of events."""
    known, zones = _facts(session, events), _zones(session, {event.site_id for event in events})
    return {
        event.id: list(clocks(known[event.id].facts, known[event.id].safety.clocks, zones[event.site_id]))
        for event in events
    }


def follow_correction(session: Session, event: AdverseEvent) -> None:
    """Set when the first report of a corrected event is due, and when the event was last downgraded; that time is kept
    until the event is as grave as it ever was. The audit trail does not have the new version yet."""
    with session.no_autoflush:
        facts, safety = _facts(session, [event])[event.id]
    corrected = _version(event.version, event.updated_at, values(event), safety.sae_report_within)
    event.due_at = first_due(facts._replace(said=(*facts.said, corrected)))
    if corrected.gravity < facts.said[-1].gravity:
        event.downgraded_at = event.updated_at
    elif corrected.gravity >= max(one.gravity for one in facts.said):
        event.downgraded_at = None


def new_due_at(event: Mapping[str, Any], safety: Safety) -> datetime | None:
    """When the first report of a new event is due."""
    return first_due(EventFacts((_version(1, event["created_at"], event, safety.sae_report_within),)))


def met_by_a_report(session: Session, event: AdverseEvent) -> list[RunningClock]:
    """The open clocks that a report of the event meets."""
    return to_be_reported(_facts(session, [event])[event.id].facts)


def first_aware(session: Session, event: AdverseEvent) -> datetime | None:
    """The earliest time of awareness in any version of an event."""
    said = _facts(session, [event])[event.id].facts.said
    return min((one.aware_at for one in said if one.aware_at), default=None)


class _Known(NamedTuple):
    facts: EventFacts
    safety: Safety
    """Of the participant's present protocol version."""


def _facts(session: Session, events: Sequence[Any]) -> dict[UUID, _Known]:
    """The facts from which the clocks of events are computed. Of an event never corrected, its row suffices."""
    reports, reviews = _by_event(session, _REPORT, events), _by_event(session, _REVIEW, events, STANDS)
    versions = _protocol_versions(session, events)
    said = _said(session, [event for event in events if event.version > 1], versions)
    found = {}
    for event in events:
        safety = protocol_of(session, versions[event.site_id, event.pid]).safety
        facts = EventFacts(
            said=tuple(said.get(event.id, ())) or (_uncorrected(event, safety),),
            reports=tuple(_reported(one) for one in reports.get(event.id, ())),
            reviews=tuple(_reviewed(one) for one in reviews.get(event.id, ())),
        )
        found[event.id] = _Known(facts, safety)
    return found


def _by_event(
    session: Session, table: Any, events: Iterable[Row[Any]], *conditions: ColumnElement[bool]
) -> Mapping[UUID, list[Row[Any]]]:
    ids, sites = [event.id for event in events], sorted({event.site_id for event in events})
    theirs = select(table).where(table.c.site_id.in_(sites), among(table.c.adverse_event_id, "ids", ids), *conditions)
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
    found = session.execute(wanted.where(person.c.site_id.in_(sites), among(person.c.pid, "pids", sorted(pids))))
    return {(site_id, symbols): version for site_id, symbols, version in found}


def _reported(row: Row[Any]) -> Report:
    return Report(row.event_version, row.submitted_at, row.kind == ReportKind.nullification)


def _reviewed(row: Row[Any]) -> Review:
    assessed = row.kind == ReviewKind.assessment
    return Review(
        version=row.event_version,
        at=row.reviewed_at,
        suspected=row.relatedness_drug in SUSPECTED if assessed else None,
        expected=row.expected,
        answer_until=row.due_at,
        informed_at=row.informed_at,
    )


def _uncorrected(event: Any, safety: Safety) -> Said:
    """The facts of an event in its first version, from its row. The time allowed for the report then is derived from
    its due time, as the participant may have another protocol version by now."""
    aware_at = event.aware_at or event.created_at
    within = event.due_at - aware_at if event.due_at else safety.sae_report_within
    return _version(1, event.created_at, {name: getattr(event, name) for name in _FIELDS}, within)


def _said(session: Session, events: Sequence[Any], versions: Mapping[tuple[int, str], int]) -> dict[UUID, list[Said]]:
    """The facts of each version of the events, from the audit trail, by the participant's protocol version at that
    time. `versions` are those that the trail does not have yet."""
    entry, person = table_of(AuditEntry).c, table_of(Participant).name
    about = {str(event.id): event for event in events}
    theirs = select(entry.site_id, entry.subject_id, entry.subject_version, entry.at, entry.changes).where(
        entry.site_id.in_({event.site_id for event in events}),
        entry.subject_type.in_((_EVENT.name, person)),
        among(entry.subject_id, "ids", [*about, *{event.pid for event in events}]),
    )
    followed, said = dict(versions), defaultdict(list)
    says: dict[str, dict[str, Any]] = {name: dict.fromkeys(_FIELDS) for name in about}  # None until an entry has it
    for row in session.execute(theirs.order_by(entry.site_id, entry.seq)).all():
        new = {one["field"]: one["new"] for one in json.loads(row.changes)}
        event = about.get(row.subject_id)
        if event is None:
            if "protocol_version_id" in new:
                followed[row.site_id, row.subject_id] = new["protocol_version_id"]
            continue
        says[row.subject_id] |= {name: value for name, value in new.items() if name in _FIELDS}
        safety = protocol_of(session, followed[row.site_id, event.pid]).safety
        at = event.created_at if row.subject_version == 1 else row.at
        said[event.id].append(_version(row.subject_version, at, says[row.subject_id], safety.sae_report_within))
    return said


def _version(version: int, at: datetime, says: Mapping[str, Any], within: timedelta) -> Said:
    return Said(
        version=version,
        at=at,
        aware_at=_instant(says["aware_at"]),
        criteria=frozenset(name for name in CRITERIA if says[name]),
        suspected=says["relatedness_drug"] in SUSPECTED,
        expected=says["expected"],
        within=within,
    )


def _instant(value: datetime | str | None) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


_FIELDS = (*CRITERIA, "aware_at", "relatedness_drug", "expected")
