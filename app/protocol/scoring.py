"""Scores of one administration of an instrument, computed by the server and never sent.

A missing item gives no value and a reason, never a silent sum, unless the file declares that the score is
prorated. Yes/no rules are decided by the answers that settle them: a yes on one behaviour is a yes whatever is
missing, since a blank must not silence a safety trigger (our decision; no source was found that says so).
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

from app.protocol.instruments import Instrument, ItemFault, item_faults
from app.protocol.rules import (
    AllClusters,
    Flag,
    HighestYes,
    Item,
    Maximum,
    Mean,
    Number,
    ScoreRule,
    Sum,
)
from app.protocol.rules import number as whole_or_float

RULES_VERSION = "1"
"""Changes when any rule computes differently, so that stored scores tell how they came about."""

Answers = Mapping[str, int | None]


class Score(NamedTuple):
    """One score. `reason` says why there is no value, or what is missing behind the one there is."""

    name: str
    value: Number | None
    band: str | None
    reason: str | None
    rule: str
    """Instrument and version, rule and version: `MADRS/1 sum/1`."""


class ItemsInvalid(ValueError):
    """Answers that the instrument does not know cannot be scored; ask `item_faults` first."""

    def __init__(self, faults: list[ItemFault]) -> None:
        self.faults = faults
        super().__init__(f"{len(faults)} answers are not of this instrument or out of range")


class _Result(NamedTuple):
    value: Number | None
    reason: str | None = None


def score(instrument: Instrument, items: Answers) -> tuple[Score, ...]:
    """All scores that the instrument declares, in its order; an absent item is missing. Raises ItemsInvalid."""
    if faults := item_faults(instrument, items):
        raise ItemsInvalid(faults)
    answers = {item.code: _answer(item, items) for item in instrument.items}
    results: dict[str, _Result] = {}
    for rule in instrument.scores:
        results[rule.name] = _result(rule, instrument.by_code, answers, results)
    return tuple(_score(instrument, rule, results[rule.name]) for rule in instrument.scores)


def _answer(item: Item, items: Answers) -> int | None:
    given = items.get(item.code)
    skipped = given is None and item.asked_if is not None and items.get(item.asked_if) == 0
    return 0 if skipped else given


def _score(instrument: Instrument, rule: ScoreRule, result: _Result) -> Score:
    value = result.value
    reached = [band.label for band in rule.bands if value is not None and band.minimum <= value]
    band = reached[-1] if reached else None
    return Score(rule.name, value, band, result.reason, f"{instrument.key} {rule.rule}/{RULES_VERSION}")


def _result(rule: ScoreRule, items: Mapping[str, Item], answers: Answers, earlier: Mapping[str, _Result]) -> _Result:
    if isinstance(rule, AllClusters):
        return _all_clusters(rule, earlier)
    given = {code: answer for code in rule.items if (answer := answers[code]) is not None}
    missing = len(rule.items) - len(given)
    lacking = f"missing items: {missing}" if missing else None
    value: Number | None
    match rule:
        case Sum() | Mean():
            return _additive(rule, items, given)
        case HighestYes():
            return _highest_yes(rule, given, lacking)
        case Flag():
            value = 1 if any(given.values()) else None if missing else 0
        case Maximum():
            value = None if missing else max(given.values())
        case _:
            value = None if missing else sum(answer >= rule.threshold for answer in given.values())
    return _Result(value, lacking)


def _additive(rule: Sum | Mean, items: Mapping[str, Item], given: Mapping[str, int]) -> _Result:
    missing = len(rule.items) - len(given)
    if missing > rule.prorate_missing:
        return _Result(None, f"missing items: {missing}")
    total = sum(_turned(rule, items[code], answer) for code, answer in given.items())
    mean = Fraction(total * rule.multiplier, len(given))
    value = mean * len(rule.items) if isinstance(rule, Sum) else mean
    return _Result(whole_or_float(value), f"prorated, missing items: {missing}" if missing else None)


def _turned(rule: Sum | Mean, item: Item, answer: int) -> int:
    return item.minimum + item.maximum - answer if item.code in rule.reversed_items else answer


def _highest_yes(rule: HighestYes, given: Mapping[str, int], lacking: str | None) -> _Result:
    """A missing item matters only above the highest yes: what lies below cannot change the level."""
    highest = max((level for level, code in enumerate(rule.items, 1) if given.get(code)), default=0)
    if all(code in given for code in rule.items[highest:]):
        return _Result(highest, lacking)
    return _Result(None, f"{lacking}; at least level {highest}" if highest else lacking)


def _all_clusters(rule: AllClusters, earlier: Mapping[str, _Result]) -> _Result:
    counts = [(earlier[cluster.score].value, cluster.at_least) for cluster in rule.clusters]
    missing = sum(count is None for count, _ in counts)
    if missing:
        return _Result(None, f"missing scores: {missing}")
    return _Result(int(all(count is not None and count >= at_least for count, at_least in counts)))
