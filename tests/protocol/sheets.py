"""Answer sheets for the tests of the scales."""

from app.protocol.instruments import Instrument, instrument
from app.protocol.scoring import Score, score

Sheet = dict[str, int | None]


def lowest(scale: Instrument) -> Sheet:
    return {item.code: item.minimum for item in scale.items}


def highest(scale: Instrument) -> Sheet:
    return {item.code: item.maximum for item in scale.items}


def scored(code: str, sheet: Sheet) -> dict[str, Score]:
    return {one.name: one for one in score(instrument(code), sheet)}


def values(code: str, sheet: Sheet) -> dict[str, float | None]:
    return {name: one.value for name, one in scored(code, sheet).items()}


def filled(code: str, total: int, items: list[str] | None = None) -> Sheet:
    """The lowest sheet, with `items` (None: all, in order) raised by `total` points, each as full as can be first."""
    scale = instrument(code)
    sheet = lowest(scale)
    for item in items or list(sheet):
        room = scale.by_code[item].maximum - scale.by_code[item].minimum
        sheet[item] = scale.by_code[item].minimum + min(total, room)
        total -= min(total, room)
    assert total == 0
    return sheet
