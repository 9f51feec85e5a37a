"""Instruments: questionnaires and rating scales in one version each. Adding one is adding a file.

Files hold item codes, short labels, ranges and scoring rules; never the wording of a copyrighted scale.
"""

from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib.resources import files
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, StringConstraints

from app.protocol.base import (
    Code,
    Codes,
    Listed,
    ProtocolFault,
    ProtocolInvalid,
    Text,
    Versioned,
    build,
    decode,
    read_folder,
    repeated,
)
from app.protocol.rules import (
    AllClusters,
    Bounds,
    Direction,
    Flag,
    HighestYes,
    Item,
    Maximum,
    Mean,
    ScoreRule,
    Steps,
    Sum,
    bounds,
)

FOLDER = files("app.protocol") / "definitions" / "instruments"


class UnknownInstrument(LookupError):
    """No instrument of this code, or not in this version, is shipped."""


class ItemFault(NamedTuple):
    """An answer that the instrument does not have. The message never repeats the answer."""

    item: str
    code: Literal["unknown_item", "out_of_range"]
    message: str


class Instrument(Versioned):
    version: Annotated[str, StringConstraints(pattern=r"^[0-9]{1,4}(\.[0-9]{1,4}){0,3}$")]
    direction: Direction
    licence: Text
    cdisc: Text | None = None
    """Its name in CDISC controlled terminology, if that was checked."""

    form_of: Code | None = None
    """The instrument of which this is a second administration at the same visit."""

    items: Annotated[tuple[Item, ...], Listed, Field(min_length=1)]
    scores: Annotated[tuple[ScoreRule, ...], Listed] = ()
    done_by: Codes = ()
    """The scores that must have a value for the form to count as done. None: any answer is enough."""

    @cached_property
    def by_code(self) -> Mapping[str, Item]:
        return {item.code: item for item in self.items}

    def rule(self, score: str) -> ScoreRule:
        """The rule of a score. Raises KeyError for a name that it does not have."""
        return {rule.name: rule for rule in self.scores}[score]

    def direction_of(self, score: str) -> Direction:
        """What a higher value of a score means. Raises KeyError for a name that it does not have."""
        return self.rule(score).direction or self.direction

    def bounds(self, score: str) -> Bounds:
        """The lowest and highest value of a score. Raises KeyError for a name that it does not have."""
        return self._bounds[score]

    @cached_property
    def _bounds(self) -> Mapping[str, Bounds]:
        found: dict[str, Bounds] = {}
        for rule in self.scores:
            found[rule.name] = bounds(rule, self.by_code, found)
        return found


@cache
def instruments() -> Mapping[str, Instrument]:
    """All shipped instruments under `code/version`."""
    return read_folder(FOLDER, load_instrument)


@cache
def given_as(code: str) -> frozenset[str]:
    """An instrument and its second administrations: a protocol's rule about the one applies to all."""
    return frozenset({code, *(one.code for one in instruments().values() if one.form_of == code)})


def instrument(code: str, version: str | None = None) -> Instrument:
    """One shipped instrument, without a version the newest. Raises UnknownInstrument."""
    versions = [one for one in instruments().values() if one.code == code and version in (None, one.version)]
    if not versions:
        raise UnknownInstrument("No such instrument")
    return max(versions, key=lambda one: [int(part) for part in one.version.split(".")])


def shipped(code: str) -> Instrument | None:
    """The newest version of an instrument; None where there is none of this code."""
    try:
        return instrument(code)
    except UnknownInstrument:
        return None


def item_faults(instrument: Instrument, items: Mapping[str, int | None]) -> list[ItemFault]:
    """The faults of the answers, in the order sent. A missing item is no fault; its scores have a reason."""
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
    data = decode(text, "toml")
    return parse_instrument(_of_form(data) if "form_of" in data else data)


_OF_A_FORM = ("items", "scores", "done_by")


def _of_form(data: Mapping[str, Any]) -> dict[str, Any]:
    """A file that names another form, as `CODE/VERSION`, has the items and scores of that one."""
    if own := [name for name in _OF_A_FORM if name in data]:
        raise ProtocolInvalid(ProtocolFault(f"/{name}", "of_its_form", "The form has them") for name in own)
    file = FOLDER / f"{str(data['form_of']).lower().replace('_', '-').replace('/', '-')}.toml"
    if not file.is_file():
        raise ProtocolInvalid([ProtocolFault("/form_of", "unknown_instrument", "No such CODE/VERSION is shipped")])
    form = decode(file.read_text("utf-8"), "toml")
    taken: dict[str, Any] = {name: form[name] for name in _OF_A_FORM if name in form}
    return {**data, **taken, "form_of": form["code"]}


def parse_instrument(data: Mapping[str, Any]) -> Instrument:
    """Make an instrument out of plain data. Raises ProtocolInvalid with every fault."""
    return build(Instrument, data, _faults)


def _faults(instrument: Instrument) -> Iterator[ProtocolFault]:
    yield from repeated("/items/*/code", "item", (item.code for item in instrument.items))
    yield from repeated("/scores/*/name", "score", (rule.name for rule in instrument.scores))
    for place, name in enumerate(instrument.done_by):
        if name not in {rule.name for rule in instrument.scores}:
            yield ProtocolFault(f"/done_by/{place}", "unknown_score", f"{name} is no score")
    for position, item in enumerate(instrument.items):
        yield from _range_faults(f"/items/{position}", item, instrument.by_code)
    earlier: dict[str, Bounds] = {}
    for position, rule in enumerate(instrument.scores):
        path = f"/scores/{position}"
        if reading := list(_reading_faults(path, rule, instrument.by_code, earlier)):
            yield from reading
            continue
        earlier[rule.name] = bounds(rule, instrument.by_code, earlier)
        yield from _band_faults(f"{path}/bands", rule, earlier[rule.name])


def _range_faults(path: str, item: Item, items: Mapping[str, Item]) -> Iterator[ProtocolFault]:
    if item.minimum >= item.maximum:
        yield ProtocolFault(f"{path}/minimum", "empty_range", f"{item.code}: minimum must lie below maximum")
    if item.asked_if is not None:
        gate = items.get(item.asked_if)
        if gate is None or gate is item or not (gate.yes_no and item.yes_no):
            message = f"{item.code}: asked_if needs two different items that are both 0 (no) or 1 (yes)"
            yield ProtocolFault(f"{path}/asked_if", "unusable_condition", message)


def _reading_faults(
    path: str, rule: ScoreRule, items: Mapping[str, Item], earlier: Mapping[str, Bounds]
) -> Iterator[ProtocolFault]:
    """Faults of scores: what a score reads must exist, be named once, and be of a kind that its rule can read."""
    for where, name in _scores_read(rule):
        if name not in earlier:
            message = f"{rule.name}: no usable score {name} is declared before it"
            yield ProtocolFault(f"{path}/{where}", "unknown_score", message)
    if isinstance(rule, AllClusters):
        return
    yield from repeated(f"{path}/items/*", "item", rule.items)
    for place, code in enumerate(rule.items):
        if code not in items:
            yield ProtocolFault(f"{path}/items/{place}", "unknown_item", f"{rule.name}: {code} is no item")
        elif isinstance(rule, HighestYes | Flag) and not items[code].yes_no:
            message = f"{rule.name}: {code} is not 0 (no) or 1 (yes)"
            yield ProtocolFault(f"{path}/items/{place}", "not_yes_no", message)
    if isinstance(rule, Sum | Mean | Maximum | Steps):
        yield from _combining_faults(path, rule, items)


def _scores_read(rule: ScoreRule) -> list[tuple[str, str]]:
    """The earlier scores that a rule reads, each with its place in the rule."""
    if isinstance(rule, AllClusters):
        return [(f"clusters/{place}/score", cluster.score) for place, cluster in enumerate(rule.clusters)]
    if isinstance(rule, Sum | Mean | Maximum | Steps):
        return [(f"scores/{place}", name) for place, name in enumerate(rule.scores)]
    return []


def _combining_faults(
    path: str, rule: Sum | Mean | Maximum | Steps, items: Mapping[str, Item]
) -> Iterator[ProtocolFault]:
    yield from repeated(f"{path}/scores/*", "score", rule.scores)
    read = len(rule.items) + len(rule.scores)
    if not read:
        yield ProtocolFault(path, "nothing_read", f"{rule.name}: needs items or scores to read")
    if isinstance(rule, Sum | Mean):
        for place, code in enumerate(rule.reversed_items):
            if code not in rule.items:
                message = f"{rule.name}: {code} is reversed but not an item of the score"
                yield ProtocolFault(f"{path}/reversed_items/{place}", "unknown_item", message)
        if rule.prorate_missing and rule.prorate_missing >= len(rule.items):
            message = f"{rule.name}: at least one item must be answered"
            yield ProtocolFault(f"{path}/prorate_missing", "nothing_to_prorate", message)
    if isinstance(rule, Maximum) and (rule.needed or 1) > read:
        message = f"{rule.name}: more answers are needed than there are items"
        yield ProtocolFault(f"{path}/needed", "too_many_needed", message)
    if isinstance(rule, Steps):
        if list(rule.cuts) != sorted(set(rule.cuts)):
            yield ProtocolFault(f"{path}/cuts", "cuts_not_ascending", f"{rule.name}: cuts must ascend")
        if rule.percent_of is not None and (rule.percent_of not in items or items[rule.percent_of].minimum < 1):
            message = f"{rule.name}: percent_of needs an item that is always above 0"
            yield ProtocolFault(f"{path}/percent_of", "unusable_whole", message)
        if rule.percent_at_most is not None and rule.percent_of is None:
            message = f"{rule.name}: percent_at_most needs percent_of"
            yield ProtocolFault(f"{path}/percent_at_most", "unusable_whole", message)


def _band_faults(path: str, rule: ScoreRule, reach: Bounds) -> Iterator[ProtocolFault]:
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
