"""Findings that depend on other records, worked out again when one of those is recorded, corrected or voided.

This is the one list of what depends on what. A finding is no change of the record itself: versions of visits and
adverse events stay, and so does what was verified or signed of them.
"""

from sqlmodel import Session

from app.models.visit import Visit
from app.services.assessments import visit_findings
from app.services.dosing import doses
from app.services.participation import consent_history, participants
from app.services.participation.participants import Person, recorded_by
from app.services.quality.rule_queries import NOTHING, Judged, together
from app.services.safety import adverse_events


def after_consent(session: Session, person: Person) -> Judged:
    """Visits and doses need a consent; an adverse event must not begin before the first one."""
    visits = visit_findings.judged_again(session, person.site_id, person.pid, _course(session, person))
    return together(visits, doses.judged_again(session, person), adverse_events.judged_again(session, person.row))


def after_further_consent(session: Session, person: Person) -> Judged:
    """The same after one was added or voided, and the participant too. (Who is corrected is judged with that.)"""
    return together(participants.judged_again(session, person.row), after_consent(session, person))


def after_withdrawal(session: Session, person: Person) -> Judged:
    """Doses need a consent in force."""
    return doses.judged_again(session, person)


def after_dosing_session(session: Session, person: Person) -> Judged:
    """Doses of different sessions must not be too near to each other."""
    return doses.judged_again(session, person)


def after_screening_day(session: Session, person: Person) -> Judged:
    """Doses need the visits before them, held since the last screening began."""
    return doses.judged_again(session, person)


def after_status(session: Session, person: Person) -> Judged:
    """Visits, doses and adverse events may now lie after the day on which the participant left or died."""
    return after_consent(session, person)


def after_visit_day(session: Session, person: Person, visit: Visit) -> Judged:
    """Other visits are planned from the day of this one, and it may be one that prepares for doses. Both by the
    protocol version of the visit and by that of the participant."""
    protocols = (recorded_by(session, person, visit.protocol_version_id), person.protocol)
    visits = NOTHING
    if any(one.has_dependents(visit.visit_code, visit.occurrence) for one in protocols):
        course = _course(session, person)
        visits = visit_findings.judged_again(session, visit.site_id, visit.pid, course, visit.visit_code)
    prepares = any(one.prepares(visit.visit_code) for one in protocols)
    return together(visits, doses.judged_again(session, person) if prepares else NOTHING)


def _course(session: Session, person: Person) -> visit_findings.Course:
    return visit_findings.course_of(person.row, consent_history.history_of(session, person))
