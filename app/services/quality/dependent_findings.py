"""Findings that depend on other records, worked out again when one of those is recorded, corrected or voided.

This is the one list of what depends on what. A finding is no change of the record itself: versions of visits and
adverse events stay, and so does what was verified or signed of them.
"""

from typing import NamedTuple

from sqlmodel import Session

from app import audit
from app.models.visit import Visit
from app.services.assessments import visit_findings
from app.services.dosing import doses
from app.services.participation import consent_history, participants
from app.services.participation.participants import Person, recorded_by
from app.services.quality.rule_queries import Turned
from app.services.safety import adverse_events


class JudgedAgain(NamedTuple):
    """The audit events of records whose findings changed, and the data queries to raise and to close."""

    events: list[audit.Event]
    turned: list[Turned]


NOTHING = JudgedAgain([], [])


def after_consent(session: Session, person: Person) -> JudgedAgain:
    """Visits and doses need a consent; an adverse event must not begin before the first one."""
    visits = visit_findings.judged_again(session, person.site_id, person.pid, _course(session, person))
    dose_events, dose_turns = doses.judged_again(session, person)
    ae_events, ae_turns = adverse_events.judged_again(session, person.row)
    return JudgedAgain([*visits.events, *dose_events, *ae_events], [visits.turned, *dose_turns, *ae_turns])


def after_further_consent(session: Session, person: Person) -> JudgedAgain:
    """The same after one was added or voided, and the participant too. (Who is corrected is judged with that.)"""
    events, turned = participants.judged_again(session, person.row)
    others = after_consent(session, person)
    return JudgedAgain([*events, *others.events], [turned, *others.turned])


def after_withdrawal(session: Session, person: Person) -> JudgedAgain:
    """Doses need a consent in force."""
    return JudgedAgain(*doses.judged_again(session, person))


def after_dosing_session(session: Session, person: Person) -> JudgedAgain:
    """Doses of different sessions must not be too near to each other."""
    return JudgedAgain(*doses.judged_again(session, person))


def after_screening_day(session: Session, person: Person) -> JudgedAgain:
    """Doses need the visits before them, held since the last screening began."""
    return JudgedAgain(*doses.judged_again(session, person))


def after_status(session: Session, person: Person) -> JudgedAgain:
    """Visits, doses and adverse events may now lie after the day on which the participant left or died."""
    return after_consent(session, person)


def after_visit_day(session: Session, person: Person, visit: Visit) -> JudgedAgain:
    """Other visits are planned from the day of this one, and it may be one that prepares for doses. Both by the
    protocol version of the visit and by that of the participant."""
    protocols = (recorded_by(session, person, visit.protocol_version_id), person.protocol)
    visits = visit_findings.NOTHING
    if any(one.has_dependents(visit.visit_code, visit.occurrence) for one in protocols):
        course = _course(session, person)
        visits = visit_findings.judged_again(session, visit.site_id, visit.pid, course, visit.visit_code)
    prepares = any(one.prepares(visit.visit_code) for one in protocols)
    dose_events, dose_turns = doses.judged_again(session, person) if prepares else ([], [])
    return JudgedAgain([*visits.events, *dose_events], [visits.turned, *dose_turns])


def _course(session: Session, person: Person) -> visit_findings.Course:
    return visit_findings.course_of(person.row, consent_history.history_of(session, person))
