"""Totals sent with an outcome, held against what its items give, or, where there are none, against the range."""

import math
from collections.abc import Mapping, Sequence

from app.errors import Fault, Invalid
from app.models.outcome import OutcomeOrigin
from app.protocol.instruments import Instrument
from app.protocol.scoring import Score, score

TOTALS_AGREE = 1e-6
"""Means and percentages come rounded from other programs; whole totals must be equal."""


class TotalsDiffer(Invalid):
    """A total that was sent differs from the one that the items give; see errors."""


def scored(
    origin: str, definition: Instrument, items: Mapping[str, int | None], totals: Mapping[str, float] | None, at: str
) -> Sequence[Score]:
    """The scores by the instrument's rules, or the historical ones. Raises TotalsDiffer."""
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
    ours = known[name].value
    equal = ours is not None and math.isclose(ours, value, abs_tol=TOTALS_AGREE)
    return None if equal else ("total_differs", "The items give another value, or none")


def _historical(definition: Instrument, name: str, value: float) -> Score:
    plain = value + 0.0  # -0.0, which PostgreSQL keeps and SQLite does not, is 0
    return Score(name, plain, definition.rule(name).band(plain), None, f"{definition.key} historical total")
