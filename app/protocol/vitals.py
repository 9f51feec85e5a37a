"""Vital signs: hard limits (refused), warning limits (kept and flagged), and when a dosing session takes them."""

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from app.protocol.base import Code, Definition, Listed, SomeCodes, Text, Title
from app.protocol.clocks import instant

CountedFrom = Literal["initial_dose", "supplemental_dose", "session_end"]


class Measure(Definition):
    """A vital sign in one unit. Limits are inclusive: what equals a limit is still inside."""

    code: Code
    label: Title
    unit: Title
    lowest: float
    highest: float
    """A value outside `lowest` to `highest` is an error of the pen or the device, and is refused."""

    warn_below: float | None = None
    warn_above: float | None = None
    source: Text


class Pair(Definition):
    """Of one reading, `higher` must exceed `lower`."""

    higher: Code
    lower: Code
    source: Text


class Timepoint(Definition):
    code: Code
    label: Title
    counted_from: CountedFrom
    minutes: Annotated[int, Field(ge=-1_440, le=1_440)]
    """After that moment; negative before it."""

    measures: SomeCodes
    source: Text


class Vitals(Definition):
    measures: Annotated[tuple[Measure, ...], Listed, Field(min_length=1)]
    pairs: Annotated[tuple[Pair, ...], Listed] = ()
    timepoints: Annotated[tuple[Timepoint, ...], Listed] = ()


class VitalFinding(NamedTuple):
    """A fault or remark on one value. The message never repeats the value."""

    measure: str
    level: Literal["refuse", "warn"]
    code: Literal["unknown_measure", "outside_limits", "not_above", "above_warning", "below_warning"]
    message: str


class OpenVital(NamedTuple):
    """A timed measurement that the protocol requires and that is missing."""

    timepoint: str
    measure: str
    due_at: datetime


def vital_findings(vitals: Vitals, values: Mapping[str, float]) -> list[VitalFinding]:
    """All faults and remarks on a reading, by measure; a reading with one of level `refuse` must not be stored."""
    measures = {measure.code: measure for measure in vitals.measures}
    found = [finding for code, value in values.items() for finding in _of_value(measures.get(code), code, value)]
    for pair in vitals.pairs:
        if pair.higher in values and pair.lower in values and not values[pair.higher] > values[pair.lower]:
            found.append(VitalFinding(pair.higher, "refuse", "not_above", f"Must be above {pair.lower}"))
    return found


def misplaced(point: Timepoint, taken_at: datetime, moments: Mapping[CountedFrom, datetime]) -> str | None:
    """Why a reading cannot have been taken at this time point; None if it can. Protocols name no tolerance, so that
    minutes are not checked, only that it was on the right side of the dose. Raises ValueError for a moment without time
    zone."""
    given: dict[CountedFrom, datetime] = {name: instant(at) for name, at in moments.items() if name != "session_end"}
    taken = instant(taken_at)
    if point.counted_from == "session_end":
        return "Before a dose of the session" if any(taken < at for at in given.values()) else None
    dose = given.get(point.counted_from)
    if dose is None:
        return None
    if point.minutes < 0 and taken > dose:
        return "After the dose that it precedes"
    return "Before the dose that it follows" if point.minutes > 0 and taken < dose else None


def _of_value(measure: Measure | None, code: str, value: float) -> Iterator[VitalFinding]:
    if measure is None:
        yield VitalFinding(code, "refuse", "unknown_measure", "The protocol has no such measure")
    elif not measure.lowest <= value <= measure.highest:  # also what compares with nothing: not a number
        message = f"Must lie between {measure.lowest:g} and {measure.highest:g} {measure.unit}"
        yield VitalFinding(code, "refuse", "outside_limits", message)
    elif measure.warn_above is not None and value > measure.warn_above:
        yield VitalFinding(code, "warn", "above_warning", f"Above {measure.warn_above:g} {measure.unit}")
    elif measure.warn_below is not None and value < measure.warn_below:
        yield VitalFinding(code, "warn", "below_warning", f"Below {measure.warn_below:g} {measure.unit}")


def open_vitals(
    vitals: Vitals, moments: Mapping[CountedFrom, datetime], taken: Collection[tuple[str, str]]
) -> list[OpenVital]:
    """Timed vitals still missing, of time points whose moment is known; `taken`: (time point, measure).

    Without a supplemental dose its time points are not asked for. Raises ValueError for a moment without time zone.
    """
    return [
        OpenVital(point.code, measure, instant(moments[point.counted_from]) + timedelta(minutes=point.minutes))
        for point in vitals.timepoints
        if point.counted_from in moments
        for measure in point.measures
        if (point.code, measure) not in taken
    ]
