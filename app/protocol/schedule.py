"""Reading protocols, and what their schedules say of days: windows, deviations, study days."""

from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any, Literal, NamedTuple

from app.protocol.base import ProtocolInvalid, build, decode, endless, read_folder
from app.protocol.definition import Protocol, VisitDefinition
from app.protocol.validation import protocol_faults

FOLDER = files("app.protocol") / "definitions" / "protocols"


def parse_protocol(data: Mapping[str, Any]) -> Protocol:
    """Make a protocol out of plain data, as JSON or TOML gives it. Raises ProtocolInvalid, with all faults."""
    if faults := list(endless(data)):
        raise ProtocolInvalid(faults)
    return build(Protocol, data, protocol_faults)


def stored_protocol(data: Mapping[str, Any]) -> Protocol:
    """A protocol that was accepted before, perhaps under older rules: only its shape is checked. Raises
    ProtocolInvalid."""
    return build(Protocol, data, lambda _: ())


def load_protocol(text: str, suffix: Literal["toml", "json"]) -> Protocol:
    """Read a protocol file. Raises ProtocolInvalid with every fault."""
    return parse_protocol(decode(text, suffix))


@cache
def shipped_protocols() -> Mapping[str, Protocol]:
    """The protocols that come with the registry, under `code/version`."""
    return read_folder(FOLDER, lambda text: load_protocol(text, "toml"))


class Window(NamedTuple):
    """The days on which a visit is as planned, both ends included."""

    planned: date
    start: date
    end: date

    def deviation_days(self, on: date) -> int:
        """Days outside the window: negative early, 0 inside, positive late."""
        return min((on - self.start).days, 0) + max((on - self.end).days, 0)


Held = Mapping[tuple[str, int], date]
"""The days of visits that took place, by visit code and occurrence."""


def window_of(
    protocol: Protocol, visit: VisitDefinition, held: Held, occurrence: int = 1, on: date | None = None
) -> Window | None:
    """The window of an occurrence of a visit, which took place `on` this day or is planned. None if the visit has no
    anchor but itself, if its anchor has not taken place, or if it belongs to a failed screening. Days outside the
    calendar (years 1 to 9999) become its first or last day."""
    if not visit.has_window or of_failed_screening(visit, held, occurrence):
        return None
    anchor = day_beside(protocol, visit, visit.anchor, held, occurrence, on)
    if anchor is None:
        return None
    within = (occurrence - 1) % visit.repeats if visit.screens_again(occurrence) else occurrence - 1
    later = within * (visit.repeat_every_days or 0)
    planned = anchor.toordinal() + visit.offset_days + later
    return Window(_day(planned), _day(planned - visit.window_before), _day(planned + visit.window_after))


def day_beside(
    protocol: Protocol, visit: VisitDefinition, other: str | None, held: Held, occurrence: int, on: date | None
) -> date | None:
    """The day of the `other` visit that counts for this occurrence, which took place `on` this day or is planned. Each
    screening has visits of its own (domain.md, section 6), so of these it is the first one of the same screening: for a
    screening visit, of the one to which its occurrence belongs; for any other, of the last one that had such a visit by
    its day. Without it, the nearest one before counts, else the first; but what comes after a visit of a further
    screening, and was held before it, belongs to the one that failed. None: the other has not taken place."""
    each = protocol.by_screening(other)
    if not each:
        return held.get((other or "", 1))
    firsts = sorted((number, day) for (code, number), day in held.items() if code == other and (number - 1) % each == 0)
    screening = (occurrence - 1) // max(visit.repeats, 1)
    if on is not None and visit.screens_again(occurrence) and other in protocol.after(visit.code):
        firsts = [(number, day) for number, day in firsts if day >= on or (number - 1) // each >= screening]
    if visit.numbered_by_screening:
        until = [day for number, day in firsts if (number - 1) // each <= screening]
    else:
        until = [day for _, day in firsts if on is None or day <= on]
    return until[-1] if until else next((day for _, day in firsts), None)


def of_failed_screening(visit: VisitDefinition, held: Held, occurrence: int) -> bool:
    """Whether the same visit was held again for the next screening. The days of a schedule count from the
    screening that led to the enrolment (domain.md, section 1a)."""
    following = occurrence + visit.repeats
    return visit.screens_again(following) and (visit.code, following) in held


def study_day(anchor: date, on: date) -> int:
    """The anchor is day 1 and the day before it day -1; there is no day 0 (CDISC SDTMIG 3.4, section 4.4.4)."""
    days = (on - anchor).days
    return days + 1 if days >= 0 else days


def _day(ordinal: int) -> date:
    return date.fromordinal(min(max(ordinal, date.min.toordinal()), date.max.toordinal()))
