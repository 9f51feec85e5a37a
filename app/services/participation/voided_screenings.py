"""Voiding a further screening that was begun for the wrong participant, who is then as they were before it."""

from collections.abc import Mapping
from typing import Any

from sqlmodel import Session, col, or_, select

from app import audit
from app.access import Actor, found
from app.errors import Conflict
from app.models.base import canonical_json, now
from app.models.participant import ParticipantStatus
from app.models.screening import Screening, ScreeningRead
from app.models.visit import Visit
from app.models.voided import VOIDING_FIELDS, RecordVoiding, counts
from app.services.participation import screenings
from app.services.participation.participants import Hold, Person, follow_findings, move_on, visible_person
from app.services.quality import dependent_findings, rule_queries
from app.services.unlocked import require_not_voided, require_unlocked
from app.web.conditional import Seen


class ScreeningOfEnrolment(Conflict):
    """The first screening was recorded with the enrolment: its answers are corrected, or the participant is voided."""


class ScreeningFollowed(Conflict):
    """The participant was enrolled, or left the study, after this screening. An end that was entered by mistake is
    corrected first; an enrolment stays, and the screening with it."""


class ScreeningHasVisits(Conflict):
    """Visits since this screening began count: void each of them first. `visits` names them."""


def void_screening(
    session: Session, actor: Actor, seen: Seen, symbols: str, number: int, body: RecordVoiding
) -> tuple[ScreeningRead, int]:
    """Void the present screening, if it is not the first one; `seen` is the participant's ETag. Also gives the site's
    key.

    Raises NotFound, RecordVoided, VersionStale, ScreeningOfEnrolment, AnotherScreening, ScreeningFollowed,
    ScreeningHasVisits, DataLocked.
    """
    person = visible_person(session, actor, symbols, hold=Hold.change)
    recorded = screenings.recorded(session, person.row)
    row = found(next((one for one in recorded if one.number == number), None))
    require_not_voided(row)
    seen.require_current(person.pid, person.row.version, VOIDING_FIELDS)
    if row.number == 1:
        raise ScreeningOfEnrolment
    present = max(one.number for one in recorded if one.voided_at is None)
    if row.number != present:
        raise screenings.AnotherScreening(present=present)
    if person.row.status not in screenings.UNDECIDED:
        raise ScreeningFollowed
    _require_no_visits(session, person, row, earlier=sum(one.voided_at is None for one in recorded) - 1)
    require_unlocked(session, person.site_id, person.pid)
    voided = screenings.voided(session, actor, row, body.reason, now())
    before = audit.snapshot(person.row)
    _return(person, screenings.participant_before(session, row))
    follow_findings(session, person.row)
    judged = dependent_findings.after_screening_day(session, person)
    changed = audit.changed(
        "participant:screening-voided", person.row, person.pid, person.row.version, before, body.reason
    )
    rule_queries.follow(session, person.row, before["findings"], *judged.turned)
    audit.append(session, actor.account_id, row.site_id, [voided, changed, *judged.events])
    return screenings.read(session, row), row.site_id


def _require_no_visits(session: Session, person: Person, row: Screening, earlier: int) -> None:
    """A visit on the day itself, or of no day, is of the screening if it was recorded after it; a screening visit, if
    its occurrence lies beyond those of the `earlier` screenings. Raises ScreeningHasVisits."""
    day, began = col(Visit.occurred_on), person.row.screened_on or row.screened_on
    recorded_after = or_(day.is_(None), day == began) & (col(Visit.created_at) >= row.recorded_at)
    numbered = (
        (col(Visit.visit_code) == visit.code) & (col(Visit.occurrence) > earlier * visit.repeats)
        for visit in person.protocol.visits
        if visit.numbered_by_screening
    )
    theirs = select(Visit.id).where(Visit.site_id == row.site_id, Visit.pid == row.pid, counts(Visit))
    held = session.exec(theirs.where(or_(day > began, recorded_after, *numbered)).order_by(day, col(Visit.id))).all()
    if held:
        raise ScreeningHasVisits(visits=[f"/v1/visits/{visit_id}" for visit_id in held])


def _return(person: Person, was: Mapping[str, Any]) -> None:
    """Give the participant the values that a screening changes as they were; others were corrected by themselves."""
    row = person.row
    row.status, row.eligible = ParticipantStatus(was["status"]), was["eligible"]
    row.unmet_criteria = canonical_json(was["unmet_criteria"])
    row.status_on, row.screened_on = (screenings.day_of(was, name) for name in ("status_on", "screened_on"))
    move_on(row)
