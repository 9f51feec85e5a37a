"""Adverse events: reported, corrected, and kept whole when the source contradicts itself."""

from collections.abc import Mapping
from functools import cache
from operator import attrgetter
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row, or_
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Place, Rows, found, visible, visible_row
from app.errors import Fault, Invalid
from app.models.adverse_event import CRITERIA, AdverseEvent, CodingLevel
from app.models.adverse_event_shapes import (
    AdverseEventAmend,
    AdverseEventCreate,
    AdverseEventDetail,
    AdverseEventFields,
    AdverseEventRead,
    Coding,
    SeriousnessCriteria,
)
from app.models.base import (
    STORED,
    canonical_json,
    columns,
    fields_of,
    from_json,
    new_row,
    now,
    table_of,
    values,
)
from app.models.consent import Consent
from app.models.data_query import SubjectType as QuerySubject
from app.models.finding import findings_text
from app.models.json_row import ShownPid, StoredJson, answer_fields, json_row
from app.models.notification import EventType, SubjectType
from app.models.partial_date import span
from app.models.participant import Participant, ParticipantStatus, died_on
from app.models.safety_report import SaeReport
from app.models.voided import counts
from app.protocol.definition import Protocol
from app.services.dosing.exposure import NEVER, Exposure, exposures
from app.services.notifications.outbox import add_notifications, notify_of
from app.services.participation.consent_history import histories_of
from app.services.participation.participant_facts import ParticipantFacts, of_whom
from app.services.participation.participants import Person, visible_person
from app.services.quality import rule_queries
from app.services.quality.rule_queries import Judged
from app.services.safety.ae_findings import Course, findings, is_serious
from app.services.safety.nullifications import require_not_nullified
from app.services.safety.sae_clocks import follow_correction, new_due_at
from app.services.site_days import require_past
from app.services.unlocked import require_not_voided, require_unlocked
from app.web.conditional import Seen
from app.web.merging import corrected, sent_fields
from app.writing import Writes


class SpecialInterestUnknown(Invalid):
    """The protocol lists no such event of special interest."""


def report_adverse_event(
    session: Session, actor: Actor, people: Mapping[str, ParticipantFacts], body: AdverseEventCreate
) -> tuple[AdverseEventRead, int, Writes]:
    """Report an event of one of these `people`: gives the answer, the site's key, and what to store.

    Raises NotFound, SpecialInterestUnknown.
    """
    person = of_whom(people, body.participant)
    require_past(actor, person.site_id, body)
    _require_listed(person.protocol, body)
    person.require_unlocked(through_freeze=True)
    at, writes = now(), Writes()
    given = {
        "site_id": person.site_id,
        "pid": person.pid,
        "created_by": actor.account_id,
        "created_at": at,
        "updated_at": at,
        **_columns(body, Course(person.consents.first, died_on(person))),
    }
    row = new_row(AdverseEvent, {**given, "due_at": new_due_at(given, person.protocol.safety)})
    writes.add(AdverseEvent, row)
    rule_queries.raise_for_new(session, writes, AdverseEvent, row)
    alert = body.special_interest in person.protocol.alerts
    for kind in _told(row["serious"], alert):
        add_notifications(session, writes, kind, person.site_id, SubjectType.adverse_event, [row["id"]])
    event = audit.recorded("adverse-event:reported", AdverseEvent, row, row["id"])
    writes.remember(actor.account_id, person.site_id, event)
    return _read({**row, "reported_at": None}, person.place), person.site_id, writes


def amend_adverse_event(
    session: Session, actor: Actor, seen: Seen, event_id: UUID, body: AdverseEventAmend
) -> tuple[AdverseEventRead, int]:
    """Correct an event, and when its first report is due; also gives the site's key.

    Raises NotFound, RecordVoided, EventNullified, VersionStale, ValidationFailed, SpecialInterestUnknown.
    """
    row = visible_row(session, actor, AdverseEvent, event_id, lock=True)
    require_not_voided(row)
    require_not_nullified(session, row)
    require_past(actor, row.site_id, body)
    current = _fields(row)
    asked = _with_criteria({name: getattr(body, name) for name in sent_fields(body)}, current["criteria"])
    changes = {name: value for name, value in asked.items() if _compared(value) != _compared(current[name])}
    seen.require_current(row.id, row.version, changes)
    person: Person = visible_person(session, actor, row.pid)
    sent = session.execute(select(reported_at()).where(col(AdverseEvent.id) == row.id)).scalar()
    if not changes:
        return _read({**values(row), "reported_at": sent}, person.place), row.site_id
    merged = corrected(AdverseEventFields, {**current, **changes})
    _require_listed(person.protocol, merged)
    more_serious = any(getattr(merged.criteria, name) and not getattr(row, name) for name in CRITERIA)
    taken_away = any(getattr(row, name) and not getattr(merged.criteria, name) for name in CRITERIA)
    through_freeze = more_serious and not taken_away and changes.keys() <= _TOLD_WITH_A_CRITERION
    require_unlocked(session, row.site_id, row.pid, through_freeze=through_freeze)
    alert = "special_interest" in changes and merged.special_interest in person.protocol.alerts
    before, at = audit.snapshot(row), now()
    for name, value in _columns(merged, _course(session, person.row)).items():
        setattr(row, name, value)
    row.version, row.updated_at = row.version + 1, at
    if changes.keys() & {"criteria", "aware_at"}:
        follow_correction(session, row)
    session.flush()
    for kind in _told(more_serious, alert):
        notify_of(session, kind, row.site_id, SubjectType.adverse_event, row.id)
    event = audit.changed("adverse-event:amended", row, row.id, row.version, before, body.reason)
    rule_queries.follow(session, row, before["findings"])
    audit.append(session, actor.account_id, row.site_id, [event], at)
    return _read({**values(row), "reported_at": sent}, person.place), row.site_id


def _with_criteria(asked: dict[str, Any], criteria: SeriousnessCriteria) -> dict[str, Any]:
    """A criterion that a correction does not name stays: it is taken away by saying so, never by silence."""
    sent = asked.get("criteria")
    if sent is None:
        return asked
    return {**asked, "criteria": criteria.model_copy(update=sent.model_dump(exclude_unset=True))}


def _told(serious: bool, alert: bool) -> list[EventType]:
    kinds = {EventType.adverse_event_serious: serious, EventType.adverse_event_alert: alert}
    return [kind for kind, applies in kinds.items() if applies]


def _require_listed(protocol: Protocol, event: AdverseEventFields) -> None:
    listed = {item.code for item in protocol.special_interest}
    if event.special_interest is not None and event.special_interest not in listed:
        raise SpecialInterestUnknown(Fault("/special_interest", "unknown", "Not on the protocol's list"))


def _course(session: Session, row: Participant) -> Course:
    return Course(histories_of(session, [row.site_id], [row.pid])[row.pid].first, died_on(row))


def _columns(event: AdverseEventFields, course: Course) -> dict[str, Any]:
    """An event's columns: what was sent, and what follows from it."""
    onset = span(event.onset) if event.onset else None
    terms = {coding.level: coding.term for coding in event.codings}
    return {
        **event.model_dump(include=_COPIED),
        **event.criteria.model_dump(),
        "codings": canonical_json([coding.model_dump(mode="json") for coding in event.codings]),
        "pt": terms.get(CodingLevel.pt),
        "soc": terms.get(CodingLevel.soc),
        "onset_earliest": onset.earliest if onset else None,
        "onset_latest": onset.latest if onset else None,
        "serious": is_serious(event.criteria),
        "findings": findings_text(findings(event, course)),
    }


_COPIED = {
    "term",
    "onset",
    "end",
    "severity",
    "serious_as_reported",
    "relatedness_drug",
    "relatedness_therapy",
    "action_taken",
    "outcome",
    "expected",
    "special_interest",
    "aware_at",
}


_TOLD_WITH_A_CRITERION = {"criteria", "aware_at", "outcome", "end"}
"""What a criterion that becomes known brings with it. The rest of a record that is being cleaned stays as it is."""


def judged_again(session: Session, person: Participant) -> Judged:
    """Judge a participant's events once more, after the status or a consent changed. That is no change of an event: its
    version stays, and so does what was reviewed or verified of it."""
    theirs = select(AdverseEvent).where(
        AdverseEvent.site_id == person.site_id, AdverseEvent.pid == person.pid, counts(AdverseEvent)
    )
    course, events, turns = _course(session, person), [], []
    for row in session.exec(theirs.order_by(col(AdverseEvent.id)).with_for_update()):
        present = findings_text(findings(AdverseEventFields.model_construct(**_fields(row)), course))
        if row.findings == present:
            continue
        had, has = from_json(row.findings), from_json(present)
        row.findings, row.updated_at = present, now()
        change = {"findings": had}, {"findings": has}
        events.append(audit.event("adverse-event:flagged", "adverse_event", row.id, row.version, *change))
        turns.append(rule_queries.turned(QuerySubject.adverse_event, row.pid, row.id, had, has))
    session.flush()
    return Judged(events, turns)


def refresh(session: Session, site_id: int) -> int:
    """Judge the events of those of a site who died, or of whom one began before any consent: it may have been recorded
    before there was a rule that says so. The number of data queries that changed. Whoever tells of a death or consent
    meanwhile waits."""
    doubted = or_(col(Participant.status) == ParticipantStatus.died, _began_before_consent())
    theirs = select(Participant).where(Participant.site_id == site_id, counts(Participant), doubted)
    people = session.exec(theirs.order_by(col(Participant.pid)).with_for_update(read=True)).all()
    judged = rule_queries.together(*(judged_again(session, person) for person in people))
    if not judged.events:
        return 0
    changed = rule_queries.settle_all(session, site_id, *judged.turned)
    audit.append(session, audit.SYSTEM, site_id, judged.events)
    return changed


def _began_before_consent() -> sa.ColumnElement[bool]:
    people, events, consents = (table_of(one) for one in (Participant, AdverseEvent, Consent))
    given = sa.select(1).where(
        (consents.c.site_id == events.c.site_id) & (consents.c.pid == events.c.pid),
        counts(consents),
        consents.c.given_on.is_(None) | (consents.c.given_on <= events.c.onset_latest),
    )
    begun = sa.select(1).where(
        (events.c.site_id == people.c.site_id) & (events.c.pid == people.c.pid),
        events.c.onset_latest.is_not(None),
        counts(events),
        ~given.correlate(events).exists(),
    )
    return begun.correlate(people).exists()


def _fields(row: AdverseEvent) -> dict[str, Any]:
    """As it is stored, and not checked again: a moment may lie ahead of a clock that has been put right."""
    return {
        **{name: getattr(row, name) for name in _COPIED},
        "codings": [Coding.model_validate(coding, context=STORED) for coding in from_json(row.codings)],
        "criteria": SeriousnessCriteria(**{name: getattr(row, name) for name in CRITERIA}),
    }


def _compared(value: Any) -> Any:
    """Codings without their order: each level occurs once, so it says nothing."""
    return sorted(value, key=attrgetter("level")) if isinstance(value, list) else value


def rows() -> Rows:
    """Adverse events, with when the first report was sent; narrow it with `visible`."""
    return sa.select(*columns(AdverseEvent), reported_at())


@cache
def ordered(key: Any) -> Rows:
    """The same with the key of an order, made once for lists."""
    return rows().add_columns(key)


def row_of(session: Session, actor: Actor, event_id: UUID) -> Row[Any]:
    """One of them. Raises NotFound."""
    return found(session.execute(visible(rows().where(col(AdverseEvent.id) == event_id), actor)).first())


@cache
def listed(key: Any) -> Rows:
    """Adverse events as the JSON of their answers, with the site and what lists of them go by: the key of an order, and
    the id."""
    events = table_of(AdverseEvent)
    made = {
        "participant": ShownPid(events.c.pid),
        "reported_at": reported_at().element,
        "criteria": {name: events.c[name] for name in CRITERIA},
        "codings": StoredJson(events.c.codings),
        "findings": StoredJson(events.c.findings),
    }
    return sa.select(
        json_row("adverse_event", answer_fields(AdverseEventRead, events, made)), events.c.site_id, key, events.c.id
    ).select_from(events)


def reported_at() -> sa.Label[Any]:
    """When the first report was sent, beside each event."""
    reports, events = table_of(SaeReport), table_of(AdverseEvent)
    first = (reports.c.site_id == events.c.site_id, reports.c.adverse_event_id == events.c.id, reports.c.number == 1)
    return sa.select(reports.c.submitted_at).where(*first).correlate(events).scalar_subquery().label("reported_at")


def detail(session: Session, actor: Actor, event_id: UUID) -> AdverseEventDetail:
    """One event, and how it lies to the doses. Raises NotFound."""
    row = row_of(session, actor, event_id)
    return beside_doses(row, actor, exposures(session, [row.site_id], [row.pid]))


def beside_doses(row: Row[Any], actor: Actor, seen: Mapping[str, Exposure]) -> AdverseEventDetail:
    """An event, and how it lies to the doses of its participant among these."""
    exposure = seen.get(row.pid, NEVER)
    exact = row.onset_earliest is not None and row.onset_earliest == row.onset_latest
    return AdverseEventDetail(
        **read(row, actor).model_dump(),
        treatment_emergent=exposure.emergent(row.onset_latest),
        days_since_last_dose=exposure.days_since(row.onset_earliest) if exact else None,
    )


def read(row: Row[Any], actor: Actor) -> AdverseEventRead:
    return _read(fields_of(row), actor.places[row.site_id])


def _read(values: Mapping[str, Any], place: Place) -> AdverseEventRead:
    return AdverseEventRead.of_row(
        values,
        participant=values["pid"],
        study=place.study,
        site=place.site,
        codings=from_json(values["codings"]),
        criteria={name: values[name] for name in CRITERIA},
        findings=from_json(values["findings"]),
    )
