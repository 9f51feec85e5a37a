"""Scores of one administration of an instrument, computed by the server and never sent.

A missing item gives no value and a reason, never a silent sum, unless the file declares that the score is
prorated. Yes/no rules are decided by the answers that settle them: a yes on one behaviour is a yes whatever is
missing, since a blank must not silence a safety trigger (our decision; no source was found that says so).
"""

from collections.abc import Mapping, Sequence
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
    Steps,
    Sum,
    number,
)

RULES_VERSION = "1"
"""Changes when any rule computes differently, so that stored scores tell how they came about."""

Answers = Mapping[str, int | None]


class Score(NamedTuple):
    """One score. `reason` says why there is no value, or which items are missing in spite of it."""

    name: str
    value: Number | None
    band: str | None
    reason: str | None
    rule: str
    """Instrument and version, rule and version: `MADRS/1 sum/1`."""


class ItemsInvalid(ValueError):
    """The answers have faults and cannot be scored; call `item_faults` first."""

    def __init__(self, faults: list[ItemFault]) -> None:
        self.faults = faults
        super().__init__(f"{len(faults)} answers are not of this instrument or out of range")


class _Result(NamedTuple):
    value: Fraction | int | None
    reason: str | None = None


def score(instrument: Instrument, items: Answers) -> tuple[Score, ...]:
    """All scores that the instrument declares, in its order; an absent item is missing. Raises ItemsInvalid."""
    if faults := item_faults(instrument, items):
        raise ItemsInvalid(faults)
    answers = as_asked(instrument, items)
    results: dict[str, _Result] = {}
    for rule in instrument.scores:
        results[rule.name] = _result(rule, instrument.by_code, answers, results)
    return tuple(_score(instrument, rule, results[rule.name]) for rule in instrument.scores)


def done(instrument: Instrument, items: Answers) -> bool:
    """Whether a form was done: it has an answer, or, if its file names scores, these have a value."""
    if all(answer is None for answer in items.values()):
        return False
    if not instrument.done_by:
        return True
    return {one.name for one in score(instrument, items) if one.value is not None}.issuperset(instrument.done_by)


def whole(instrument: Instrument, items: Answers) -> bool:
    """Whether every question of a form was answered that may not be left out."""
    answers = as_asked(instrument, items)
    return all(item.optional or answers[item.code] is not None for item in instrument.items)


def as_asked(instrument: Instrument, items: Answers) -> dict[str, int | None]:
    """The answers of a form, with a no for each question that it skips after a no."""
    return {item.code: _answer(item, items) for item in instrument.items}


def _answer(item: Item, items: Answers) -> int | None:
    answer = items.get(item.code)
    skipped = answer is None and item.asked_if is not None and items.get(item.asked_if) == 0
    return 0 if skipped else answer


def _score(instrument: Instrument, rule: ScoreRule, result: _Result) -> Score:
    value = None if result.value is None else number(Fraction(result.value))
    made_by = f"{instrument.key} {rule.rule}/{RULES_VERSION}"
    return Score(rule.name, value, rule.band(result.value), result.reason, made_by)


def _result(rule: ScoreRule, items: Mapping[str, Item], answers: Answers, earlier: Mapping[str, _Result]) -> _Result:
    if isinstance(rule, AllClusters):
        return _all_clusters(rule, earlier)
    given = {code: answer for code in rule.items if (answer := answers[code]) is not None}
    if isinstance(rule, Sum | Mean | Maximum | Steps):
        return _combined(rule, items, answers, given, [earlier[name].value for name in rule.scores])
    missing = len(rule.items) - len(given)
    lacking = f"missing items: {missing}" if missing else None
    match rule:
        case HighestYes():
            return _highest_yes(rule, given, lacking)
        case Flag():
            return _Result(1 if any(given.values()) else None if missing else 0, lacking)
    return _Result(None if missing else sum(answer >= rule.threshold for answer in given.values()), lacking)


def _combined(
    rule: Sum | Mean | Maximum | Steps,
    items: Mapping[str, Item],
    answers: Answers,
    given: Mapping[str, int],
    scores: Sequence[Fraction | int | None],
) -> _Result:
    read = [value for value in scores if value is not None]
    if isinstance(rule, Maximum):
        return _maximum(rule, [*given.values(), *read])
    if len(read) < len(scores):
        return _Result(None, f"missing scores: {len(scores) - len(read)}")
    if isinstance(rule, Steps):
        whole = 100 if rule.percent_of is None else answers[rule.percent_of]
        return _steps(rule, given, sum(read), whole)
    return _additive(rule, items, given, sum(read))


def _additive(rule: Sum | Mean, items: Mapping[str, Item], given: Mapping[str, int], scores: Fraction | int) -> _Result:
    missing = len(rule.items) - len(given)
    if missing > rule.prorate_missing:
        return _Result(None, f"missing items: {missing}")
    turned = Fraction(sum(_turned(rule, items[code], answer) for code, answer in given.items()))
    total = rule.multiplier * (turned * Fraction(len(rule.items), len(given) or 1) + scores)
    value = total if isinstance(rule, Sum) else total / (len(rule.items) + len(rule.scores))
    return _Result(value, f"prorated, missing items: {missing}" if missing else None)


def _maximum(rule: Maximum, given: Sequence[Fraction | int]) -> _Result:
    """The highest answer. Only `needed` answers must be given, as the form asks for one item or another."""
    wanted = len(rule.items) + len(rule.scores)
    if len(given) < (rule.needed or wanted):
        return _Result(None, f"missing {'scores' if rule.scores else 'items'}: {wanted - len(given)}")
    return _Result(max(given))


def _steps(rule: Steps, given: Mapping[str, int], scores: Fraction | int, whole: int | None) -> _Result:
    missing = len(rule.items) - len(given) + (whole is None)
    if missing or whole is None:
        return _Result(None, f"missing items: {missing}")
    total = Fraction(sum(given.values()) + scores) * 100 / whole
    if rule.percent_at_most is not None and total > rule.percent_at_most:
        return _Result(None, f"above {rule.percent_at_most} per cent of {rule.percent_of}")
    reached = sum(total >= cut for cut in rule.cuts)
    return _Result(len(rule.cuts) - reached if rule.falling else reached)


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
