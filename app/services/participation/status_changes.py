"""A participant's way along the status model, and corrections of it."""

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

from sqlmodel import Session

from app import audit
from app.access import Actor
from app.errors import Conflict, Fault, Invalid
from app.models.base import now, values
from app.models.participant import (
    FOLLOWS_ENROLMENT,
    IN_STUDY,
    STATUS_TRANSITIONS,
    Participant,
    ParticipantRead,
    ParticipantStatus,
    StatusChange,
    ends_before,
)
from app.services.participation import screenings
from app.services.participation.participant_facts import require_consent
from app.services.participation.participants import (
    Hold,
    follow_findings,
    participant_read,
    require_in_force,
    visible_person,
)
from app.services.quality import dependent_findings, rule_queries
from app.services.safety import safety_signals
from app.services.site_days import require_past
from app.services.trail.history import versions_of
from app.services.unlocked import require_unlocked


class NotEligible(Conflict):
    """Screening has not found this person eligible, so nobody can enrol them."""


class StatusBeforeScreening(Invalid):
    """No status can begin before the participant was screened."""


class StatusOutOfOrder(Invalid):
    """A status cannot begin before the enrolment, or before the status that it follows."""


class StatusTransitionImpossible(Conflict):
    """A participant in the present status cannot go to that one."""


class Step(NamedTuple):
    """A status that a participant had, from a day on."""

    status: ParticipantStatus
    on: date | None


def change_status(session: Session, actor: Actor, symbols: str, body: StatusChange) -> tuple[ParticipantRead, int]:
    """Move a participant along the status model, or correct a status that was entered by mistake. Safety rules are
    applied to a participant who is back in the study, as another protocol version may apply by now. Also gives the
    site's key.

    Raises NotFound, StatusTransitionImpossible, StatusBeforeScreening, StatusOutOfOrder, NotEligible,
    ProtocolVersionNotInForce, ConsentMissing.
    """
    person = visible_person(session, actor, symbols, hold=Hold.change)
    require_past(actor, person.site_id, body)
    row, before = person.row, audit.snapshot(person.row)
    present = ParticipantStatus(row.status)
    earlier = _earlier_steps(session, row) if body.correction else [Step(present, row.status_on)]
    possible = _corrections(row, earlier) if body.correction else STATUS_TRANSITIONS[present]
    if body.status not in possible:
        raise StatusTransitionImpossible(Fault("/status", "impossible", f"From {row.status} that is not possible"))
    _require_in_order(row, body, earlier)
    if body.status is ParticipantStatus.enrolled and not row.eligible:
        raise NotEligible
    if body.status is ParticipantStatus.enrolled and row.enrolled_on is None:
        require_in_force(person.protocol, body.effective_on)
        require_consent(session, person)
    require_unlocked(session, row.site_id, row.pid)
    row.earlier_ends = ends_before(row, body.status, correction=body.correction)
    row.status, row.status_on = body.status, body.effective_on
    row.version, row.updated_at = row.version + 1, now()
    if body.status is ParticipantStatus.enrolled:
        row.enrolled_on = body.effective_on
        follow_findings(session, row)
    failed = screenings.fail(session, row, body.reason) if body.status is ParticipantStatus.screen_failed else []
    session.flush()
    judged = dependent_findings.after_status(session, person)
    raised = [] if before["status"] in IN_STUDY else safety_signals.judged_again(session, row)
    action = "participant:status-corrected" if body.correction else "participant:status-changed"
    event = audit.changed(action, row, row.pid, row.version, before, body.reason)
    rule_queries.follow(session, row, before["findings"], *judged.turned)
    audit.append(session, actor.account_id, row.site_id, [event, *failed, *judged.events, *raised])
    read = participant_read(values(row), person.place, person.protocol_version)
    return read, row.site_id


def _require_in_order(row: Participant, body: StatusChange, earlier: Sequence[Step]) -> None:
    """Raises StatusBeforeScreening, StatusOutOfOrder."""
    on, enrolling = body.effective_on, body.status is ParticipantStatus.enrolled
    if row.screened_on is not None and on < row.screened_on:
        raise StatusBeforeScreening(Fault("/effective_on", "before_screening", "Cannot lie before screened_on"))
    if row.enrolled_on is not None and on < row.enrolled_on and not enrolling:
        raise StatusOutOfOrder(Fault("/effective_on", "before_enrolment", "Cannot lie before enrolled_on"))
    before = _that_can_come_before(body.status, earlier)[-1:]
    if any(step.on is not None and on < step.on for step in before if step.status in _DATED_BY_THEMSELVES):
        message = "Cannot lie before the day of the status that it follows"
        raise StatusOutOfOrder(Fault("/effective_on", "before_status", message))


_DATED_BY_THEMSELVES = frozenset(ParticipantStatus) - {ParticipantStatus.screened, ParticipantStatus.enrolled}
"""The other statuses begin on `screened_on` and `enrolled_on` of the participant, where these days are corrected."""


def _corrections(row: Participant, earlier: Sequence[Step]) -> frozenset[ParticipantStatus]:
    """The statuses to which a status that was entered by mistake can be corrected: the one before it, and those that
    could have followed that. If the one before is wrong too, it is corrected after that, as the present status."""
    if row.status not in FOLLOWS_ENROLMENT:
        return frozenset()
    before = {one.status for one in earlier[-1:]}
    if before & _TAKING_PART:
        before |= _TAKING_PART
    return frozenset(before).union(*(STATUS_TRANSITIONS[one] for one in before))


_TAKING_PART = {ParticipantStatus.enrolled, ParticipantStatus.active}


def _earlier_steps(session: Session, row: Participant) -> list[Step]:
    """The statuses before the present one, oldest first, from the audit trail, without those that were corrected."""
    steps: list[Step] = []
    for action, changed, was in versions_of(session, row.site_id, "participant", row.pid):
        if changed.isdisjoint(_DATED):
            continue
        on = was.get("status_on")
        step = Step(ParticipantStatus(was["status"]), date.fromisoformat(on) if on else None)
        if action in _IN_PLACE:
            steps = _that_can_come_before(step.status, steps[:-1])
        steps.append(step)
    return steps[:-1]


_DATED = {"status", "status_on"}
_IN_PLACE = {"participant:status-corrected", "participant:amended"}


def _that_can_come_before(status: ParticipantStatus, steps: Sequence[Step]) -> list[Step]:
    """The steps up to the last one that this status can follow."""
    kept = list(steps)
    while kept and status not in STATUS_TRANSITIONS[kept[-1].status]:
        kept.pop()
    return kept
