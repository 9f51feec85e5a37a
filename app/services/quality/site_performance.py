"""Site performance: enrolment, visit windows, data queries, adverse events and verification, side by side."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from itertools import groupby
from typing import Any

from sqlalchemy import Row, func, select
from sqlmodel import Session, col

from app.access import Actor, visible
from app.models.adverse_event import AdverseEvent
from app.models.base import now
from app.models.data_query import QueryOrigin
from app.models.data_query_shapes import QueryCounts
from app.models.participant import IN_STUDY, Participant, ParticipantStatus, left_on
from app.models.site_performance import (
    EnrolmentCounts,
    EventReporting,
    MonitoringSites,
    SitePerformance,
    WindowCompliance,
)
from app.models.sync import UnsettledActs
from app.models.verification import RecordCoverage
from app.models.visit import HELD, Visit
from app.models.voided import counts
from app.protocol.definition import Protocol
from app.protocol.schedule import window_of
from app.protocol.site_rates import DAYS_A_MONTH, SiteRate, site_rates
from app.services.quality.query_ages import Numbers, query_counts, sites_by_code, standings
from app.services.quality.unsettled_acts import unsettled_acts
from app.services.quality.verification_coverage import record_coverage, sampled
from app.services.studies import protocol_of


def monitoring_sites(session: Session, actor: Actor, study: str) -> MonitoringSites:
    """A study's sites in reach, in the order of their codes. As many statements for all sites as for one, and one for
    each protocol version that this worker has not read yet. Raises NotFound for a study out of reach."""
    site_ids = sites_by_code(actor, study)
    people = _people(session, actor, site_ids)
    events = _events(session, actor, site_ids)
    months = [_months(people[site_id]) for site_id in site_ids]
    rates = site_rates([(events[site_id], time) for site_id, time in zip(site_ids, months, strict=True)])
    windows = _windows(session, actor, site_ids, people)
    numbers = standings(session, actor, site_ids)
    plans = sampled(session, study, (row for rows in people.values() for row in rows))
    known = record_coverage(session, site_ids, plans), unsettled_acts(session, site_ids)
    return MonitoringSites(
        study=study,
        sites=[
            _site(actor.places[site_id].site, site_id, people[site_id], windows[site_id], numbers, rate, *known)
            for site_id, rate in zip(site_ids, rates, strict=True)
        ],
    )


def _site(
    code: str,
    site_id: int,
    people: Sequence[Row[Any]],
    windows: Counter[bool],
    numbers: Numbers,
    rate: SiteRate,
    verified: Mapping[int, RecordCoverage],
    unsettled: Mapping[int, UnsettledActs],
) -> SitePerformance:
    statuses = Counter(ParticipantStatus(row.status) for row in people)
    queries = QueryCounts(**query_counts([numbers[site_id, origin] for origin in QueryOrigin]))
    raised = queries.open + queries.answered + queries.closed
    return SitePerformance(
        site=code,
        participants=EnrolmentCounts(
            registered=len(people),
            enrolled=sum(row.enrolled_on is not None for row in people),
            by_status={status: statuses[status] for status in ParticipantStatus},
        ),
        visits=WindowCompliance(
            with_window=windows.total(),
            in_window=windows[True],
            share=round(windows[True] / windows.total(), 4) if windows else None,
        ),
        data_queries=queries,
        data_queries_per_participant=round(raised / len(people), 4) if people else None,
        adverse_events=EventReporting(
            events=rate.events,
            participant_months=round(rate.months, 2),
            per_participant_month=None if rate.rate is None else round(rate.rate, 4),
            expected=None if rate.expected is None else round(rate.expected, 2),
            mark=rate.mark,
        ),
        verification=verified[site_id],
        unsettled_acts=unsettled[site_id],
    )


def _people(session: Session, actor: Actor, site_ids: Sequence[int]) -> dict[int, list[Row[Any]]]:
    wanted: list[Any] = [Participant.site_id, Participant.pid, Participant.protocol_version_id]
    wanted += [Participant.status, Participant.status_on, Participant.earlier_ends, Participant.enrolled_on]
    grouped: dict[int, list[Row[Any]]] = defaultdict(list)
    theirs = select(*wanted).where(col(Participant.site_id).in_(site_ids), counts(Participant))
    for row in session.execute(visible(theirs, actor)):
        grouped[row.site_id].append(row)
    return grouped


def _months(people: Sequence[Row[Any]]) -> float:
    """Participant-months from enrolment to leaving, or until today (UTC)."""
    today = now().date()
    return sum(_days(row, today) for row in people if row.enrolled_on is not None) / DAYS_A_MONTH


def _days(row: Row[Any], today: date) -> int:
    left = left_on(row)
    days: int = ((left or today) - row.enrolled_on).days
    return max(days, 0)


def _events(session: Session, actor: Actor, site_ids: Sequence[int]) -> Counter[int]:
    """By site, the number of adverse events that may have begun while their participants were in the study. An event of
    another time, such as before the enrolment, does not show how a site reports; an unknown onset may be on any day.
    The database counts, and only events that may be later than the participant's leaving are checked one by one."""
    begun, leaving = col(AdverseEvent.onset_earliest), col(Participant.status_on)
    person = (col(Participant.site_id) == col(AdverseEvent.site_id)) & (col(Participant.pid) == col(AdverseEvent.pid))
    since = col(AdverseEvent.onset_latest).is_(None) | (col(AdverseEvent.onset_latest) >= col(Participant.enrolled_on))
    here = (
        col(AdverseEvent.site_id).in_(site_ids),
        counts(AdverseEvent),
        col(Participant.enrolled_on).is_not(None),
        since,
    )

    def watched(*wanted: Any) -> Any:
        return visible(select(*wanted).join_from(AdverseEvent, Participant, person).where(*here), actor)

    number = watched(AdverseEvent.site_id, func.count().label("number")).group_by(col(AdverseEvent.site_id))
    counted = Counter({row.site_id: row.number for row in session.execute(number)})
    wanted = (AdverseEvent.site_id, begun, Participant.status, Participant.status_on, Participant.earlier_ends)
    gone = col(Participant.status).not_in(IN_STUDY) & (leaving.is_(None) | (begun > leaving))
    late = watched(*wanted).where(begun.is_not(None), gone | col(Participant.earlier_ends).is_not(None))
    for row in session.execute(late):
        left = left_on(row)
        counted[row.site_id] -= left is not None and row.onset_earliest > left
    return counted


def _windows(
    session: Session, actor: Actor, site_ids: Sequence[int], people: dict[int, list[Row[Any]]]
) -> dict[int, Counter[bool]]:
    """By site, how many visits took place inside (True) and outside (False) their window."""
    versions = {row.pid: row.protocol_version_id for rows in people.values() for row in rows}

    def protocol(row: Row[Any]) -> Protocol:
        """The one under which the visit was recorded, as in the answer of the visit itself."""
        return protocol_of(session, row.protocol_version_id or versions[row.pid])

    counted: dict[int, Counter[bool]] = defaultdict(Counter)
    for (site_id, pid), visits in groupby(_held(session, actor, site_ids), key=lambda row: (row.site_id, row.pid)):
        if pid in versions:
            counted[site_id].update(_in_window([(row, protocol(row)) for row in visits]))
    return counted


def _held(session: Session, actor: Actor, site_ids: Sequence[int]) -> Iterable[Row[Any]]:
    """Visits that took place, ordered by participant."""
    wanted: list[Any] = [Visit.site_id, Visit.pid, Visit.visit_code, Visit.occurrence, Visit.occurred_on]
    wanted.append(Visit.protocol_version_id)
    held = select(*wanted).where(col(Visit.site_id).in_(site_ids), counts(Visit), col(Visit.status).in_(sorted(HELD)))
    return session.execute(visible(held, actor).order_by(*wanted[:2]).execution_options(yield_per=1000))


def _in_window(visits: Sequence[tuple[Row[Any], Protocol]]) -> Iterator[bool]:
    """For each of a participant's visits with a window, whether it took place inside it."""
    held = {(row.visit_code, row.occurrence): row.occurred_on for row, _ in visits}
    for row, protocol in visits:
        planned = protocol.planned(row.visit_code)
        window = window_of(protocol, planned, held, row.occurrence, row.occurred_on) if planned else None
        if window is not None:
            yield window.deviation_days(row.occurred_on) == 0
