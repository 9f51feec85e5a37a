"""The tables of docs/instruments.md, out of the definition files."""

from app.protocol.instruments import Instrument, instruments
from app.protocol.rules import AllClusters, CountAtLeast, Flag, HighestYes, Item, Maximum, Mean, ScoreRule, Steps, Sum

INSTRUMENTS = ["code", "name", "items", "answers", "higher is", "licence", "source"]
ITEMS = ["instrument", "items"]
SCORES = ["instrument", "score", "rule", "range", "missing items", "bands", "source"]
HIGHER = {"higher_is_worse": "worse", "higher_is_better": "better", "neither": "neither"}


def instrument_rows() -> list[list[str]]:
    return [
        [
            f"`{one.key}`",
            one.title,
            str(len(one.items)),
            answers(one),
            HIGHER[one.direction],
            one.licence,
            one.source,
        ]
        for one in instruments().values()
    ]


def answers(scale: Instrument) -> str:
    """Ranges, the most frequent first: `0 to 4 (9), 0 to 2 (8)`."""
    ranges = [f"{item.minimum} to {item.maximum}" for item in scale.items]
    often = sorted(set(ranges), key=lambda one: (-ranges.count(one), ranges.index(one)))
    return often[0] if len(often) == 1 else ", ".join(f"{one} ({ranges.count(one)})" for one in often)


def item_rows() -> list[list[str]]:
    return [[f"`{one.key}`", "; ".join(item_shown(item) for item in one.items)] for one in instruments().values()]


def item_shown(item: Item) -> str:
    only = f", only after `{item.asked_if}`" if item.asked_if else ", may be empty" if item.optional else ""
    return f"`{item.code}` {item.label} ({item.minimum} to {item.maximum}{only})"


def score_rows() -> list[list[str]]:
    return [score_row(one, rule) for one in instruments().values() for rule in one.scores]


def score_row(scale: Instrument, rule: ScoreRule) -> list[str]:
    low, high = scale.bounds(rule.name)
    bands = "; ".join(f"{band.label}: {band.minimum} to {band.maximum}" for band in rule.bands)
    higher = f" (higher is {HIGHER[rule.direction]})" if rule.direction else ""
    return [
        f"`{scale.key}`",
        f"`{rule.name}`",
        f"{read(rule)}{higher}",
        f"{low} to {high}",
        missing(rule),
        bands,
        rule.source,
    ]


def read(rule: ScoreRule) -> str:
    """The rule in words, with what it reads."""
    if isinstance(rule, AllClusters):
        return "yes where " + ", ".join(f"`{one.score}` ≥ {one.at_least}" for one in rule.clusters)
    what = parts(rule.items, getattr(rule, "scores", ()))
    match rule:
        case Sum() | Mean():
            turned = f", {len(rule.reversed_items)} reversed" if rule.reversed_items else ""
            times = f", times {rule.multiplier}" if rule.multiplier > 1 else ""
            alone = len(rule.items) + len(rule.scores) == 1
            words = what if alone else f"{rule.rule} of {what}{turned}{times}"
        case Steps():
            cuts = ", ".join(str(cut) for cut in rule.cuts)
            whole = f" as per cent of `{rule.percent_of}`" if rule.percent_of else ""
            most = f", at most {rule.percent_at_most}" if rule.percent_at_most else ""
            words = f"how many of {cuts} {'lie above' if rule.falling else 'are reached by'} {what}{whole}{most}"
        case CountAtLeast():
            words = f"how many of {what} are at least {rule.threshold}"
        case _:
            words = {"maximum": "highest of", "highest_yes": "highest yes of", "flag": "any yes of"}[rule.rule]
            words = f"{words} {what}"
    return words


def parts(items: tuple[str, ...], scores: tuple[str, ...] = ()) -> str:
    counted = [f"{len(items)} items" if len(items) > 1 else f"`{items[0]}`"] if items else []
    return " and ".join([*counted, *([", ".join(f"`{name}`" for name in scores)] if scores else [])])


def missing(rule: ScoreRule) -> str:
    """What an empty item does."""
    if isinstance(rule, Sum | Mean) and rule.prorate_missing:
        return f"up to {rule.prorate_missing}: the mean of the others"
    if isinstance(rule, Maximum) and rule.needed:
        return f"{rule.needed} answered is enough"
    if isinstance(rule, HighestYes):
        return "only above the highest yes: no score"
    if isinstance(rule, Flag):
        return "no score, unless there is a yes"
    return "no score"
