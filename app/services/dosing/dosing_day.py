"""A dosing session with the data that its rules need. The participant's row is locked while the session is changed."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from sqlmodel import Session, col, select

from app.access import Actor, found, visible, visible_row
from app.errors import Conflict, Fault, Invalid
from app.models.base import from_json, now
from app.models.consent import WithdrawalScope
from app.models.dosing_session import Dose, DosingSession, SessionState, VitalReading
from app.models.outcome import Outcome, answered, done
from app.models.participant import Participant, ParticipantStatus, began, left_on
from app.models.visit import HELD, Visit
from app.models.voided import counts
from app.protocol.clocks import local_day
from app.protocol.definition import Protocol
from app.protocol.dosing import Dosing, PlannedDose
from app.protocol.dosing_checks import Breach, DischargeFacts, SessionFacts, start_refusals
from app.protocol.vitals import CountedFrom, Vitals, misplaced
from app.services.participation import consent_history, screenings
from app.services.participation.participants import Hold, Person, recorded_by, visible_person
from app.services.quality import rule_queries
from app.services.quality.rule_queries import Turned
from app.services.studies import zone_of
from app.services.unlocked import require_not_voided, require_unlocked


class NotADosingVisit(Invalid):
    """The participant's protocol version gives no dose at this visit."""


class DosingSessionClosed(Conflict):
    """The dosing session is closed; what is there can be corrected, and what was forgotten added, with the reason."""


class MomentOutsideVisit(Invalid):
    """A time is not on the day of the dosing visit, or does not fit the session's other times; see errors."""


class VisitHasDosingSession(Conflict):
    """A dosing session of this visit started on its day, so the visit took place then."""


_NIGHT_ENDS = time(12)
"""Noon of the next day, in the site's time. No guideline names an hour, so this is the registry's own: a participant
who stayed overnight after the dose is awake and has been seen by then."""


@dataclass(frozen=True)
class DosingDay:
    """A session, its visit and participant, and what the protocol plans for the day."""

    person: Person
    visit: Visit
    plan: PlannedDose
    dosing: Dosing
    zone: ZoneInfo
    protocol: Protocol
    """The version under which the visit was recorded. Moving the participant to another version later does not change
    it."""

    @property
    def vitals(self) -> Vitals:
        return self.protocol.vitals or Vitals.model_construct(measures=(), pairs=(), timepoints=())

    def require_start(self, at: datetime) -> date:
        """The site's calendar day on which the session starts. Raises MomentOutsideVisit."""
        day = local_day(at, self.zone)
        if not self._first <= day <= self._last:
            raise MomentOutsideVisit(Fault("/started_at", "outside_visit", "Must lie on the day of the visit"))
        return day

    def unmet(self, kinds: Any, facts: SessionFacts) -> list[Breach]:
        """The preconditions of these kinds (classes of rules) that are not met."""
        rules = tuple(rule for rule in self.dosing.preconditions if isinstance(rule, kinds))
        return start_refusals(self.dosing.model_copy(update={"preconditions": rules}), facts)

    def require_moment(
        self, pointer: str, at: datetime | None, row: DosingSession | None = None, stored: Collection[Any] = ()
    ) -> None:
        """Check a time of the session: from the start of the visit's first day until noon after its last day, and, with
        `row`, between the session's start and end. Times in `stored` may be later than noon: they may have been
        recorded before this limit existed. Raises MomentOutsideVisit."""
        if at is None:
            return
        if at not in stored and not self._begins <= at < self._noon_after:
            message = "Must lie on the day of the visit, or in the night after it, until noon"
            raise MomentOutsideVisit(Fault(pointer, "outside_visit", message))
        if row is not None and at < row.started_at:
            raise MomentOutsideVisit(Fault(pointer, "before_start", "Cannot lie before the session's start"))
        if row is not None and row.ended_at is not None and at > row.ended_at:
            raise MomentOutsideVisit(Fault(pointer, "after_end", "Cannot lie after the session's end"))

    def require_release(self, at: datetime | None) -> None:
        """Check the time of release: on the visit or the next day, as participants may stay overnight. Raises
        MomentOutsideVisit."""
        if at is not None and not self._first <= local_day(at, self.zone) <= self._last + timedelta(days=1):
            message = "Must lie on the day of the visit, or on the next one"
            raise MomentOutsideVisit(Fault("/released_at", "outside_visit", message))

    @property
    def _begins(self) -> datetime:
        return datetime.combine(self._first, time.min, self.zone)

    @property
    def _noon_after(self) -> datetime:
        return datetime.combine(self._last + timedelta(days=1), _NIGHT_ENDS, self.zone)

    @property
    def _first(self) -> date:
        assert self.visit.occurred_on is not None
        return self.visit.occurred_on

    @property
    def _last(self) -> date:
        return self.visit.ended_on or self._first


def dosing_day(session: Session, actor: Actor, pid: str, visit_id: UUID, hold: Hold) -> DosingDay:
    """Load a dosing visit, after locking the participant's row as `hold` says. Raises NotFound, NotADosingVisit and,
    unless `hold` is none, RecordVoided, DataLocked."""
    person = visible_person(session, actor, pid, hold=hold)
    visit = visible_row(session, actor, Visit, visit_id)
    if hold is not Hold.none:
        require_not_voided(visit)
        require_unlocked(session, visit.site_id, visit.pid, visit.id, visit.visit_code)
    return _day_of(session, person, visit)


def _day_of(session: Session, person: Person, visit: Visit) -> DosingDay:
    protocol = recorded_by(session, person, visit.protocol_version_id)
    dosing = protocol.dosing
    plan = dosing.dose(visit.visit_code) if dosing else None
    if dosing is None or plan is None:
        raise NotADosingVisit(Fault("/visit", "no_dose", "The protocol plans no dose at this visit"))
    return DosingDay(person, visit, plan, dosing, zone_of(session, person.site_id), protocol)


def days_of(session: Session, person: Person, but: UUID | None) -> list[tuple[DosingDay, DosingSession]]:
    """All sessions of a participant that count, except `but`, each with its day. Lock the participant for change
    before."""
    joined = (col(Visit.site_id) == col(DosingSession.site_id)) & (col(Visit.id) == col(DosingSession.visit_id))
    theirs = select(Visit, DosingSession).join(DosingSession, joined)
    theirs = theirs.where(Visit.site_id == person.site_id, Visit.pid == person.pid, counts(DosingSession))
    rows = session.exec(theirs).all()
    return [(_day_of(session, person, visit), row) for visit, row in rows if row.id != but]


def hold_session(session: Session, actor: Actor, session_id: UUID) -> tuple[DosingDay, DosingSession]:
    """Load a session that is to be changed. The lock on the participant's row is the one lock for all changes of
    their sessions. Raises NotFound, RecordVoided, DataLocked."""
    asked = select(DosingSession.pid, DosingSession.visit_id).where(DosingSession.id == session_id)
    pid, visit_id = found(session.exec(visible(asked, actor)).first())
    day = dosing_day(session, actor, pid, visit_id, Hold.change)
    row = visible_row(session, actor, DosingSession, session_id)
    require_not_voided(row)
    return day, row


def require_visit_fits(session: Session, visit: Visit) -> None:
    """Check that the dosing session of a corrected visit still starts on a day of the visit. Raises
    VisitHasDosingSession."""
    statement = select(DosingSession.started_at).where(
        DosingSession.site_id == visit.site_id, DosingSession.visit_id == visit.id, counts(DosingSession)
    )
    started_at = session.exec(statement).first()
    if started_at is None:
        return
    first = visit.occurred_on
    day = local_day(started_at, zone_of(session, visit.site_id))
    if first is None or not first <= day <= (visit.ended_on or first):
        raise VisitHasDosingSession


def require_open(row: DosingSession, reason: str | None = None) -> None:
    """A closed session accepts a forgotten dose or reading only with a `reason`. Raises DosingSessionClosed."""
    if row.state == SessionState.closed and reason is None:
        raise DosingSessionClosed


def touch(session: Session, row: DosingSession, *others: Turned) -> None:
    """Call when anything in the session changed: counts its version up, which changes its ETag, and updates the data
    queries. `others`: see `follow_queries`."""
    next_version(session, row)
    follow_queries(session, row, *others)


def next_version(session: Session, row: DosingSession) -> None:
    row.version, row.updated_at = row.version + 1, now()
    session.flush()


def follow_queries(session: Session, row: DosingSession, *others: Turned) -> None:
    """Raise and close data queries so that they match the findings on this session's doses and vital signs, and those
    in `others`, which are the changed findings of other sessions. Call it just before the audit entry."""
    rule_queries.settle_all(session, row.site_id, turned(session, row), *others)


def turned(session: Session, row: DosingSession) -> Turned:
    """The findings of a session that have no data query yet, and the open data queries whose finding no longer
    applies."""
    parts = [
        *(("/doses", dose.id, from_json(dose.findings)) for dose in doses_of(session, row)),
        *(("/vitals", reading.id, from_json(reading.findings)) for reading in readings_of(session, row)),
    ]
    return rule_queries.turned_in_session(session, row, parts)


def doses_of(session: Session, row: DosingSession) -> Sequence[Dose]:
    """The initial dose first."""
    statement = select(Dose).where(Dose.site_id == row.site_id, Dose.session_id == row.id)
    return session.exec(statement.order_by(col(Dose.kind))).all()


def readings_of(session: Session, row: DosingSession, *, voided: bool = False) -> Sequence[VitalReading]:
    """Those that count, or those that were voided by themselves, in the order in which they were taken."""
    those = ~counts(VitalReading) if voided else counts(VitalReading)
    statement = select(VitalReading).where(VitalReading.site_id == row.site_id, VitalReading.session_id == row.id)
    return session.exec(statement.where(those).order_by(col(VitalReading.taken_at), col(VitalReading.id))).all()


def moments(row: DosingSession, doses: Sequence[Dose]) -> dict[CountedFrom, datetime]:
    """The known times from which time points of vital signs are counted."""
    known: dict[CountedFrom, datetime | None] = {"session_end": row.ended_at}
    for dose in doses:
        known["initial_dose" if dose.kind == "initial" else "supplemental_dose"] = dose.given_at
    return {name: at for name, at in known.items() if at is not None}


def taken(readings: Sequence[VitalReading]) -> set[tuple[str, str]]:
    """The (time point, measure) pairs that were measured."""
    return {(one.timepoint, code) for one in readings if one.timepoint for code in json.loads(one.measured)}


def out_of_order(
    day: DosingDay, row: DosingSession, doses: Sequence[Dose], timepoint: str | None, taken_at: datetime
) -> str | None:
    """Why a reading cannot have been taken at the time point that it names; None if it can."""
    known = moments(row, doses)
    points = [point for point in day.vitals.timepoints if point.code == timepoint]
    return next((misplaced(point, taken_at, known) for point in points), None)


def discharge_facts(session: Session, day: DosingDay, row: DosingSession) -> DischargeFacts:
    """The facts that the discharge checklist is checked against. While the session is open, vital signs taken at the
    wrong time for their time point and incomplete forms do not count. In a closed session they do, and carry a
    finding."""
    doses, readings = doses_of(session, row), readings_of(session, row)
    if row.state == SessionState.open:
        readings = [one for one in readings if not out_of_order(day, row, doses, one.timepoint, one.taken_at)]
    measured = taken(readings)
    outcomes = select(Outcome.instrument, Outcome.instrument_version, Outcome.origin, Outcome.items).where(
        Outcome.site_id == row.site_id, Outcome.visit_id == row.visit_id, counts(Outcome)
    )
    suffices = done if row.state == SessionState.open else answered
    forms = {one.instrument for one in session.execute(outcomes) if suffices(one, json.loads(one.items))}
    points = day.vitals.timepoints
    complete = {point.code for point in points if all((point.code, code) in measured for code in point.measures)}
    return DischargeFacts(row.released_at, complete, forms, json.loads(row.discharge))


def consent_in_force(
    session: Session, person: Person, on: date, ended_by: date | None = None
) -> tuple[bool, frozenset[str]]:
    """Whether the consent version required on the day `on` had been signed by then, and the scopes of the newest
    consent signed by then. Withdrawals count if they took effect on or before `ended_by` (default: `on`)."""
    row, ended_by = person.row, ended_by or on
    gone = began(_GONE, row)
    if gone is not None and gone <= ended_by:
        return False, frozenset()
    history = consent_history.history_of(session, person)
    by_then = history._replace(withdrawals=[one for one in history.withdrawals if one.effective_on <= ended_by])
    if by_then.withdrawn(on).keys() & _NO_DOSE:
        return False, frozenset()
    wanted = consent_history.wanted_of(person.protocol, person.amendments, history, on, _standing(row, on))
    signed = any(one.version == wanted and (one.given_on is None or one.given_on <= on) for one in by_then.consents)
    return signed, by_then.scopes(on)


def _standing(row: Participant, on: date) -> Collection[str]:
    """The statuses that a participant may have had on a day. Before the present status the participant took part."""
    if row.status_on is not None and row.status_on <= on:
        return {row.status}
    return {ParticipantStatus.enrolled, ParticipantStatus.active}


_NO_DOSE = frozenset({WithdrawalScope.dosing, WithdrawalScope.collection})


_GONE = frozenset({ParticipantStatus.withdrawn, ParticipantStatus.died, ParticipantStatus.terminated})


def eligibility_confirmed(person: Person, on: date) -> bool:
    """Whether the participant is eligible, was enrolled by that day, and had not left the study by then."""
    row = person.row
    left = left_on(row)
    ended = left is not None and left <= on
    return row.eligible and row.enrolled_on is not None and row.enrolled_on <= on and not ended


def other_doses(session: Session, day: DosingDay, row: DosingSession | None = None) -> list[date]:
    """Calendar days on which the participant was dosed in other sessions than this one."""
    of_session = (col(DosingSession.site_id) == col(Dose.site_id)) & (col(DosingSession.id) == col(Dose.session_id))
    theirs = (
        select(col(Dose.given_at), col(Dose.session_id))
        .join(DosingSession, of_session)
        .where(Dose.site_id == day.person.site_id, Dose.pid == day.person.row.pid, counts(DosingSession))
    )
    given = session.exec(theirs).all()
    return [local_day(at, day.zone) for at, of in given if at is not None and (row is None or of != row.id)]


def days_without_session(session: Session, day: DosingDay, on: date) -> list[date]:
    """First days, up to and including `on`, of other dosing visits that took place but have no session. Nobody recorded
    that no dose was given, so they count as days with a dose, as they do for the exposure."""
    codes = [dose.visit for dose in day.dosing.doses]
    joined = (col(Visit.site_id) == col(DosingSession.site_id)) & (col(Visit.id) == col(DosingSession.visit_id))
    statement = (
        select(col(Visit.occurred_on))
        .outerjoin(DosingSession, joined & counts(DosingSession))
        .where(
            Visit.site_id == day.person.site_id,
            Visit.pid == day.person.row.pid,
            Visit.id != day.visit.id,
            counts(Visit),
            col(Visit.visit_code).in_(codes),
            col(Visit.occurred_on) <= on,
            col(DosingSession.id).is_(None),
        )
    )
    return [one for one in session.exec(statement) if one is not None]


def screened_again_on(session: Session, person: Person) -> date | None:
    """Of who was screened more than once, the day on which the last screening began. It is a new episode under the same
    participant (domain.md, section 6): the visits of the one that failed, weeks or years before, prepare for no dose of
    this one."""
    again = screenings.count(session, person.site_id, person.row.pid) > 1
    return person.row.screened_on if again else None


def held_visits(session: Session, person: Person, since: date | None) -> dict[str, date]:
    """The codes of visits that took place, each with its first day on or after `since`."""
    statement = select(col(Visit.visit_code), col(Visit.occurred_on)).where(
        Visit.site_id == person.site_id, Visit.pid == person.row.pid, counts(Visit), col(Visit.status).in_(HELD)
    )
    if since is not None:
        statement = statement.where(col(Visit.occurred_on) >= since)
    days: dict[str, Any] = {}
    for code, on in session.exec(statement):
        if on is not None:
            days[code] = min(on, days.get(code, on))
    return days
