"""Instruments: questionnaires and rating scales in one version each. Adding one is adding a file.

Files hold item codes, short labels, ranges and scoring rules; never the wording of a copyrighted scale.
"""

from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib.resources import files
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StringConstraints

from app.protocol.base import Listed, ProtocolFault, Text, Versioned, build, decode, read_folder, repeated
from app.protocol.rules import AllClusters, Flag, HighestYes, Item, Mean, Number, ScoreRule, Sum, bounds

FOLDER = files("app.protocol") / "definitions" / "instruments"


class UnknownInstrument(LookupError):
    """No instrument of this code, or not in this version, is shipped."""


class ItemFault(NamedTuple):
    """An answer that the instrument does not know. The message never repeats the answer."""

    item: str
    code: Literal["unknown_item", "out_of_range"]
    message: str


class Instrument(Versioned):
    version: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){0,3}$")]
    direction: Literal["higher_is_worse", "higher_is_better"]
    licence: Text
    cdisc: Text | None = None
    """What CDISC controlled terminology calls it, where that was checked."""

    items: Annotated[tuple[Item, ...], Listed, Field(min_length=1)]
    scores: Annotated[tuple[ScoreRule, ...], Listed] = ()

    @cached_property
    def by_code(self) -> Mapping[str, Item]:
        return {item.code: item for item in self.items}

    def bounds(self, score: str) -> tuple[Number, Number]:
        """The lowest and highest value of a score. Raises KeyError for a name that it does not have."""
        return bounds({rule.name: rule for rule in self.scores}[score], self.by_code)


@cache
def instruments() -> Mapping[str, Instrument]:
    """All shipped instruments under `code/version`."""
    return read_folder(FOLDER, load_instrument)


def instrument(code: str, version: str | None = None) -> Instrument:
    """One shipped instrument, without a version the newest. Raises UnknownInstrument."""
    versions = [one for one in instruments().values() if one.code == code and version in (None, one.version)]
    if not versions:
        raise UnknownInstrument("No such instrument")
    return max(versions, key=lambda one: [int(part) for part in one.version.split(".")])


def item_faults(instrument: Instrument, items: Mapping[str, int | None]) -> list[ItemFault]:
    """What is wrong with the answers, in the order sent. A missing item is no fault: its scores say so."""
    return [fault for code, answer in items.items() if (fault := _item_fault(instrument, code, answer))]


def _item_fault(instrument: Instrument, code: str, answer: int | None) -> ItemFault | None:
    item = instrument.by_code.get(code)
    if item is None:
        return ItemFault(code, "unknown_item", f"{instrument.code} version {instrument.version} has no such item")
    if answer is not None and not item.minimum <= answer <= item.maximum:
        return ItemFault(code, "out_of_range", f"Must lie between {item.minimum} and {item.maximum}")
    return None


def load_instrument(text: str) -> Instrument:
    """Read a definition file (TOML). Raises ProtocolInvalid with every fault."""
    return parse_instrument(decode(text, "toml"))


def parse_instrument(data: Mapping[str, Any]) -> Instrument:
    """Make an instrument out of plain data. Raises ProtocolInvalid with every fault."""
    return build(Instrument, data, _faults)


def _faults(instrument: Instrument) -> Iterator[ProtocolFault]:
    yield from repeated("/items/*/code", "item", (item.code for item in instrument.items))
    yield from repeated("/scores/*/name", "score", (rule.name for rule in instrument.scores))
    for position, item in enumerate(instrument.items):
        yield from _range_faults(f"/items/{position}", item, instrument.by_code)
    for position, rule in enumerate(instrument.scores):
        path, earlier = f"/scores/{position}", {one.name for one in instrument.scores[:position]}
        reading = list(_reading_faults(path, rule, instrument.by_code, earlier))
        yield from reading or _band_faults(f"{path}/bands", rule, bounds(rule, instrument.by_code))


def _range_faults(path: str, item: Item, items: Mapping[str, Item]) -> Iterator[ProtocolFault]:
    if item.minimum >= item.maximum:
        yield ProtocolFault(f"{path}/minimum", "empty_range", f"{item.code}: minimum must lie below maximum")
    if item.asked_if is not None:
        gate = items.get(item.asked_if)
        if gate is None or gate is item or not (gate.yes_no and item.yes_no):
            message = f"{item.code}: asked_if needs two different items that are both 0 (no) or 1 (yes)"
            yield ProtocolFault(f"{path}/asked_if", "unusable_condition", message)


def _reading_faults(
    path: str, rule: ScoreRule, items: Mapping[str, Item], earlier: set[str]
) -> Iterator[ProtocolFault]:
    """What a score reads must be there, once, and of the kind that its rule can read."""
    if isinstance(rule, AllClusters):
        for place, cluster in enumerate(rule.clusters):
            if cluster.score not in earlier:
                message = f"{rule.name}: no score {cluster.score} is declared before it"
                yield ProtocolFault(f"{path}/clusters/{place}/score", "unknown_score", message)
        return
    yield from repeated(f"{path}/items/*", "item", rule.items)
    for place, code in enumerate(rule.items):
        if code not in items:
            yield ProtocolFault(f"{path}/items/{place}", "unknown_item", f"{rule.name}: {code} is no item")
        elif isinstance(rule, HighestYes | Flag) and not items[code].yes_no:
            message = f"{rule.name}: {code} is not 0 (no) or 1 (yes)"
            yield ProtocolFault(f"{path}/items/{place}", "not_yes_no", message)
    if isinstance(rule, Sum | Mean):
        for place, code in enumerate(rule.reversed_items):
            if code not in rule.items:
                message = f"{rule.name}: {code} is reversed but not an item of the score"
                yield ProtocolFault(f"{path}/reversed_items/{place}", "unknown_item", message)
        if rule.prorate_missing >= len(rule.items):
            message = f"{rule.name}: at least one item must be answered"
            yield ProtocolFault(f"{path}/prorate_missing", "nothing_to_prorate", message)


def _band_faults(path: str, rule: ScoreRule, reach: tuple[Number, Number]) -> Iterator[ProtocolFault]:
    """Bands in ascending order must cover the score's range, each value once."""
    expected, highest = reach
    for place, band in enumerate(rule.bands):
        code = "band_gap" if band.minimum > expected else "band_overlap"
        if band.minimum != expected:
            message = f"{rule.name}: {band.label} starts at {band.minimum}, expected {expected}"
            yield ProtocolFault(f"{path}/{place}/minimum", code, message)
        if band.maximum < band.minimum:
            message = f"{rule.name}: {band.label} ends before it starts"
            yield ProtocolFault(f"{path}/{place}/maximum", "empty_range", message)
        expected = band.maximum + 1
    if rule.bands and expected != highest + 1:
        code = "band_gap" if expected <= highest else "band_overlap"
        message = f"{rule.name}: the bands end at {expected - 1}, the score at {highest}"
        yield ProtocolFault(path, code, message)
