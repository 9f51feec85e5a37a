"""Outcomes: recorded at a visit, and scored on the server. Corrections are in outcome_corrections.py."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row
from sqlmodel import Session

from app import audit
from app.access import Actor, found
from app.errors import Conflict, Fault, Invalid
from app.models.base import canonical_json, fields_of, new_row, table_of
from app.models.given import for_each, given
from app.models.outcome import (
    Outcome,
    OutcomeCreate,
    OutcomeInVisit,
    OutcomeOrigin,
    OutcomeRead,
    OutcomeScore,
)
from app.models.visit import HELD, Visit, VisitStatus
from app.models.voided import counts
from app.protocol.definition import Protocol
from app.protocol.instruments import Instrument, UnknownInstrument, instrument, item_faults
from app.protocol.safety import OutcomeSeen
from app.services.assessments import raters
from app.services.assessments.outcome_reads import outcome_read
from app.services.assessments.outcome_scores import as_rows, scored
from app.services.participation.participant_facts import ParticipantFacts, of_whom, participant_facts, require_in_study
from app.services.safety import safety_signals
from app.services.safety.safety_signals import Source
from app.services.site_days import require_past
from app.services.studies import protocol_of
from app.services.unlocked import require_not_voided
from app.writing import Writes


class OutcomeAlreadyRecorded(Conflict):
    """This instrument was already administered at this visit: correct the outcome at `existing`."""


class InstrumentUnknown(Invalid):
    """The registry knows no such instrument or version."""


class ItemsOutOfRange(Invalid):
    """Some items are unknown or outside the instrument's range; see errors."""


class TotalsNotTaken(Invalid):
    """The protocol does not accept totals without items for this instrument; see errors."""


class VisitNotHeld(Conflict):
    """The visit did not take place, so nothing was measured at it."""


class VisitOfAnotherParticipant(Invalid):
    """The visit belongs to another participant."""


def require_items(asked: OutcomeInVisit, pointer: str) -> Instrument:
    """The instrument of an outcome, whose items are known to it and in range. Raises InstrumentUnknown,
    ItemsOutOfRange."""
    try:
        definition = instrument(asked.instrument, asked.instrument_version)
    except UnknownInstrument:
        raise InstrumentUnknown(Fault(f"{pointer}/instrument", "unknown_instrument", "No such instrument")) from None
    known = {item.code for item in definition.items}
    faults = [
        Fault(f"{pointer}/items/{fault.item if fault.item in known else '?'}", fault.code, fault.message)
        for fault in item_faults(definition, asked.items or {})
    ]
    if faults:
        raise ItemsOutOfRange(*faults)
    return definition


class Measured(NamedTuple):
    """A new outcome and its scores."""

    row: dict[str, Any]
    scores: list[Mapping[str, Any]]


def measure(
    session: Session,
    writes: Writes,
    actor: Actor,
    person: ParticipantFacts,
    visit: Mapping[str, Any],
    asked: OutcomeInVisit,
    at: str,
) -> tuple[Measured, list[audit.Event]]:
    """Add an outcome, its scores and the safety signals it raises to `writes`; also gives their audit events. `at` is
    the JSON pointer of the outcome in the request."""
    definition = require_items(asked, at)
    items = asked.items or {}
    sent = {
        "site_id": person.site_id,
        "pid": person.pid,
        "visit_id": visit["id"],
        "instrument": definition.code,
        "instrument_version": definition.version,
        "collected_on": asked.collected_on or visit["occurred_on"],
        "items": canonical_json({item.code: items.get(item.code) for item in definition.items}),
        "rater": asked.rater,
        "origin": OutcomeOrigin.historical_total if asked.items is None else OutcomeOrigin.items,
        "created_by": actor.account_id,
    }
    row = new_row(Outcome, sent)
    require_in_study(person, person.consents, row["collected_on"], scope_of(session, person.protocol, visit))
    raters.require_independent(session, person, definition.code, asked.rater, at)
    if asked.items is None and definition.code not in person.protocol.historical_totals:
        raise TotalsNotTaken(Fault(f"{at}/items", "required", "The protocol takes no totals without items here"))
    scores = as_rows(scored(row["origin"], definition, items, asked.totals, at))
    key = {"site_id": person.site_id, "outcome_id": row["id"]}
    writes.add(Outcome, row)
    writes.add(OutcomeScore, *({**key, **one} for one in scores))
    after = fields_remembered(audit.remembered("outcome", row), scores)
    source = Source("outcome_id", row["id"], 1, person.site_id, person.pid, person.protocol_version_id)
    seen = OutcomeSeen(definition.code, json.loads(row["items"]), {str(one["name"]): one["value"] for one in scores})
    event = audit.event("outcome:recorded", "outcome", row["id"], 1, {}, after)
    return Measured(row, scores), [event, *safety_signals.raise_in_new(session, writes, source, seen)]


def scope_of(session: Session, present: Protocol, visit: Mapping[str, Any]) -> str | None:
    """The scope of consent that a visit needs by the protocol version under which it was recorded (`present`: the
    participant's version now)."""
    version: int | None = visit["protocol_version_id"]
    protocol = present if version is None else protocol_of(session, version)
    return protocol.needs_scope(visit["visit_code"])


def fields_remembered(snapshot: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The fields of an audit entry: each item and each score is a field of its own."""
    items = {f"items.{code}": value for code, value in snapshot["items"].items()}
    others = {name: value for name, value in snapshot.items() if name != "items"}
    return {**others, **items, **{f"scores.{item['name']}": item["value"] for item in scores}}


class OutcomeFacts(NamedTuple):
    """The stored data against which new outcomes are checked."""

    visits: Mapping[tuple[int, UUID], Row[Any]]
    """By site and id: a visit at another site than the participant's does not exist for that outcome."""

    recorded: dict[tuple[UUID, str | None], UUID]
    """The outcome of each instrument at each of these visits."""

    people: Mapping[str, ParticipantFacts]


def outcome_facts(session: Session, actor: Actor, bodies: Sequence[OutcomeCreate]) -> OutcomeFacts:
    """Participants are locked first and then their visits, in the same order as by corrections of visits."""
    people, connection = participant_facts(session, actor, {body.participant for body in bodies}), session.connection()
    asked = {(people[body.participant].site_id, body.visit.hex) for body in bodies if body.participant in people}
    keys = [{"site_id": site_id, "id": visit_id} for site_id, visit_id in sorted(asked)]
    rows = connection.execute(_visits_held(connection.dialect.name), {"visits": keys}).all()
    visits = {(row.site_id, row.id): row for row in rows}
    return OutcomeFacts(visits, {(row.id, row.instrument): row.outcome for row in rows}, people)


def record_outcome(
    session: Session, actor: Actor, facts: OutcomeFacts, body: OutcomeCreate
) -> tuple[OutcomeRead, int, Writes]:
    """Record one administration of an instrument at a visit: gives the answer, the site's key, and what to store.

    Raises NotFound, VisitNotHeld, OutcomeAlreadyRecorded, InstrumentUnknown, ItemsOutOfRange, and the refusals of
    `require_in_study`.
    """
    person = of_whom(facts.people, body.participant)
    visit = found(facts.visits.get((person.site_id, body.visit)))
    require_not_voided(visit)
    if visit.pid != body.participant:
        raise VisitOfAnotherParticipant(Fault("/visit", "other_participant", "Not a visit of this participant"))
    if VisitStatus(visit.status) not in HELD:
        raise VisitNotHeld
    require_past(actor, person.site_id, body)
    person.require_unlocked(visit.id, visit.visit_code)
    writes = Writes()
    measured, events = measure(session, writes, actor, person, fields_of(visit), body, "")
    this: tuple[UUID, str | None] = (visit.id, measured.row["instrument"])
    if this in facts.recorded:
        fault = Fault("/instrument", "already_recorded", "It was administered at this visit: correct that outcome")
        raise OutcomeAlreadyRecorded(fault, existing=f"/v1/outcomes/{facts.recorded[this]}")
    facts.recorded[this] = measured.row["id"]
    writes.remember(actor.account_id, person.site_id, *events)
    return outcome_read(measured.row, visit.visit_code, person.place, measured.scores), person.site_id, writes


_VISITS, _OUTCOMES = table_of(Visit), table_of(Outcome)
_OF_VISIT = ("site_id", "id", "pid", "status", "occurred_on", "visit_code", "protocol_version_id", "voided_at")


@cache
def _visits_held(dialect: str) -> sa.Select[Any]:
    """The visits given as `visits`, locked until the commit, with their outcomes."""
    asked = given(dialect, "visits", site_id=_VISITS.c.site_id.type, id=_VISITS.c.id.type)
    at_visit = sa.and_(
        _OUTCOMES.c.site_id == _VISITS.c.site_id, _OUTCOMES.c.visit_id == _VISITS.c.id, counts(_OUTCOMES)
    )
    found = (
        sa.select(*(_VISITS.c[name] for name in _OF_VISIT), _OUTCOMES.c.instrument, _OUTCOMES.c.id.label("outcome"))
        .select_from(_VISITS.outerjoin(_OUTCOMES, at_visit))
        .where(_VISITS.c.site_id == asked.c.site_id, _VISITS.c.id == asked.c.id)
        .correlate(asked)
        .with_for_update(read=True, key_share=True, of=_VISITS)
    )
    return for_each(dialect, asked, found)
