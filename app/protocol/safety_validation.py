"""Faults in what a protocol says of safety: its rules, its clocks, and who may rate."""

from collections.abc import Iterator

from app.protocol.base import ProtocolFault, repeated, similar, unknown
from app.protocol.clocks import Clock
from app.protocol.definition import Protocol
from app.protocol.instruments import Instrument, given_as, shipped
from app.protocol.rules import CountAtLeast, Flag, HighestYes, Maximum
from app.protocol.safety import Condition, ItemReached, SafetyRule, ScoreReached, VitalBeyond

TELLING = (CountAtLeast, Flag, HighestYes, Maximum)
"""The kinds of scores from which an answer can be derived."""


def safety_faults(protocol: Protocol) -> Iterator[ProtocolFault]:
    yield from similar("/safety/clocks/*/code", "clock", (clock.code for clock in protocol.safety.clocks))
    for position, clock in enumerate(protocol.safety.clocks):
        yield from _clock_faults(f"/safety/clocks/{position}", clock)
    yield from similar("/safety_rules/*/code", "rule", (rule.code for rule in protocol.safety_rules))
    for position, rule in enumerate(protocol.safety_rules):
        for place, condition in enumerate(rule.when):
            yield from _condition_faults(f"/safety_rules/{position}/when/{place}", rule, condition, protocol)
    yield from _history_faults(protocol)
    yield from _rater_faults(protocol)


def _history_faults(protocol: Protocol) -> Iterator[ProtocolFault]:
    """A historical outcome has scores only: a score that reveals a single item must raise the signal of that item
    too."""
    for place, code in enumerate(protocol.historical_totals):
        for rule in protocol.safety_rules:
            for score in sorted(_unread_scores(rule, code)):
                message = f"{rule.code} reads items of {code}, and a historical {score} reveals them without a signal"
                yield ProtocolFault(f"/historical_totals/{place}", "signal_unseen", message)


def _unread_scores(rule: SafetyRule, code: str) -> set[str]:
    """Scores of an instrument that reveal items which a rule reads, and that the rule does not read. A sum reveals
    none."""
    scale = shipped(code)
    if scale is None:
        return set()
    of_it = [one for one in rule.when if not isinstance(one, VitalBeyond) and code in given_as(one.instrument)]
    read = {one.score for one in of_it if isinstance(one, ScoreReached)}
    looked_at = {item for one in of_it if isinstance(one, ItemReached) for item in one.items}
    telling = {one.name for one in scale.scores if isinstance(one, TELLING) and looked_at.intersection(one.items)}
    return telling - read


def _clock_faults(path: str, clock: Clock) -> Iterator[ProtocolFault]:
    if (clock.hours is None) == (clock.calendar_days is None):
        message = f"{clock.code}: needs hours or calendar_days, not both"
        yield ProtocolFault(path, "unusable_clock", message)


def _condition_faults(path: str, rule: SafetyRule, condition: Condition, protocol: Protocol) -> Iterator[ProtocolFault]:
    if isinstance(condition, VitalBeyond):
        yield from _vital_faults(path, rule, condition, protocol)
        return
    scale = shipped(condition.instrument)
    if scale is None:
        message = f"{rule.code}: no instrument {condition.instrument} is shipped"
        yield ProtocolFault(f"{path}/instrument", "unknown_instrument", message)
    elif isinstance(condition, ItemReached):
        yield from _item_faults(path, rule, condition, scale)
    else:
        yield from _score_faults(path, rule, condition, scale)


def _item_faults(path: str, rule: SafetyRule, condition: ItemReached, scale: Instrument) -> Iterator[ProtocolFault]:
    yield from repeated(f"{path}/items/*", "item", condition.items)
    for place, code in enumerate(condition.items):
        item = scale.by_code.get(code)
        if item is None:
            message = f"{rule.code}: {scale.code} has no item {code}"
            yield ProtocolFault(f"{path}/items/{place}", "unknown_item", message)
        else:
            yield from _reach_faults(
                f"{path}/at_least", f"{rule.code}: {code}", condition.at_least, item.minimum, item.maximum
            )


def _score_faults(path: str, rule: SafetyRule, condition: ScoreReached, scale: Instrument) -> Iterator[ProtocolFault]:
    if condition.score not in {score.name for score in scale.scores}:
        message = f"{rule.code}: {scale.code} has no score {condition.score}"
        yield ProtocolFault(f"{path}/score", "unknown_score", message)
        return
    lowest, highest = scale.bounds(condition.score)
    yield from _reach_faults(f"{path}/at_least", f"{rule.code}: {condition.score}", condition.at_least, lowest, highest)


def _reach_faults(path: str, name: str, at_least: float, lowest: float, highest: float) -> Iterator[ProtocolFault]:
    if at_least > highest:
        yield ProtocolFault(path, "never_true", f"{name} ends at {highest:g}")
    if at_least <= lowest:
        yield ProtocolFault(path, "always_true", f"{name} starts at {lowest:g}")


def _vital_faults(path: str, rule: SafetyRule, condition: VitalBeyond, protocol: Protocol) -> Iterator[ProtocolFault]:
    yield from unknown(f"{path}/measure", "measure", [condition.measure], protocol.measures)
    if condition.above is None and condition.below is None:
        yield ProtocolFault(path, "never_true", f"{rule.code}: needs above, below, or both")
    measure = protocol.measures.get(condition.measure)
    if measure is None:
        return
    if condition.above is not None and condition.above >= measure.highest:
        message = f"{rule.code}: {measure.code} above {measure.highest:g} is refused by the hard limits"
        yield ProtocolFault(f"{path}/above", "never_true", message)
    if condition.below is not None and condition.below <= measure.lowest:
        message = f"{rule.code}: {measure.code} below {measure.lowest:g} is refused by the hard limits"
        yield ProtocolFault(f"{path}/below", "never_true", message)


def _rater_faults(protocol: Protocol) -> Iterator[ProtocolFault]:
    rule = protocol.rater_independence
    if rule is None:
        return
    asked = {code for visit in protocol.visits for code in visit.instruments}
    yield from repeated("/rater_independence/instruments/*", "instrument", rule.instruments)
    for place, code in enumerate(rule.instruments):
        if code not in asked:
            message = f"{rule.code}: no visit has the instrument {code}"
            yield ProtocolFault(f"/rater_independence/instruments/{place}", "instrument_never_asked", message)
