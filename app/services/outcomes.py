"""Outcomes: scored on the server from the items, stored with the rule that scored them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row, delete, insert
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Place, Rows, found, visible
from app.database import unique_or
from app.errors import Conflict, Fault, Invalid
from app.models.base import canonical_json, columns, fields_of, now, table_of, values
from app.models.outcome import (
    Outcome,
    OutcomeAmend,
    OutcomeCreate,
    OutcomeInVisit,
    OutcomeRead,
    OutcomeScore,
    ScoreRead,
)
from app.models.visit import HELD, Visit, VisitStatus
from app.protocol.instruments import Instrument, UnknownInstrument, instrument, item_faults
from app.protocol.scoring import score
from app.security.keys import Keyring
from app.services.unlocked import require_unlocked
from app.web.conditional import require_current


class OutcomeAlreadyRecorded(Conflict):
    """This instrument was already administered at this visit; correct that outcome instead."""


class InstrumentUnknown(Invalid):
    """The registry knows no such instrument or version."""


class ItemsOutOfRange(Invalid):
    """Some items are unknown or outside the instrument's range; see errors."""


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
        for fault in item_faults(definition, asked.items)
    ]
    if faults:
        raise ItemsOutOfRange(*faults)
    return definition


def store(
    session: Session, actor: Actor, visit: Visit, asked: OutcomeInVisit, pointer: str
) -> tuple[Outcome, list[Mapping[str, Any]], audit.Event]:
    """Add an outcome and its scores to a visit, in the caller's transaction; the caller remembers the event."""
    definition = require_items(asked, pointer)
    row = Outcome(
        site_id=visit.site_id,
        pid=visit.pid,
        visit_id=visit.id,
        instrument=definition.code,
        instrument_version=definition.version,
        collected_on=asked.collected_on or visit.occurred_on,
        items=canonical_json({item.code: asked.items.get(item.code) for item in definition.items}),
        created_by=actor.account_id,
    )
    session.add(row)
    with unique_or(OutcomeAlreadyRecorded):
        session.flush()
    scores = _store_scores(session, row, definition, asked.items)
    event = audit.changed("outcome:recorded", row, row.id, 1, {}, _remembered(row, scores), None)
    return row, scores, event


_SCORE = ("name", "value", "band", "reason", "rule")


def _store_scores(
    session: Session, row: Outcome, definition: Instrument, items: Mapping[str, int | None]
) -> list[Mapping[str, Any]]:
    scores = [{name: getattr(result, name) for name in _SCORE} for result in score(definition, items)]
    key = {"site_id": row.site_id, "outcome_id": row.id}
    session.execute(insert(table_of(OutcomeScore)), [{**key, **result} for result in scores])
    return sorted(scores, key=lambda result: str(result["name"]))


def _remembered(row: Outcome, scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the trail keeps: each item and each score as a field of its own."""
    plain = audit.snapshot(row)
    items = {f"items.{code}": value for code, value in plain.pop("items").items()}
    return {**plain, **items, **{f"scores.{item['name']}": item["value"] for item in scores}}


def record_outcome(session: Session, actor: Actor, body: OutcomeCreate) -> tuple[OutcomeRead, int]:
    """Record one administration of an instrument at a visit; also gives the site's key.

    Raises NotFound, VisitNotHeld, OutcomeAlreadyRecorded, InstrumentUnknown, ItemsOutOfRange.
    """
    visit = _visit(session, actor, body.visit)
    if visit.pid != body.participant:
        raise VisitOfAnotherParticipant(Fault("/visit", "other_participant", "Not a visit of this participant"))
    if VisitStatus(visit.status) not in HELD:
        raise VisitNotHeld
    require_unlocked(session, visit.site_id, visit.pid, visit.id, visit.visit_code)
    row, scores, event = store(session, actor, visit, body, "")
    audit.append(session, str(actor.account_id), row.site_id, [event])
    return outcome_read(row, visit.visit_code, actor.places[row.site_id], scores), row.site_id


def _visit(session: Session, actor: Actor, visit_id: UUID) -> Visit:
    return found(session.exec(visible(select(Visit).where(Visit.id == visit_id), actor)).first())


def amend_outcome(
    session: Session, actor: Actor, keyring: Keyring, seen: str, outcome_id: UUID, body: OutcomeAmend
) -> OutcomeRead:
    """Correct items or the day; scores are computed again by the rule of the stored instrument version."""
    statement = visible(select(Outcome).where(Outcome.id == outcome_id), actor).with_for_update()
    row = found(session.exec(statement).first())
    visit = _visit(session, actor, row.visit_id)
    old_items = json.loads(row.items)
    items = {**old_items, **(body.items or {})}
    collected_on = body.collected_on or row.collected_on
    differing = {f"items.{code}" for code, value in items.items() if old_items.get(code, ...) != value}
    differing |= {"collected_on"} if collected_on != row.collected_on else set()
    require_current(keyring, seen, row.id, row.version, differing)
    if not differing:
        return outcome_read(row, visit.visit_code, actor.places[row.site_id], scores_of(session, [row.id])[row.id])
    definition = require_items(
        OutcomeInVisit(instrument=row.instrument, instrument_version=row.instrument_version, items=items), ""
    )
    require_unlocked(session, row.site_id, row.pid, visit.id, visit.visit_code)
    before = _remembered(row, scores_of(session, [row.id])[row.id])
    row.items = canonical_json(items)
    row.collected_on = collected_on
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    session.execute(
        delete(OutcomeScore).where(col(OutcomeScore.site_id) == row.site_id, col(OutcomeScore.outcome_id) == row.id)
    )
    scores = _store_scores(session, row, definition, items)
    after = _remembered(row, scores)
    event = audit.changed("outcome:amended", row, row.id, row.version, before, after, body.reason)
    audit.append(session, str(actor.account_id), row.site_id, [event])
    return outcome_read(row, visit.visit_code, actor.places[row.site_id], scores)


def rows() -> Rows:
    """Outcomes with the code of their visit; narrow it with `visible`."""
    visit = (col(Visit.site_id) == col(Outcome.site_id)) & (col(Visit.id) == col(Outcome.visit_id))
    return sa.select(*columns(Outcome), col(Visit.visit_code)).select_from(Outcome).join(Visit, visit)


def scores_of(session: Session, outcome_ids: Sequence[UUID]) -> dict[UUID, list[Mapping[str, Any]]]:
    """The scores of some outcomes that the caller may see, by outcome, in name order."""
    grouped: dict[UUID, list[Mapping[str, Any]]] = {outcome_id: [] for outcome_id in outcome_ids}
    statement = select(OutcomeScore.outcome_id, *(getattr(OutcomeScore, name) for name in _SCORE))
    statement = statement.where(col(OutcomeScore.outcome_id).in_(outcome_ids)).order_by(col(OutcomeScore.name))
    for row in session.execute(statement):
        grouped[row.outcome_id].append({name: row._mapping[name] for name in _SCORE})
    return grouped


def read_all(session: Session, actor: Actor, page: Sequence[Row[Any]]) -> list[OutcomeRead]:
    """Rows of `rows()` as answers, their scores fetched in one query."""
    scores = scores_of(session, [row.id for row in page])
    return [_read(fields_of(row), row.visit_code, actor.places[row.site_id], scores[row.id]) for row in page]


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


_SHOWN = ("id", "instrument", "instrument_version", "collected_on", "version", "created_at", "updated_at")


def shown_number(value: float | None) -> int | float | None:
    """A whole score as a whole number: 30, not 30.0."""
    return int(value) if value is not None and float(value).is_integer() else value
