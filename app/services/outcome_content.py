"""What can be corrected of an outcome, as it is and as a correction leaves it."""

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from app.models.outcome import Outcome, OutcomeAmend, OutcomeOrigin


class Content(NamedTuple):
    """What can be corrected of an outcome."""

    items: dict[str, int | None]
    collected_on: date | None
    rater: str | None
    totals: Mapping[str, float] | None
    """Of a historical one; beside items they are a check, and nothing is kept of them."""


def content(row: Outcome, stored: Sequence[Mapping[str, Any]]) -> Content:
    """As it is stored, with its scores."""
    totals = (
        {str(one["name"]): one["value"] for one in stored} if row.origin == OutcomeOrigin.historical_total else None
    )
    return Content(json.loads(row.items), row.collected_on, row.rater, totals)


def with_changes(was: Content, body: OutcomeAmend) -> Content:
    """As a correction leaves it: what it does not name stays."""
    return Content(
        items={**was.items, **(body.items or {})},
        collected_on=body.collected_on or was.collected_on,
        rater=body.rater if "rater" in body.model_fields_set else was.rater,
        totals=was.totals if body.totals is None else body.totals,
    )


def differing_fields(was: Content, after: Content) -> set[str]:
    """The fields of a correction that change something."""
    plain = {name for name in ("collected_on", "rater") if getattr(was, name) != getattr(after, name)}
    items = {f"items.{code}" for code, value in after.items.items() if was.items.get(code, ...) != value}
    if was.totals is None:
        return plain | items
    old, new = was.totals, after.totals or {}
    return plain | items | {f"totals.{name}" for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
