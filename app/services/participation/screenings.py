"""Screening: the answers to each criterion, the eligibility that follows, and further episodes after a failed one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, NamedTuple

from sqlmodel import Session, col, func, select
from sqlmodel.sql.expression import SelectOfScalar

from app import audit
from app.access import Actor, found
from app.errors import Conflict, Fault, Invalid
from app.models.audit import AuditEntry
from app.models.base import canonical_json, now
from app.models.participant import Participant, ParticipantStatus
from app.models.screening import EligibilityAnswers, Screening, ScreeningCreate, ScreeningRead
from app.models.study import ProtocolVersion
from app.models.voided import counts
from app.protocol.definition import Protocol
from app.protocol.eligibility import CriterionAnswer, Eligibility, UnknownCriterion, eligibility
from app.services.participation.participant_facts import require_consent
from app.services.participation.participants import Hold, Person, follow_findings, visible_person
from app.services.quality import rule_queries
from app.services.site_days import require_past
from app.services.studies import protocol_of
from app.services.trail.history import versions_of
from app.services.unlocked import require_unlocked


class CriterionUnknown(Invalid):
    """The protocol version has no such criterion."""


class ScreeningDecided(Conflict):
    """This person left while being screened; the answers stand."""


class AnotherScreening(Conflict):
    """The present screening is another one than was answered; `present` is its number."""


class ScreeningOutOfOrder(Invalid):
    """A further screening cannot begin before the one that failed, nor before the day of its failure; and the day on
    which it began is known."""


class NotScreenFailed(Conflict):
    """Only somebody whose last screening failed is screened again."""


def _begin(
    session: Session, actor: Actor, person: Participant, assessed: Eligibility, answers: Mapping[str, CriterionAnswer]
) -> tuple[Screening, audit.Event]:
    """A further screening; the first one is recorded with the enrolment."""
    row = Screening(
        site_id=person.site_id,
        pid=person.pid,
        number=len(recorded(session, person)) + 1,
        protocol_version_id=person.protocol_version_id,
        screened_on=person.screened_on,
        answers=canonical_json(answers),
        eligible=assessed.eligible,
        unmet=canonical_json(sorted(assessed.unmet)),
        recorded_by=actor.account_id,
        recorded_at=now(),
    )
    session.add(row)
    session.flush()
    return row, audit.created("screening:recorded", row, f"{row.pid}/{row.number}")


def decided(protocol: Protocol, answers: Mapping[str, CriterionAnswer]) -> Eligibility:
    """The eligibility that follows from the answers. Raises CriterionUnknown."""
    try:
        return eligibility(protocol.eligibility, answers)
    except UnknownCriterion:
        known = {criterion.code for criterion in protocol.eligibility}
        raise CriterionUnknown(
            *(
                Fault("/answers/?", "unknown_criterion", "The protocol has no such criterion")
                for code in answers
                if code not in known
            )
        ) from None


def answer(session: Session, actor: Actor, symbols: str, body: EligibilityAnswers) -> tuple[ScreeningRead, int]:
    """Complete or correct the answers of the present screening; also gives the site's key. An unmet criterion makes the
    participant a screen failure, and correcting that answer ends it. After the enrolment the status stays as it is: an
    unmet criterion is then a finding, and no dosing session can start. Raises NotFound, CriterionUnknown,
    ScreeningDecided, AnotherScreening."""
    person = visible_person(session, actor, symbols, hold=Hold.change)
    if ParticipantStatus(person.row.status) not in UNDECIDED and person.row.enrolled_on is None:
        raise ScreeningDecided
    row = found(session.exec(of_person(person.row).order_by(col(Screening.number).desc())).first())
    if body.screening not in (None, row.number):
        raise AnotherScreening(present=row.number)
    require_unlocked(session, person.site_id, person.row.pid)
    participant_before, before = audit.snapshot(person.row), audit.snapshot(row)
    answers, assessed = _completed(session, protocol_of(session, row.protocol_version_id), row, body.answers)
    row.answers, row.eligible = canonical_json(answers), assessed.eligible
    row.unmet = canonical_json(sorted(assessed.unmet))
    row.version += 1
    session.flush()
    subject = f"{row.pid}/{row.number}"
    changed = audit.changed("screening:answered", row, subject, row.version, before, body.reason)
    events = [changed, *_carry_over(session, person.row, assessed, row.screened_on, body.reason, participant_before)]
    audit.append(session, actor.account_id, row.site_id, events)
    return read(session, row), row.site_id


def _completed(
    session: Session, protocol: Protocol, row: Screening, further: Mapping[str, CriterionAnswer]
) -> tuple[Mapping[str, CriterionAnswer], Eligibility]:
    """All answers, and the eligibility that follows. An overall answer, given at enrolment or by the status of a screen
    failure, applies as long as the answers give the same eligibility as when it was given. An unmet criterion takes
    precedence until its own answer is corrected; then the overall answer applies again."""
    answers = {**_answers_of(row), **further}
    assessed, overall = decided(protocol, answers), _overall(session, protocol, row)
    if overall and assessed.eligible == overall.by_answers:
        assessed = assessed._replace(eligible=overall.eligible)
    return answers, assessed


class _Overall(NamedTuple):
    """An overall answer, and the eligibility by the answers to the criteria when it was given."""

    eligible: bool
    by_answers: bool | None


def _overall(session: Session, protocol: Protocol, row: Screening) -> _Overall | None:
    """The last overall answer, unless the answers have made the participant eligible since. Read from the audit trail,
    as the row has only the present eligibility."""
    overall = None
    for _, _, was in versions_of(session, row.site_id, "screening", f"{row.pid}/{row.number}"):
        by_answers = decided(protocol, _answers(was["answers"], was["unmet"])).eligible
        stored = was.get("eligible")
        if stored is not None and stored != by_answers:
            overall = _Overall(stored, by_answers)
        elif by_answers:
            overall = None
    return overall


def _answers(given: Mapping[str, str], unmet: Iterable[str]) -> dict[str, CriterionAnswer]:
    """The answers given so far. The criteria named as exceptions to an overall answer count as answered: not met."""
    return dict.fromkeys(unmet, CriterionAnswer.not_met) | {code: CriterionAnswer(one) for code, one in given.items()}


def _answers_of(row: Screening) -> dict[str, CriterionAnswer]:
    return _answers(json.loads(row.answers), json.loads(row.unmet))


UNDECIDED = frozenset({ParticipantStatus.screened, ParticipantStatus.screen_failed})
"""The statuses that follow from the answers."""


def again(session: Session, actor: Actor, symbols: str, body: ScreeningCreate) -> tuple[ScreeningRead, int]:
    """Record a further screening of a screen failure, under the same pid; also gives the site's key.

    Raises NotFound, NotScreenFailed, ConsentMissing, ScreeningOutOfOrder, CriterionUnknown.
    """
    person = visible_person(session, actor, symbols, hold=Hold.change)
    require_past(actor, person.site_id, body)
    if person.row.status != ParticipantStatus.screen_failed:
        raise NotScreenFailed
    require_consent(session, person)
    _require_after_failure(body.screened_on, person.row.screened_on, person.row.status_on)
    require_unlocked(session, person.site_id, person.row.pid)
    before, person.row.screened_on = audit.snapshot(person.row), body.screened_on
    assessed = decided(person.protocol, body.answers)
    row, event = _begin(session, actor, person.row, assessed, body.answers)
    events = [event, *_carry_over(session, person.row, assessed, body.screened_on, body.reason, before)]
    audit.append(session, actor.account_id, row.site_id, events)
    return read(session, row), row.site_id


def _require_after_failure(on: date, *failed: date | None) -> None:
    """`failed`: the days on which the screening that failed began and ended. Raises ScreeningOutOfOrder."""
    if any(day is not None and on < day for day in failed):
        raise ScreeningOutOfOrder(Fault("/screened_on", "before_failure", "Cannot lie before the failed screening"))


def participant_before(session: Session, row: Screening) -> Mapping[str, Any]:
    """The participant's fields before a further screening began, from the audit trail."""
    entry = select(AuditEntry.seq).where(
        AuditEntry.site_id == row.site_id,
        AuditEntry.subject_type == "screening",
        AuditEntry.subject_id == f"{row.pid}/{row.number}",
    )
    began = session.exec(entry.order_by(col(AuditEntry.seq)).limit(1)).one()
    *_, (_, _, was) = versions_of(session, row.site_id, "participant", row.pid, before=began)
    return was


def day_of(was: Mapping[str, Any], name: str) -> date | None:
    """A day as the trail has it."""
    return date.fromisoformat(was[name]) if was.get(name) else None


def redate(session: Session, person: Participant, on: date | None, reason: str) -> audit.Event:
    """Correct the day on which the present screening began. What prepares for a dose depends on the day of a further
    one, so that cannot be unknown, nor be of the screening that failed. Raises ScreeningOutOfOrder."""
    *failed, row = session.exec(of_person(person).order_by(col(Screening.number))).all()
    if failed and on is None:
        raise ScreeningOutOfOrder(Fault("/screened_on", "required", "The day of a further screening is known"))
    if failed and on is not None:
        was = participant_before(session, row)
        _require_after_failure(on, *(day_of(was, name) for name in ("screened_on", "status_on")))
    before, row.screened_on, row.version = audit.snapshot(row), on, row.version + 1
    session.flush()
    return audit.changed("screening:amended", row, f"{row.pid}/{row.number}", row.version, before, reason)


def fail(session: Session, person: Participant, reason: str) -> list[audit.Event]:
    """Record that the present screening failed, whether its answers say so or not, as an overall answer."""
    row = session.exec(of_person(person).order_by(col(Screening.number).desc())).first()
    person.eligible = False
    if row is None or row.eligible is False:
        return []
    before, row.eligible, row.version = audit.snapshot(row), False, row.version + 1
    session.flush()
    subject = f"{row.pid}/{row.number}"
    return [audit.changed("screening:failed", row, subject, row.version, before, reason)]


def voided(session: Session, actor: Actor, row: Screening, reason: str, at: datetime) -> audit.Event:
    """Void a screening; gives the audit event. What follows for the participant is decided by whoever voids it."""
    before = audit.snapshot(row)
    row.void(actor.account_id, at, reason)
    row.version += 1
    session.flush()
    return audit.changed("screening:voided", row, f"{row.pid}/{row.number}", row.version, before, reason)


def _carry_over(
    session: Session,
    row: Participant,
    assessed: Eligibility,
    on: date | None,
    reason: str,
    before: Mapping[str, Any],
) -> list[audit.Event]:
    """Copy the eligibility of the screening, and before enrolment the status, to the participant; no event if nothing
    changes."""
    row.eligible, row.unmet_criteria = assessed.eligible is True, canonical_json(sorted(assessed.unmet))
    status = ParticipantStatus.screen_failed if assessed.eligible is False else ParticipantStatus.screened
    if row.status in UNDECIDED and row.status != status:
        row.status, row.status_on = status, on or row.status_on
    follow_findings(session, row)
    after = audit.snapshot(row)
    if before == after:
        return []
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    rule_queries.follow(session, row, before["findings"])
    return [audit.changed("participant:screened", row, row.pid, row.version, before, reason, after=after)]


def read_all(session: Session, person: Person) -> list[ScreeningRead]:
    """Every episode, oldest first, and voided ones among them."""
    return [read(session, row) for row in recorded(session, person.row)]


def read(session: Session, row: Screening) -> ScreeningRead:
    answers = _answers_of(row)
    assessed = eligibility(protocol_of(session, row.protocol_version_id).eligibility, answers)
    version = session.get_one(ProtocolVersion, row.protocol_version_id).version
    return ScreeningRead(
        number=row.number,
        protocol_version=version,
        screened_on=row.screened_on,
        answers=answers,
        eligible=row.eligible,
        unmet=json.loads(row.unmet),
        open=list(assessed.open),
        recorded_at=row.recorded_at,
        voided_at=row.voided_at,
        voiding_reason=row.voiding_reason,
    )


def recorded(session: Session, person: Participant) -> Sequence[Screening]:
    """All recorded screenings of a participant, also voided ones: no number is used twice."""
    theirs = select(Screening).where(Screening.site_id == person.site_id, Screening.pid == person.pid)
    return session.exec(theirs.order_by(col(Screening.number))).all()


def of_person(person: Participant) -> SelectOfScalar[Screening]:
    """The screenings of a participant that count."""
    theirs = select(Screening).where(Screening.site_id == person.site_id, Screening.pid == person.pid)
    return theirs.where(counts(Screening))


def again_of(session: Session, sites: Sequence[int]) -> Mapping[str, int]:
    """The participants of these sites who were screened more than once, each with the number of their screenings."""
    further = col(Screening.site_id).in_(sites), Screening.number > 1, counts(Screening)
    numbers = select(Screening.pid, 1 + func.count()).where(*further).group_by(Screening.pid)
    return dict(session.exec(numbers).all())


def count(session: Session, site_id: int, pid: str) -> int:
    """The number of a participant's screenings."""
    theirs = select(func.count()).select_from(Screening).where(Screening.site_id == site_id, Screening.pid == pid)
    return session.exec(theirs.where(counts(Screening))).one()
