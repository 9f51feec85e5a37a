"""Safety rules: what in an outcome or a vital sign a clinician must look at, and by when. Declared, never coded.

Rules read answers directly: a yes raises its signal whatever else of the form is blank or cannot be scored.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal, NamedTuple
from zoneinfo import ZoneInfo

from pydantic import Field

from app.protocol.base import Code, Definition, Listed, SomeCodes, Text, Title
from app.protocol.clocks import end_of_day, instant, local_day
from app.protocol.instruments import given_as


class ItemReached(Definition):
    """True where any of the items is answered with at least this much; 1 is a yes."""

    kind: Literal["item"]
    instrument: Code
    items: SomeCodes
    at_least: int


class ScoreReached(Definition):
    kind: Literal["score"]
    instrument: Code
    score: Code
    at_least: float


class VitalBeyond(Definition):
    """True above `above` or below `below`; what equals a limit is inside it."""

    kind: Literal["vital"]
    measure: Code
    above: float | None = None
    below: float | None = None


Condition = Annotated[ItemReached | ScoreReached | VitalBeyond, Field(discriminator="kind")]


class SafetyRule(Definition):
    """One signal is raised if any of the conditions is true."""

    code: Code
    version: Code
    label: Title
    severity: Literal["low", "moderate", "high"]
    due_hours: Annotated[int, Field(ge=1, le=8_760)] | None = None
    """The hours within which a clinician of the site must review; None: before the site's calendar day is over."""

    holds_dosing: bool
    when: Annotated[tuple[Condition, ...], Listed, Field(min_length=1)]
    source: Text

    def due_at(self, raised_at: datetime, zone: ZoneInfo) -> datetime:
        """In UTC. Raises ValueError where `raised_at` has no time zone."""
        if self.due_hours is not None:
            return instant(raised_at) + timedelta(hours=self.due_hours)
        return end_of_day(local_day(raised_at, zone), zone)


class OutcomeSeen(NamedTuple):
    """One administration of an instrument, with the scores that the server computed."""

    instrument: str
    items: Mapping[str, int | None]
    scores: Mapping[str, float | None]


class VitalsSeen(NamedTuple):
    """One reading: values by measure."""

    values: Mapping[str, float]


class Signal(NamedTuple):
    """A rule that is true. `because` names the items, scores or measures, never their values."""

    rule: str
    version: str
    label: str
    severity: Literal["low", "moderate", "high"]
    holds_dosing: bool
    because: tuple[str, ...]


def evaluate(rules: Iterable[SafetyRule], seen: OutcomeSeen | VitalsSeen) -> list[Signal]:
    """One signal for each rule that is true for the outcome or reading, in the protocol's order."""
    signals = []
    for rule in rules:
        because = tuple(dict.fromkeys(code for condition in rule.when for code in _reached(condition, seen)))
        if because:
            signals.append(Signal(rule.code, rule.version, rule.label, rule.severity, rule.holds_dosing, because))
    return signals


def _reached(condition: Condition, seen: OutcomeSeen | VitalsSeen) -> list[str]:
    """The codes that make a condition true; none where it speaks of something else."""
    match condition, seen:
        case ItemReached(), OutcomeSeen() if seen.instrument in given_as(condition.instrument):
            return [code for code in condition.items if _at_least(seen.items.get(code), condition.at_least)]
        case ScoreReached(), OutcomeSeen() if seen.instrument in given_as(condition.instrument):
            return [condition.score] if _at_least(seen.scores.get(condition.score), condition.at_least) else []
        case VitalBeyond(), VitalsSeen():
            value = seen.values.get(condition.measure)
            return [condition.measure] if value is not None and _beyond(condition, value) else []
    return []


def _at_least(value: float | None, limit: float) -> bool:
    return value is not None and value >= limit


def _beyond(condition: VitalBeyond, value: float) -> bool:
    high = condition.above is not None and value > condition.above
    return high or (condition.below is not None and value < condition.below)
