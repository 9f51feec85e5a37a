"""Corrections of outcomes: of items, day, rater or totals, and new scores by another version of the instrument."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

from sqlmodel import Session, select

from app import audit
from app.access import Actor, found, visible, visible_row
from app.errors import Conflict
from app.models.base import canonical_json, now, values
from app.models.outcome import Outcome, OutcomeAmend, OutcomeInVisit, OutcomeOrigin, OutcomeRead, Rescoring, answered
from app.models.visit import HELD, Visit
from app.protocol.instruments import Instrument
from app.protocol.scoring import Score, score
from app.services.assessments import raters
from app.services.assessments.outcome_reads import outcome_read
from app.services.assessments.outcome_scores import replace_scores, scored, scores_of
from app.services.assessments.outcomes import VisitNotHeld, fields_remembered, require_items, scope_of
from app.services.participation import consent_history
from app.services.participation.participant_facts import require_in_study
from app.services.participation.participants import Hold, Person, visible_person
from app.services.safety import safety_signals
from app.services.site_days import require_past
from app.services.unlocked import require_not_voided, require_unlocked
from app.web.conditional import Seen


class HistoricalTotal(Conflict):
    """This outcome has totals without items; correct its totals."""


class Content(NamedTuple):
    """The part of an outcome that can be corrected."""

    items: dict[str, int | None]
    collected_on: date | None
    rater: str | None
    totals: Mapping[str, float] | None
    """Of a historical outcome only. Totals that are sent with items are compared and not stored."""


def _content(row: Outcome, scores: Sequence[Mapping[str, Any]]) -> Content:
    historical = row.origin == OutcomeOrigin.historical_total
    totals = {str(score["name"]): score["value"] for score in scores} if historical else None
    return Content(json.loads(row.items), row.collected_on, row.rater, totals)


def _with_changes(was: Content, body: OutcomeAmend) -> Content:
    """The content after a correction: fields that were not sent stay."""
    return Content(
        items={**was.items, **(body.items or {})},
        collected_on=body.collected_on or was.collected_on,
        rater=body.rater if "rater" in body.model_fields_set else was.rater,
        totals=was.totals if body.totals is None else body.totals,
    )


def _differing_fields(was: Content, after: Content) -> set[str]:
    """The fields of a correction that change something."""
    plain = {name for name in ("collected_on", "rater") if getattr(was, name) != getattr(after, name)}
    items = {f"items.{code}" for code, value in after.items.items() if was.items.get(code, ...) != value}
    if was.totals is None:
        return plain | items
    old, new = was.totals, after.totals or {}
    return plain | items | {f"totals.{name}" for name in old.keys() | new.keys() if old.get(name) != new.get(name)}


def lock_visit(session: Session, actor: Actor, row: Outcome) -> Visit:
    """The visit of an outcome, locked so that nobody corrects it to missed at the same time."""
    statement = visible(select(Visit).where(Visit.id == row.visit_id), actor)
    return found(session.exec(statement.with_for_update(read=True, key_share=True)).first())


def lock_outcome(session: Session, actor: Actor, outcome_id: UUID) -> tuple[Outcome, Person]:
    """An outcome, locked in order to be changed, and its participant, who is locked first as when an outcome is
    recorded: so no dose is given while the outcome raises a safety signal. Raises NotFound, RecordVoided."""
    pid = found(session.exec(visible(select(Outcome.pid).where(Outcome.id == outcome_id), actor)).first())
    person = visible_person(session, actor, pid, hold=Hold.as_it_is)
    row = visible_row(session, actor, Outcome, outcome_id, lock=True)
    require_not_voided(row)
    return row, person


def amend_outcome(
    session: Session, actor: Actor, seen: Seen, outcome_id: UUID, body: OutcomeAmend
) -> tuple[OutcomeRead, int]:
    """Correct items, the day, the rater or historical totals; scores are computed again by the stored instrument
    version. Also gives the site's key.

    Raises NotFound, RecordVoided, VersionStale, HistoricalTotal, ItemsOutOfRange, TotalsDiffer, DataLocked,
    RaterNotIndependent, VisitNotHeld, and if the day changes the refusals of `require_in_study`.
    """
    row, person = lock_outcome(session, actor, outcome_id)
    require_past(actor, person.site_id, body)
    visit = lock_visit(session, actor, row)
    if row.origin == OutcomeOrigin.historical_total and body.items is not None:
        raise HistoricalTotal
    scores = scores_of(session, [row])[row.id]
    was = _content(row, scores)
    after = _with_changes(was, body)
    differing = _differing_fields(was, after)
    seen.require_current(row.id, row.version, differing)
    definition = _definition(row.instrument, row.instrument_version, after.items)
    results = scored(row.origin, definition, after.items, after.totals, "")  # compares totals even if nothing changes
    if not differing:
        return outcome_read(values(row), visit.visit_code, person.place, scores), row.site_id
    require_unlocked(session, row.site_id, row.pid, visit.id, visit.visit_code)
    if visit.status not in HELD and answered(row, after.items):
        raise VisitNotHeld
    if "collected_on" in differing:
        consents = consent_history.history_of(session, person)
        scope = scope_of(session, person.protocol, values(visit))
        require_in_study(person.row, consents, after.collected_on, scope)
    if "rater" in differing:
        raters.require_independent(session, person, row.instrument, after.rater, "")
    before = _remembered(row, scores)
    row.items = canonical_json(after.items)
    row.collected_on, row.rater = after.collected_on, after.rater
    scores = _store(session, actor, row, results, before, "outcome:amended", body.reason)
    return outcome_read(values(row), visit.visit_code, person.place, scores), row.site_id


def rescore(session: Session, actor: Actor, outcome_id: UUID, body: Rescoring) -> OutcomeRead:
    """Score the stored items by the present rules, and by another version of the instrument if one is named. Nothing
    is written if the scores and their rules stay the same.

    Raises NotFound, RecordVoided, HistoricalTotal, InstrumentUnknown, ItemsOutOfRange, DataLocked.
    """
    row, person = lock_outcome(session, actor, outcome_id)
    if row.origin == OutcomeOrigin.historical_total:
        raise HistoricalTotal
    visit, scores = lock_visit(session, actor, row), scores_of(session, [row])[row.id]
    items = json.loads(row.items)
    definition = _definition(row.instrument, body.instrument_version, items)
    results = score(definition, items)
    old = {str(one["name"]): (one["value"], one["rule"]) for one in scores}
    if old != {result.name: (result.value, result.rule) for result in results}:
        require_unlocked(session, row.site_id, row.pid, visit.id, visit.visit_code)
        before = _remembered(row, scores)
        row.instrument_version = definition.version
        scores = _store(session, actor, row, results, before, "outcome:rescored", body.reason)
    return outcome_read(values(row), visit.visit_code, person.place, scores)


def _definition(code: str, version: str | None, items: dict[str, int | None]) -> Instrument:
    return require_items(OutcomeInVisit(instrument=code, instrument_version=version, items=items), "")


def _store(
    session: Session,
    actor: Actor,
    row: Outcome,
    results: Sequence[Score],
    before: Mapping[str, Any],
    action: str,
    reason: str,
) -> list[Mapping[str, Any]]:
    """Store the next version of an outcome with its new scores, and raise the safety signals seen in them."""
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    scores = replace_scores(session, row, results)
    event = audit.changed(action, row, row.id, row.version, before, reason, after=_remembered(row, scores))
    audit.append(session, actor.account_id, row.site_id, safety_signals.seen_in_outcome(session, row, scores, event))
    return scores


def _remembered(row: Outcome, scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return fields_remembered(audit.snapshot(row), scores)
