"""What is derived at read time from two stored scores of a participant: never stored, so it cannot disagree."""

from typing import NamedTuple

from app.protocol.definition import Threshold
from app.protocol.rules import Number, ScoreRule


class Derived(NamedTuple):
    """Values are None if they cannot be determined: a score has no value, or the protocol no threshold."""

    change: Number | None
    """Value minus baseline: negative where the score fell."""

    response: bool | None
    remission: bool | None
    band: str | None


def change(baseline: Number | None, value: Number | None) -> Number | None:
    """None unless there are both."""
    return None if baseline is None or value is None else value - baseline


def derived(rule: ScoreRule, threshold: Threshold | None, baseline: Number | None, value: Number | None) -> Derived:
    """A score against its baseline. `threshold` is the protocol version's own for this score, if it has one."""
    return Derived(
        change=change(baseline, value),
        response=threshold.response(baseline, value) if threshold else None,
        remission=threshold.remission(value) if threshold else None,
        band=(threshold if threshold and threshold.bands else rule).band(value),
    )
