"""The scores of outcomes: computed from the items, compared with the totals that a client sent, stored and read."""

import math
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import delete, insert
from sqlmodel import Session, col

from app.errors import Fault, Invalid
from app.models.among import among
from app.models.base import table_of
from app.models.outcome import Outcome, OutcomeOrigin, OutcomeScore
from app.protocol.instruments import Instrument
from app.protocol.scoring import Score, score

TOTALS_AGREE = 1e-6
"""The difference allowed between two totals, as other programs round means and percentages. Whole totals must be
equal."""


class TotalsDiffer(Invalid):
    """A total that was sent differs from the one that the items give; see errors."""


def scored(
    origin: str, definition: Instrument, items: Mapping[str, int | None], totals: Mapping[str, float] | None, at: str
) -> Sequence[Score]:
    """The scores that the items give, or of a historical outcome the `totals`, which must be in the instrument's range.
    `at` is the JSON pointer of the outcome in the request. Raises TotalsDiffer."""
    computed = score(definition, items)
    known = {result.name: result for result in computed}
    faults = []
    for name, value in (totals or {}).items():
        if fault := _fault(origin, definition, known, name, value):
            faults.append(Fault(f"{at}/totals/{name if name in known else '?'}", *fault))
    if faults:
        raise TotalsDiffer(*faults)
    if origin != OutcomeOrigin.historical_total:
        return computed
    return [_historical(definition, name, value) for name, value in sorted((totals or {}).items())]


def _fault(
    origin: str, definition: Instrument, known: Mapping[str, Score], name: str, value: float
) -> tuple[str, str] | None:
    if name not in known:
        return "unknown_score", f"{definition.code} version {definition.version} has no such score"
    if origin == OutcomeOrigin.historical_total:
        lowest, highest = definition.bounds(name)
        inside = lowest <= value <= highest
        return None if inside else ("out_of_range", f"Must lie between {lowest} and {highest}")
    computed = known[name].value
    equal = computed is not None and math.isclose(computed, value, abs_tol=TOTALS_AGREE)
    return None if equal else ("total_differs", "The items give another value, or none")


def _historical(definition: Instrument, name: str, value: float) -> Score:
    plain = value + 0.0  # makes 0 of -0.0, which PostgreSQL would keep and SQLite would not
    return Score(name, plain, definition.rule(name).band(plain), None, f"{definition.key} historical total")


COLUMNS = ("name", "value", "band", "reason", "rule")


def as_rows(results: Sequence[Score]) -> list[Mapping[str, Any]]:
    """Scores as they are stored, in name order."""
    scores = [{name: getattr(result, name) for name in COLUMNS} for result in results]
    return sorted(scores, key=lambda result: str(result["name"]))


def replace_scores(session: Session, row: Outcome, results: Sequence[Score]) -> list[Mapping[str, Any]]:
    session.execute(
        delete(OutcomeScore).where(col(OutcomeScore.site_id) == row.site_id, col(OutcomeScore.outcome_id) == row.id)
    )
    scores, key = as_rows(results), {"site_id": row.site_id, "outcome_id": row.id}
    if scores:
        session.execute(insert(table_of(OutcomeScore)), [{**key, **result} for result in scores])
    return scores


def scores_of(session: Session, outcomes: Sequence[Any]) -> dict[UUID, list[Mapping[str, Any]]]:
    """The scores of outcomes by outcome, in name order. The caller has checked that these exist for the actor."""
    grouped: dict[UUID, list[Mapping[str, Any]]] = {outcome.id: [] for outcome in outcomes}
    asked = {"outcomes": sorted(grouped), "sites": sorted({outcome.site_id for outcome in outcomes})}
    for row in session.connection().execute(_SCORES_OF, asked):
        grouped[row.outcome_id].append({name: row._mapping[name] for name in COLUMNS})
    return grouped


_SCORES = table_of(OutcomeScore)
_SCORES_OF = (
    sa.select(_SCORES.c.outcome_id, *(_SCORES.c[name] for name in COLUMNS))
    .where(among(_SCORES.c.site_id, "sites"), among(_SCORES.c.outcome_id, "outcomes"))
    .order_by(_SCORES.c.name)
)


def shown_number(value: float | None) -> int | float | None:
    """A whole score as a whole number: 30, not 30.0."""
    return int(value) if value is not None and float(value).is_integer() else value
