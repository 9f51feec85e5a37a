"""Outcomes: scored on the server from the items, stored with the rule that scored them."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row, bindparam, delete, insert
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Place, Rows, found, reach, visible, visible_row
from app.errors import Conflict, Fault, Invalid
from app.models.among import among
from app.models.base import canonical_json, columns, fields_of, new_row, now, table_of, values
from app.models.outcome import (
    Outcome,
    OutcomeAmend,
    OutcomeCreate,
    OutcomeInVisit,
    OutcomeOrigin,
    OutcomeRead,
    OutcomeScore,
    Rescoring,
    ScoreRead,
    answered,
)
from app.models.visit import HELD, Visit, VisitStatus
from app.models.voided import counts
from app.protocol.definition import Protocol
from app.protocol.instruments import Instrument, UnknownInstrument, instrument, item_faults
from app.protocol.safety import OutcomeSeen
from app.protocol.scoring import Score, score
from app.security.keys import Keyring
from app.services import consent_history, raters, safety_signals
from app.services.outcome_content import content, differing_fields, with_changes
from app.services.participant_facts import ParticipantFacts, participant_facts, require_in_study
from app.services.participants import Hold, Person, visible_person
from app.services.safety_signals import Source
from app.services.site_days import require_past
from app.services.studies import protocol_of
from app.services.totals import scored
from app.services.unlocked import require_not_voided, require_unlocked
from app.site_lists import Filters
from app.web.conditional import require_current
from app.writing import Writes


class OutcomeAlreadyRecorded(Conflict):
    """This instrument was already administered at this visit: correct the outcome at `existing`."""


class InstrumentUnknown(Invalid):
    """The registry knows no such instrument or version."""


class ItemsOutOfRange(Invalid):
    """Some items are unknown or outside the instrument's range; see errors."""


class TotalsNotTaken(Invalid):
    """The protocol does not accept totals without items for this instrument; see errors."""


class HistoricalTotal(Conflict):
    """This outcome has totals without items; correct its totals."""


class VisitNotHeld(Conflict):
    """The visit did not take place, so nothing was measured at it."""


class VisitOfAnotherParticipant(Invalid):
    """The visit belongs to another participant."""


def require_items(asked: OutcomeInVisit, pointer: str) -> Instrument:
    """The instrument, once its items are known and in range. Raises InstrumentUnknown, ItemsOutOfRange."""
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
    """Add an outcome, its scores and the safety signals it raises to what is going to be stored of a visit; their
    events. `at` points at the outcome in what was sent."""
    definition = require_items(asked, at)
    items = asked.items or {}
    given = {
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
    row = new_row(Outcome, given)
    require_in_study(person, person.consents, row["collected_on"], _scope_of(session, person.protocol, visit))
    raters.require_independent(session, person, definition.code, asked.rater, at)
    if asked.items is None and definition.code not in person.protocol.historical_totals:
        raise TotalsNotTaken(Fault(f"{at}/items", "required", "The protocol takes no totals without items here"))
    scores = _in_order(scored(given["origin"], definition, items, asked.totals, at))
    key = {"site_id": person.site_id, "outcome_id": row["id"]}
    writes.add(Outcome, row)
    writes.add(OutcomeScore, *({**key, **one} for one in scores))
    kept = _fields(audit.remembered("outcome", row), scores)
    source = Source("outcome_id", row["id"], 1, person.site_id, person.pid, person.protocol_version_id)
    seen = OutcomeSeen(definition.code, json.loads(row["items"]), {str(one["name"]): one["value"] for one in scores})
    event = audit.event("outcome:recorded", "outcome", row["id"], 1, {}, kept)
    return Measured(row, scores), [event, *safety_signals.raise_in_new(session, writes, source, seen)]


def _scope_of(session: Session, present: Protocol, visit: Mapping[str, Any]) -> str | None:
    """The scope of consent that a visit needs, by the protocol version by which it was recorded."""
    version: int | None = visit["protocol_version_id"]
    protocol = present if version is None else protocol_of(session, version)
    return protocol.needs_scope(visit["visit_code"])


_SCORE = ("name", "value", "band", "reason", "rule")


def _in_order(results: Sequence[Score]) -> list[Mapping[str, Any]]:
    scores = [{name: getattr(result, name) for name in _SCORE} for result in results]
    return sorted(scores, key=lambda result: str(result["name"]))


def _store_again(session: Session, row: Outcome, results: Sequence[Score]) -> list[Mapping[str, Any]]:
    session.execute(
        delete(OutcomeScore).where(col(OutcomeScore.site_id) == row.site_id, col(OutcomeScore.outcome_id) == row.id)
    )
    scores, key = _in_order(results), {"site_id": row.site_id, "outcome_id": row.id}
    if scores:
        session.execute(insert(table_of(OutcomeScore)), [{**key, **result} for result in scores])
    return scores


def _remembered(row: Outcome, scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return _fields(audit.snapshot(row), scores)


def _fields(plain: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the trail keeps: each item and each score as a field of its own."""
    items = {f"items.{code}": value for code, value in plain["items"].items()}
    others = {name: value for name, value in plain.items() if name != "items"}
    return {**others, **items, **{f"scores.{item['name']}": item["value"] for item in scores}}


class Around(NamedTuple):
    """What new outcomes are held against: their visits, what was measured at these, and the participants."""

    visits: Mapping[UUID, Row[Any]]
    there: dict[tuple[UUID, str | None], UUID]
    """The outcome of each instrument at each of these visits."""

    people: Mapping[str, ParticipantFacts]


def around(session: Session, actor: Actor, bodies: Sequence[OutcomeCreate]) -> Around:
    """Participants are held first and then their visits, as by those who correct a visit."""
    connection, asked = session.connection(), {"visits": sorted({body.visit for body in bodies}), **reach(actor)}
    people = participant_facts(session, actor, set(connection.execute(_WHOSE, asked).scalars()))
    rows = connection.execute(_VISITS_HELD, asked).all()
    return Around({row.id: row for row in rows}, {(row.id, row.instrument): row.outcome for row in rows}, people)


def record_outcome(
    session: Session, actor: Actor, around: Around, body: OutcomeCreate
) -> tuple[OutcomeRead, Writes, int]:
    """What recording one administration of an instrument at a visit comes to; also gives the site's key.

    Raises NotFound, VisitNotHeld, OutcomeAlreadyRecorded, InstrumentUnknown, ItemsOutOfRange, and the refusals of
    `require_in_study`.
    """
    visit = found(around.visits.get(body.visit))
    require_not_voided(visit)
    if visit.pid != body.participant:
        raise VisitOfAnotherParticipant(Fault("/visit", "other_participant", "Not a visit of this participant"))
    if VisitStatus(visit.status) not in HELD:
        raise VisitNotHeld
    person = around.people[visit.pid]
    require_past(actor, person.site_id, body)
    person.require_unlocked(visit.id, visit.visit_code)
    writes = Writes()
    measured, events = measure(session, writes, actor, person, fields_of(visit), body, "")
    this: tuple[UUID, str | None] = (visit.id, measured.row["instrument"])
    if this in around.there:
        fault = Fault("/instrument", "already_recorded", "It was administered at this visit: correct that outcome")
        raise OutcomeAlreadyRecorded(fault, existing=f"/v1/outcomes/{around.there[this]}")
    around.there[this] = measured.row["id"]
    writes.remember(actor.account_id, person.site_id, *events)
    return measured_read(measured, visit.visit_code, person.place), writes, person.site_id


_VISITS, _OUTCOMES = table_of(Visit), table_of(Outcome)
_ASKED = among(_VISITS.c.id, "visits")
_WHOSE = visible(sa.select(_VISITS.c.pid).where(_ASKED), None)
_AT_VISIT = sa.and_(_OUTCOMES.c.site_id == _VISITS.c.site_id, _OUTCOMES.c.visit_id == _VISITS.c.id, counts(_OUTCOMES))
_OF_VISIT = (
    *(_VISITS.c[name] for name in ("site_id", "id", "pid", "status", "occurred_on", "visit_code")),
    *(_VISITS.c.protocol_version_id, _VISITS.c.voided_at),
)
_VISITS_HELD: sa.Select[Any] = (
    visible(sa.select(*_OF_VISIT).select_from(_VISITS.outerjoin(_OUTCOMES, _AT_VISIT)).where(_ASKED), None)
    .add_columns(_OUTCOMES.c.instrument, _OUTCOMES.c.id.label("outcome"))  # of visits that were narrowed already
    .order_by(_VISITS.c.site_id, _VISITS.c.id)
    .with_for_update(read=True, key_share=True, of=_VISITS)
)


def visit_of(session: Session, actor: Actor, row: Outcome) -> Visit:
    """Held, so that nobody says meanwhile that it did not take place."""
    statement = visible(select(Visit).where(Visit.id == row.visit_id), actor)
    return found(session.exec(statement.with_for_update(read=True, key_share=True)).first())


def held(session: Session, actor: Actor, outcome_id: UUID) -> tuple[Outcome, Person]:
    """To be changed, and its participant, who is held first as by those who record an outcome: nobody is dosed while
    a signal of it comes. Raises NotFound, RecordVoided."""
    pid = found(session.exec(visible(select(Outcome.pid).where(Outcome.id == outcome_id), actor)).first())
    person = visible_person(session, actor, pid, hold=Hold.as_it_is)
    row = visible_row(session, actor, Outcome, outcome_id, lock=True)
    require_not_voided(row)
    return row, person


def amend_outcome(
    session: Session, actor: Actor, keyring: Keyring, seen: str, outcome_id: UUID, body: OutcomeAmend
) -> OutcomeRead:
    """Correct items, the day, the rater or historical totals; scores are computed again by the stored instrument
    version. Raises NotFound, VersionStale, HistoricalTotal, ItemsOutOfRange, TotalsDiffer, RaterNotIndependent,
    VisitNotHeld, and of another day the refusals of `require_in_study`."""
    row, person = held(session, actor, outcome_id)
    require_past(actor, person.site_id, body)
    visit = visit_of(session, actor, row)
    if row.origin == OutcomeOrigin.historical_total and body.items is not None:
        raise HistoricalTotal
    stored = scores_of(session, [row])[row.id]
    was = content(row, stored)
    after = with_changes(was, body)
    differing = differing_fields(was, after)
    require_current(keyring, seen, row.id, row.version, differing)
    definition = require_items(
        OutcomeInVisit(instrument=row.instrument, instrument_version=row.instrument_version, items=after.items), ""
    )
    results = scored(row.origin, definition, after.items, after.totals, "")  # totals are a check without a change too
    if not differing:
        return outcome_read(row, visit.visit_code, actor.places[row.site_id], stored)
    require_unlocked(session, row.site_id, row.pid, visit.id, visit.visit_code)
    if visit.status not in HELD and answered(row, after.items):
        raise VisitNotHeld
    if "collected_on" in differing:
        consents, scope = (
            consent_history.history_of(session, person),
            _scope_of(session, person.protocol, values(visit)),
        )
        require_in_study(person.row, consents, after.collected_on, scope)
    if "rater" in differing:
        raters.require_independent(session, person, row.instrument, after.rater, "")
    before = _remembered(row, stored)
    row.items = canonical_json(after.items)
    row.collected_on, row.rater = after.collected_on, after.rater
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    scores = _store_again(session, row, results)
    event = audit.changed(
        "outcome:amended", row, row.id, row.version, before, body.reason, after=_remembered(row, scores)
    )
    events = safety_signals.seen_in_outcome(session, row, scores, event)
    audit.append(session, actor.account_id, row.site_id, events)
    return outcome_read(row, visit.visit_code, actor.places[row.site_id], scores)


def rescore(session: Session, actor: Actor, outcome_id: UUID, body: Rescoring) -> OutcomeRead:
    """Score stored items by the rules of today, and of another version of the instrument where one is named. Nothing
    is written where the scores and their rules are the same.

    Raises NotFound, HistoricalTotal, InstrumentUnknown, ItemsOutOfRange.
    """
    row, _ = held(session, actor, outcome_id)
    if row.origin == OutcomeOrigin.historical_total:
        raise HistoricalTotal
    visit, stored = visit_of(session, actor, row), scores_of(session, [row])[row.id]
    items = json.loads(row.items)
    definition = require_items(
        OutcomeInVisit(instrument=row.instrument, instrument_version=body.instrument_version, items=items), ""
    )
    results, before = score(definition, items), _remembered(row, stored)
    if {str(item["name"]): (item["value"], item["rule"]) for item in stored} == {
        result.name: (result.value, result.rule) for result in results
    }:
        return outcome_read(row, visit.visit_code, actor.places[row.site_id], stored)
    require_unlocked(session, row.site_id, row.pid, visit.id, visit.visit_code)
    row.instrument_version, row.version, row.updated_at = definition.version, row.version + 1, now()
    session.flush()
    scores = _store_again(session, row, results)
    after = _remembered(row, scores)
    event = audit.changed("outcome:rescored", row, row.id, row.version, before, body.reason, after=after)
    audit.append(session, actor.account_id, row.site_id, safety_signals.seen_in_outcome(session, row, scores, event))
    return outcome_read(row, visit.visit_code, actor.places[row.site_id], scores)


@cache
def rows() -> Rows:
    """Outcomes with the code of their visit; narrow it with `visible`."""
    visit = (col(Visit.site_id) == col(Outcome.site_id)) & (col(Visit.id) == col(Outcome.visit_id))
    return sa.select(*columns(Outcome), col(Visit.visit_code)).select_from(Outcome).join(Visit, visit)


FILTERS: Filters = {
    "participant": col(Outcome.pid) == bindparam("participant"),
    "instrument": col(Outcome.instrument) == bindparam("instrument"),
    "visit_code": col(Visit.visit_code) == bindparam("visit_code"),
    "voided": {False: counts(Outcome), True: ~counts(Outcome)},
}


def scores_of(session: Session, outcomes: Sequence[Any]) -> dict[UUID, list[Mapping[str, Any]]]:
    """The scores of some outcomes (rows) that the caller may see, by outcome, in name order."""
    grouped: dict[UUID, list[Mapping[str, Any]]] = {outcome.id: [] for outcome in outcomes}
    asked = {"outcomes": sorted(grouped), "sites": sorted({outcome.site_id for outcome in outcomes})}
    for row in session.connection().execute(_SCORES_OF, asked):
        grouped[row.outcome_id].append({name: row._mapping[name] for name in _SCORE})
    return grouped


_SCORES = table_of(OutcomeScore)
_SCORES_OF = (
    sa.select(_SCORES.c.outcome_id, *(_SCORES.c[name] for name in _SCORE))
    .where(among(_SCORES.c.site_id, "sites"), among(_SCORES.c.outcome_id, "outcomes"))
    .order_by(_SCORES.c.name)
)


def read_all(session: Session, actor: Actor, page: Sequence[Row[Any]]) -> list[OutcomeRead]:
    """Rows of `rows()` as answers, their scores fetched in one query."""
    scores = scores_of(session, page)
    return [_read(fields_of(row), row.visit_code, actor.places[row.site_id], scores[row.id]) for row in page]


def measured_read(measured: Measured, visit_code: str, place: Place) -> OutcomeRead:
    return _read(measured.row, visit_code, place, measured.scores)


def outcome_read(row: Outcome, visit_code: str, place: Place, scores: Sequence[Mapping[str, Any]]) -> OutcomeRead:
    return _read(values(row), visit_code, place, scores)


def _read(values: Mapping[str, Any], visit_code: str, place: Place, scores: Sequence[Mapping[str, Any]]) -> OutcomeRead:
    return OutcomeRead(
        participant=values["pid"],
        study=place.study,
        site=place.site,
        visit=values["visit_id"],
        visit_code=visit_code,
        items=json.loads(values["items"]),
        scores=[ScoreRead(**{**item, "value": shown_number(item["value"])}) for item in scores],
        **{name: values[name] for name in _SHOWN},
    )


_SHOWN = (
    *("id", "instrument", "instrument_version", "collected_on", "rater", "origin"),
    *("version", "created_at", "updated_at", "voided_at", "voiding_reason"),
)


def shown_number(value: float | None) -> int | float | None:
    """A whole score as a whole number: 30, not 30.0."""
    return int(value) if value is not None and float(value).is_integer() else value
