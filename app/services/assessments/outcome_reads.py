"""Outcomes as answers, with their scores."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row, bindparam
from sqlmodel import Session, col

from app.access import Actor, Place, Rows, found, visible
from app.models.base import columns, fields_of
from app.models.outcome import Outcome, OutcomeRead, ScoreRead
from app.models.visit import Visit
from app.models.voided import counts
from app.services.assessments.outcome_scores import scores_of, shown_number
from app.site_lists import Filters


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


def read_one(session: Session, actor: Actor, outcome_id: UUID) -> OutcomeRead:
    """One outcome. Raises NotFound."""
    statement = visible(rows().where(col(Outcome.id) == outcome_id), actor)
    return read_all(session, actor, [found(session.execute(statement).first())])[0]


def read_all(session: Session, actor: Actor, page: Sequence[Row[Any]]) -> list[OutcomeRead]:
    """Rows of `rows()` as answers; one statement reads all their scores."""
    scores = scores_of(session, page)
    return [outcome_read(fields_of(row), row.visit_code, actor.places[row.site_id], scores[row.id]) for row in page]


def outcome_read(
    values: Mapping[str, Any], visit_code: str, place: Place, scores: Sequence[Mapping[str, Any]]
) -> OutcomeRead:
    return OutcomeRead.of_row(
        values,
        participant=values["pid"],
        study=place.study,
        site=place.site,
        visit=values["visit_id"],
        visit_code=visit_code,
        items=json.loads(values["items"]),
        scores=[ScoreRead(**{**item, "value": shown_number(item["value"])}) for item in scores],
    )
