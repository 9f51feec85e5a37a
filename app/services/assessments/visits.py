"""Visits: recorded with their outcomes in one transaction, and checked by the participant's protocol version."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row, bindparam
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Place, Rows, found, visible, visible_row
from app.errors import Conflict, Fault, Invalid
from app.models.base import columns, fields_of, from_json, new_row, now, table_of, values
from app.models.finding import findings_text
from app.models.json_row import ShownPid, StoredJson, answer_fields, json_row
from app.models.outcome import Outcome, OutcomeRead, answered, done
from app.models.visit import (
    HELD,
    Visit,
    VisitAmend,
    VisitCreate,
    VisitDates,
    VisitDetail,
    VisitInWindow,
    VisitRead,
    WindowRead,
)
from app.models.voided import counts
from app.protocol.definition import Protocol, UnknownVisit, VisitDefinition
from app.protocol.schedule import Held, Window, window_of
from app.services.assessments import outcome_reads, outcomes, therapy, visit_findings
from app.services.dosing import dosing_day
from app.services.participation import consent_history, screenings
from app.services.participation.participant_facts import (
    NewVisit,
    ParticipantFacts,
    of_whom,
    participant_facts,
    require_in_study,
)
from app.services.participation.participants import Hold, Person, recorded_by, visible_person
from app.services.quality import dependent_findings, rule_queries
from app.services.site_days import require_past
from app.services.unlocked import require_not_voided, require_unlocked
from app.site_lists import Filters
from app.web.conditional import Seen
from app.web.merging import corrected, sent_fields
from app.writing import Writes


class VisitAlreadyRecorded(Conflict):
    """This visit and occurrence was already recorded for the participant: correct the one at `existing`, or, where the
    visit may repeat and this is another one, send it with the next occurrence."""


class VisitUnknown(Invalid):
    """The participant's protocol version has no such visit or occurrence."""


class VisitOutsideWindow(Conflict):
    """The visit lies outside its window and no deviation reason was given."""


def people_of(session: Session, actor: Actor, bodies: Sequence[VisitCreate]) -> dict[str, ParticipantFacts]:
    """The facts of the participants of these visits, by pid."""
    new = [NewVisit(body.participant, body.visit_code, body.occurrence) for body in bodies]
    pids = {body.participant for body in bodies}
    for_change = len(pids) > 1 or any(body.therapy for body in bodies)
    people = participant_facts(session, actor, pids, new, for_change=for_change)
    known = [(people[body.participant], body) for body in bodies if body.participant in people]
    for person, body in known:
        if body.occurred_on is not None and body.occurrence == 1:
            person.new_visit_codes.add(body.visit_code)
    with_dependents = {(person.site_id, person.pid) for person, body in known if _has_dependents(person, body)}
    if len(with_dependents) > 1:  # locked in one order, as two uploads may have the participants in different orders
        visit_findings.lock_visits(session, with_dependents)
    return people


def _has_dependents(person: ParticipantFacts, body: VisitCreate) -> bool:
    """Whether the windows of other visits are counted from this one, or their order depends on it."""
    return body.occurred_on is not None and person.protocol.has_dependents(body.visit_code, body.occurrence)


def record_visit(
    session: Session, actor: Actor, people: Mapping[str, ParticipantFacts], body: VisitCreate
) -> tuple[VisitDetail, int, Writes]:
    """Record a visit with its outcomes: gives the answer, the site's key, and what to store. The facts of the
    participant then include the visit, for the next one of the same request.

    Raises NotFound, VisitUnknown, VisitOutsideWindow, VisitAlreadyRecorded, ConsentMissing, ParticipantLeft.
    """
    person = of_whom(people, body.participant)
    require_past(actor, person.site_id, body)
    definition = planned_visit(person.protocol, body.visit_code)
    require_planned(session, person.site_id, person.pid, definition, body.occurrence)
    person.require_unlocked(visit_code=body.visit_code)
    if (body.visit_code, body.occurrence) in person.visits:  # before the other refusals: it may be a retry
        raise _already_recorded(session, person, definition, body)
    require_in_study(person, person.consents, body.occurred_on, definition.needs_scope)
    window = window_of(person.protocol, definition, person.held, body.occurrence, body.occurred_on)
    _require_explained(window, body)
    row, writes = new_row(Visit, _columns(actor, person, definition, body)), Writes()
    writes.add(Visit, row)
    kind, sent = definition.kind, body.therapy
    session_fields = therapy.record(session, writes, person, row, kind, sent) if sent else None
    remembered = {**audit.remembered("visit", row), **therapy.remembered(session_fields)}
    events, measured = [audit.event("visit:recorded", "visit", row["id"], 1, {}, remembered)], []
    treated = _with_therapists(person, body)
    for index, outcome in enumerate(body.outcomes):
        new, outcome_events = outcomes.measure(session, writes, actor, treated, row, outcome, f"/outcomes/{index}")
        events += outcome_events
        measured.append(outcome_reads.outcome_read(new.row, body.visit_code, person.place, new.scores))
    rule_queries.raise_for_new(session, writes, Visit, row)
    writes.remember(actor.account_id, person.site_id, *events)
    person.visits[body.visit_code, body.occurrence] = body.occurred_on
    person.new_visits.append(row)
    person.new_therapists = treated.new_therapists
    person.new_ratings |= {(one.instrument, one.rater) for one in measured if one.rater}
    if _has_dependents(person, body):
        _judge_others(session, writes, actor, person, body)
    return _detail(row, definition, person.place, window, measured, session_fields), person.site_id, writes


def _columns(actor: Actor, person: ParticipantFacts, definition: VisitDefinition, body: VisitCreate) -> dict[str, Any]:
    course = visit_findings.course_of(person, person.consents)
    held, sent = person.held, person.new_visit_codes
    days = body.occurrence, body.occurred_on, held
    findings = visit_findings.findings(person.protocol, definition, *days, course, sent)
    return {
        "site_id": person.site_id,
        "pid": person.pid,
        "protocol_version_id": person.protocol_version_id,
        "created_by": actor.account_id,
        "findings": findings_text(findings),
        **{name: getattr(body, name) for name in _RECORDED},
    }


def _with_therapists(person: ParticipantFacts, body: VisitCreate) -> ParticipantFacts:
    """The participant with the staff of the visit's own therapy session, who must not rate at it."""
    if body.therapy is None:
        return person
    return replace(person, new_therapists=person.new_therapists.union(body.therapy.staff))


def _judge_others(session: Session, writes: Writes, actor: Actor, person: ParticipantFacts, body: VisitCreate) -> None:
    """Work out again the findings of visits that depend on the day of a new one."""
    course = visit_findings.course_of(person, person.consents)
    judged = visit_findings.judged_again(
        session, person.site_id, person.pid, course, body.visit_code, person.new_visits
    )
    rule_queries.settled(session, writes, person.site_id, *rule_queries.merged(judged.turned))
    writes.remember(actor.account_id, person.site_id, *judged.events)


def _already_recorded(
    session: Session, person: ParticipantFacts, definition: VisitDefinition, body: VisitCreate
) -> VisitAlreadyRecorded:
    stored = select(Visit.id).where(
        Visit.site_id == person.site_id,
        Visit.pid == person.pid,
        counts(Visit),
        Visit.visit_code == body.visit_code,
        Visit.occurrence == body.occurrence,
    )
    same = (body.visit_code, body.occurrence)
    of_this_request = [row["id"] for row in person.new_visits if (row["visit_code"], row["occurrence"]) == same]
    visit_id = of_this_request[0] if of_this_request else session.exec(stored).one()
    last = body.occurrence == _most(session, person.site_id, person.pid, definition)
    advice = "correct it" if last else "correct it, or send another one with the next occurrence"
    fault = Fault("/occurrence", "already_recorded", f"This one is there: {advice}")
    return VisitAlreadyRecorded(fault, existing=f"/v1/visits/{visit_id}")


_RECORDED = {"visit_code", "occurrence", "occurred_on", "ended_on", "status", "deviation_reason"}


def planned_visit(protocol: Protocol, code: str) -> VisitDefinition:
    """The visit as the protocol plans it. Raises VisitUnknown."""
    try:
        return protocol.visit(code)
    except UnknownVisit:
        raise VisitUnknown(Fault("/visit_code", "unknown_visit", "The protocol version has no such visit")) from None


def require_planned(session: Session, site_id: int, pid: str, visit: VisitDefinition, occurrence: int) -> None:
    """Raises VisitUnknown for an occurrence beyond those planned."""
    if visit.repeats and occurrence > visit.repeats and occurrence > _most(session, site_id, pid, visit):
        each = " in each screening" if visit.in_each_screening else ""
        raise VisitUnknown(Fault("/occurrence", "too_many", f"The protocol plans it {visit.repeats} time(s){each}"))


def _most(session: Session, site_id: int, pid: str, visit: VisitDefinition) -> int:
    """The number of such visits that are planned: what belongs to a screening, in each that the participant had. 0: any
    number."""
    return visit.repeats * (screenings.count(session, site_id, pid) if visit.in_each_screening else 1)


def _held(session: Session, person: Person, definition: VisitDefinition) -> Held:
    """The days of this visit and of those that its window or order depends on, as far as they took place."""
    if not definition.depends_on:
        return {}
    days = select(col(Visit.visit_code), col(Visit.occurrence), col(Visit.occurred_on)).where(
        Visit.site_id == person.site_id,
        Visit.pid == person.row.pid,
        counts(Visit),
        col(Visit.visit_code).in_(sorted({definition.code, *definition.depends_on})),
    )
    return {(code, occurrence): day for code, occurrence, day in session.exec(days) if day is not None}


def _deviation(window: Window | None, dates: VisitDates) -> int:
    return window.deviation_days(dates.occurred_on) if window and dates.occurred_on else 0


def _require_explained(window: Window | None, dates: VisitDates) -> None:
    if window is not None and _deviation(window, dates) and dates.deviation_reason is None:
        raise VisitOutsideWindow(
            Fault("/deviation_reason", "required", "Say why the visit lies outside its window"),
            window={"start": str(window.start), "planned": str(window.planned), "end": str(window.end)},
        )


def _reasons_apart(row: Visit, changes: dict[str, Any]) -> dict[str, Any]:
    """Why a visit was missed does not explain its day once it turns out to have been held, nor the other way round: the
    reason of before goes, unless the correction gives one."""
    held = changes.get("status", row.status) in HELD
    return changes if held == (row.status in HELD) else {"deviation_reason": None, **changes}


def amend_visit(
    session: Session, actor: Actor, seen: Seen, visit_id: UUID, body: VisitAmend
) -> tuple[VisitDetail, int]:
    """Correct a visit; also gives the site's key. Consent is checked again only for another day or therapy session.

    Raises NotFound, RecordVoided, VersionStale, ValidationFailed, DataLocked, VisitOutsideWindow, ConsentMissing,
    VisitNotHeld, NotATherapyVisit, TherapistIsRater.
    """
    pid = found(session.exec(visible(select(Visit.pid).where(Visit.id == visit_id), actor)).first())
    hold = Hold.change if body.model_fields_set & {"occurred_on", "therapy"} else Hold.as_it_is
    # The participant is locked before the visit, in the same order as when something is recorded at the visit.
    person = visible_person(session, actor, pid, hold=hold)
    require_past(actor, person.site_id, body)
    row = visible_row(session, actor, Visit, visit_id, lock=True)
    require_not_voided(row)
    old_therapy, changes = therapy.of(session, row), _reasons_apart(row, sent_fields(body))
    before = {**audit.snapshot(row), **therapy.remembered(old_therapy)}
    current = {**values(row), "therapy": old_therapy}
    differing = {name for name, value in changes.items() if current[name] != value}
    seen.require_current(row.id, row.version, differing)
    if not differing:
        return detail(session, actor, visit_id), row.site_id
    require_unlocked(session, row.site_id, row.pid, row.id, row.visit_code)
    dates = corrected(VisitDates, {name: {**current, **changes}[name] for name in VisitDates.model_fields})
    protocol = recorded_by(session, person, row.protocol_version_id)
    definition = planned_visit(protocol, row.visit_code)
    consents = consent_history.history_of(session, person)
    if differing & {"occurred_on", "therapy"}:
        require_in_study(person.row, consents, dates.occurred_on, definition.needs_scope)
    held = _held(session, person, definition)
    window = window_of(protocol, definition, held, row.occurrence, dates.occurred_on)
    if "therapy" in differing:
        therapy.store(session, person, row, definition, body.therapy)
    new_therapy = therapy.of(session, row)
    if dates.status not in HELD and (new_therapy or _measured(_outcomes_of(session, actor, row))):
        raise outcomes.VisitNotHeld
    for name, value in dates.model_dump().items():
        setattr(row, name, value)
    _require_explained(window, dates)
    course = visit_findings.course_of(person.row, consents)
    findings = visit_findings.findings(protocol, definition, row.occurrence, dates.occurred_on, held, course)
    row.findings = findings_text(findings)
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    dosing_day.require_visit_fits(session, row)
    after = {**audit.snapshot(row), **therapy.remembered(new_therapy)}
    event = audit.changed("visit:amended", row, row.id, row.version, before, body.reason, after=after)
    moved = "occurred_on" in differing
    judged = dependent_findings.after_visit_day(session, person, row) if moved else rule_queries.NOTHING
    rule_queries.follow(session, row, before["findings"], *judged.turned)
    audit.append(session, actor.account_id, row.site_id, [event, *judged.events])
    return _detail(
        values(row), definition, person.place, window, _outcomes_of(session, actor, row), new_therapy
    ), row.site_id


def detail(session: Session, actor: Actor, visit_id: UUID) -> VisitDetail:
    """One visit with its window and outcomes. Raises NotFound."""
    row = visible_row(session, actor, Visit, visit_id)
    person = visible_person(session, actor, row.pid)
    protocol = recorded_by(session, person, row.protocol_version_id)
    definition = planned_visit(protocol, row.visit_code)
    held = _held(session, person, definition)
    window = window_of(protocol, definition, held, row.occurrence, row.occurred_on)
    measured = _outcomes_of(session, actor, row)
    return _detail(values(row), definition, person.place, window, measured, therapy.of(session, row))


def _outcomes_of(session: Session, actor: Actor, row: Visit) -> list[OutcomeRead]:
    """The outcomes of a visit; of a voided visit those that were voided with it."""
    with_visit = counts(Outcome) if row.voided_at is None else col(Outcome.voided_at) == row.voided_at
    theirs = col(Outcome.pid) == row.pid, col(Outcome.visit_id) == row.id, with_visit
    statement = visible(outcome_reads.rows().where(*theirs), actor)
    return outcome_reads.read_all(session, actor, session.execute(statement.order_by(col(Outcome.instrument))).all())


def _measured(outcomes: Sequence[OutcomeRead]) -> bool:
    return any(answered(outcome, outcome.items) for outcome in outcomes)


def _detail(
    row: Mapping[str, Any],
    definition: VisitDefinition,
    place: Place,
    window: Window | None,
    measured: list[OutcomeRead],
    session_fields: Mapping[str, Any] | None,
) -> VisitDetail:
    return VisitDetail.of_row(
        row,
        **_in_window(row, place, window),
        outcomes=measured,
        therapy=therapy.read(session_fields, definition, {one.instrument for one in measured if done(one, one.items)}),
    )


def _in_window(row: Mapping[str, Any], place: Place, window: Window | None) -> dict[str, Any]:
    days = window.deviation_days(row["occurred_on"]) if window and row["occurred_on"] else None
    return {
        **_made(row, place),
        "window": WindowRead(**window._asdict()) if window else None,
        "deviation_days": days,
        "out_of_window": None if days is None else days != 0,
    }


@cache
def rows() -> Rows:
    """Visits; narrow the statement with `visible`."""
    return sa.select(*columns(Visit))


@cache
def listed() -> Rows:
    """Visits as the JSON of their answers, with the site and the columns that pages are ordered by."""
    table = table_of(Visit)
    made = {"participant": ShownPid(table.c.pid), "findings": StoredJson(table.c.findings)}
    shown = json_row("visit", answer_fields(VisitRead, table, made)), table.c.site_id
    return sa.select(*shown, table.c.created_at, table.c.id).select_from(table)


FILTERS: Filters = {
    "participant": col(Visit.pid) == bindparam("participant"),
    "visit_code": col(Visit.visit_code) == bindparam("visit_code"),
    "status": col(Visit.status) == bindparam("status"),
    "voided": {False: counts(Visit), True: ~counts(Visit)},
}


def read(row: Row[Any], actor: Actor) -> VisitRead:
    values = fields_of(row)
    return VisitRead.of_row(values, **_made(values, actor.places[row.site_id]))


def read_in_window(row: Row[Any], actor: Actor, window: Window | None) -> VisitInWindow:
    values = fields_of(row)
    return VisitInWindow.of_row(values, **_in_window(values, actor.places[row.site_id], window))


def _made(values: Mapping[str, Any], place: Place) -> dict[str, Any]:
    """The fields of an answer that are not the row's columns."""
    return {
        "participant": values["pid"],
        "study": place.study,
        "site": place.site,
        "findings": from_json(values["findings"]),
    }
