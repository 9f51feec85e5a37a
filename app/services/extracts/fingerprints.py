"""How many people are unique by their scores or visits. By these two extracts can be linked, and somebody who knows
them of a person can find that person. Hiding them would defeat the purpose of the extract, so the risk is reported
instead."""

import hashlib
from collections.abc import Collection, Iterator
from typing import Any

from sqlalchemy import ColumnElement, Subquery, Text, cast, func, literal, select
from sqlmodel import Session, col

from app.access import Rows
from app.models.base import table_of
from app.models.outcome import Outcome, OutcomeScore
from app.models.study import ProtocolVersion, Site
from app.models.visit import Visit
from app.privacy.profile import RELEASED_INSTRUMENTS
from app.privacy.risk import uniqueness
from app.services.extracts.extract_sql import Timing, selected, together
from app.services.participation.collected import OF_OUTCOME, OF_VISIT, while_collected
from app.services.studies import protocol_of


def fingerprints(session: Session, study_id: int, people: Collection[str], ended: Subquery) -> dict[str, Any]:
    """How many of these participants have a course of scores, or a pattern of visits, that nobody else has."""
    statements = {
        "score_vectors": while_collected(_scores(study_id), ended, Outcome, *OF_OUTCOME),
        "visit_patterns": _visits(session, study_id, ended),
    }
    return {name: uniqueness(_fingerprints(session, one, people)) for name, one in statements.items()}


def _visits(session: Session, study_id: int, ended: Subquery) -> Rows:
    """The visits as in visits.csv. Whether each was early or late often makes a pattern unique."""
    visit, version = Visit, table_of(ProtocolVersion).c
    versions = session.scalars(select(version.id).where(version.study_id == study_id).order_by(version.id)).all()
    protocols = {one: protocol_of(session, one) for one in versions}
    timing = Timing(session.get_bind().dialect, protocols, ended.c.since)
    statement = selected(visit.pid, visit.visit_code, visit.occurrence, timing.column.label("timing"), visit.status)
    of_study = statement.join(Site, col(Site.id) == col(visit.site_id)).where(col(Site.study_id) == study_id)
    return timing.joined(while_collected(of_study, ended, Visit, *OF_VISIT))


def _scores(study_id: int) -> Rows:
    visit, outcome, score = Visit, Outcome, OutcomeScore
    statement = (
        selected(outcome.pid, visit.visit_code, visit.occurrence, outcome.instrument, score.name, score.value)
        .select_from(Outcome)
        .join(Site, col(Site.id) == col(outcome.site_id))
        .join(visit, (col(visit.site_id) == col(outcome.site_id)) & (col(visit.id) == col(outcome.visit_id)))
        .join(score, (col(score.site_id) == col(outcome.site_id)) & (col(score.outcome_id) == col(outcome.id)))
    )
    return statement.where(col(Site.study_id) == study_id, col(outcome.instrument).in_(sorted(RELEASED_INSTRUMENTS)))


def _fingerprints(session: Session, statement: Rows, people: Collection[str]) -> Iterator[bytes]:
    """A digest of each person's rows without the pid, their first column: equal for two people with equal rows."""
    pid, *cells = statement.selected_columns
    text: ColumnElement[str] = literal("")
    for cell in cells:
        text = text.concat(func.coalesce(cast(cell, Text), "")).concat("|")
    line = statement.with_only_columns(pid, text.label("line"), maintain_column_froms=True).subquery().c
    found = session.execute(select(line.pid, together(line.line)).group_by(line.pid))
    for one, lines in found.yield_per(
        1000
    ):  # not an option of the statement: that would be a cursor, read by one process
        if one in people:
            yield hashlib.sha256("\n".join(sorted(str(lines).split("\n"))).encode()).digest()
