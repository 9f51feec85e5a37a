"""A participant's schedule: every planned visit with its window, if the anchor is known, and its state on a day.

Days are calendar dates of the site (`clocks.local_day`), so that changes of the clock shift nothing. Everything is
derived from the recorded visits: if the date of an anchor is corrected, the windows counted from it move.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import date
from enum import StrEnum
from itertools import islice
from typing import Literal, NamedTuple

from app.protocol.definition import Protocol, VisitDefinition, VisitKind
from app.protocol.schedule import Held, Window, day_beside, window_of

HELD = ("completed", "partially_done")
"""Statuses of visits that took place, and so have a date."""


class VisitState(StrEnum):
    done = "done"
    missed = "missed"
    due = "due"
    """Today lies in its window."""

    overdue = "overdue"
    """Its window is over, or the visit that it must precede has taken place."""

    upcoming = "upcoming"
    """Its window opens later, or it has none and may take place on any day."""

    waiting = "waiting"
    """Its window is not known until its anchor has taken place."""

    not_applicable = "not_applicable"
    """Recorded so; or optional and passed; or it cannot or need not take place any more."""


class Recorded(NamedTuple):
    """A recorded visit. `on` is the day on which it took place; `instruments` are those that were answered."""

    visit: str
    occurrence: int
    status: Literal["completed", "partially_done", "missed", "not_applicable"]
    on: date | None = None
    instruments: frozenset[str] = frozenset()


class PlannedVisit(NamedTuple):
    visit: str
    occurrence: int
    name: str | None
    """None for a visit that this protocol version does not have."""

    optional: bool
    state: VisitState
    on: date | None
    window: Window | None
    waits_for: str | None
    """The anchor, where the window waits for it."""

    deviation_days: int | None
    """Days outside the window: negative early, 0 inside, positive late; of an overdue visit those until today."""

    closes: date | None
    """The last day on which it is as planned, if that is known."""

    missing: tuple[str, ...]
    """Instruments still to be administered, where the visit took place, is due or is overdue."""


class RecordedTwice(ValueError):
    """The same occurrence of a visit was given more than once."""


def plan(
    protocol: Protocol,
    recorded: Iterable[Recorded],
    today: date,
    left_on: date | None = None,
    scopes: Collection[str] | None = None,
    withdrawn: Mapping[str, date] = {},
    screening: int = 1,
    began: date | None = None,
    *,
    open_only: bool = False,
) -> list[PlannedVisit]:
    """The schedule in the protocol's order, then visits recorded under codes that it does not have; `open_only`: of the
    schedule those of which nothing is recorded, which are all that can be due.

    `left_on`: the day on which the participant left the study. `scopes`: consent scopes in force; None: not considered.
    `withdrawn`: what was withdrawn, and from which day on: `collection` ends the course, `dosing` the doses.
    `screening`: the number of the last one, which `began` on this day. Raises RecordedTwice.
    """
    course = _Course(protocol, recorded, today, left_on, scopes, withdrawn, screening, began)
    planned = [
        course.planned(visit, number)
        for visit in protocol.visits
        for number in course.occurrences(visit)
        if not (open_only and (visit.code, number) in course.records)
    ]
    if open_only:
        return planned
    others = (key for key in sorted(course.records) if protocol.planned(key[0]) is None)
    return planned + [_unplanned(course.records[key]) for key in others]


def _unplanned(record: Recorded) -> PlannedVisit:
    state = _RECORDED_STATES[record.status]
    return PlannedVisit(record.visit, record.occurrence, None, True, state, record.on, None, None, None, None, ())


_RECORDED_STATES = {
    "completed": VisitState.done,
    "partially_done": VisitState.done,
    "missed": VisitState.missed,
    "not_applicable": VisitState.not_applicable,
}


class _Course:
    """The recorded visits of one participant, compared with the protocol on one day."""

    def __init__(
        self,
        protocol: Protocol,
        recorded: Iterable[Recorded],
        today: date,
        left_on: date | None,
        scopes: Collection[str] | None,
        withdrawn: Mapping[str, date],
        screening: int,
        began: date | None,
    ) -> None:
        self.protocol = protocol
        self.today, self.scopes, self.undosed_from = today, scopes, withdrawn.get("dosing")
        self.left_on = _earliest(left_on, withdrawn.get("collection"))
        self.records: dict[tuple[str, int], Recorded] = {}
        self.by_code: dict[str, list[Recorded]] = defaultdict(list)
        for one in recorded:
            if (one.visit, one.occurrence) in self.records:
                raise RecordedTwice(one.visit)
            self.records[one.visit, one.occurrence] = one
            self.by_code[one.visit].append(one)
        self.held = {key: one.on for key, one in self.records.items() if one.status in HELD and one.on}
        self.screening, self.began = screening, began
        unseen = {code for code, _ in self.held if not self._seen(code)}
        self.current = {key: day for key, day in self.held.items() if key[0] not in unseen}
        kind = VisitKind.early_termination
        early_ends = (one for one in protocol.visits if one.kind is kind and one.code in self.by_code)
        self.ended_on = _earliest(*(day_beside(protocol, one, one.code, self.current, 1, None) for one in early_ends))

    def occurrences(self, visit: VisitDefinition) -> list[int]:
        """Those recorded, and the others that are planned: of what each screening has of its own, those of the last
        screening, under the numbers after those of the screenings that failed."""
        recorded = {one.occurrence: self._of_last_screening(one) for one in self.by_code.get(visit.code, ())}
        if not recorded:
            return list(range(1, visit.repeats + 1))
        first = 1 if all(recorded.values()) else self._first(visit.code)
        planned = (number for number in range(first, first + visit.repeats) if number not in recorded)
        return sorted({*recorded, *islice(planned, max(visit.repeats - sum(recorded.values()), 0))})

    def planned(self, visit: VisitDefinition, occurrence: int) -> PlannedVisit:
        record = self.records.get((visit.code, occurrence))
        on = record.on if record else None
        window = window_of(self.protocol, visit, self._beside_which(on), occurrence, on)
        state = _RECORDED_STATES[record.status] if record else self._open_state(visit, occurrence, window)
        deviation = window.deviation_days(on) if window and on else None
        closes = self._closes(visit, occurrence, window, on)
        if state is VisitState.overdue and closes:
            deviation = (self.today - closes).days
        return PlannedVisit(
            visit=visit.code,
            occurrence=occurrence,
            name=visit.name,
            optional=visit.optional,
            state=state,
            on=on,
            window=window,
            waits_for=visit.anchor if visit.has_window and self._beside(visit, visit.anchor) is None else None,
            deviation_days=deviation,
            closes=closes,
            missing=_missing(visit, state, record.instruments if record else frozenset()),
        )

    def _open_state(self, visit: VisitDefinition, occurrence: int, window: Window | None) -> VisitState:
        """The state of a visit that is not recorded."""
        closes = self._closes(visit, occurrence, window)
        if self._dropped(visit, closes) or self._never(visit):
            return VisitState.not_applicable
        if visit.has_window and window is None:
            return VisitState.waiting
        if closes is None:
            return VisitState.not_applicable if visit.optional else VisitState.upcoming
        if self.today > closes:
            return VisitState.not_applicable if visit.optional else VisitState.overdue
        return VisitState.upcoming if window and self.today < window.start else VisitState.due

    def _closes(
        self, visit: VisitDefinition, occurrence: int, window: Window | None, on: date | None = None
    ) -> date | None:
        """The last day on which it is as planned, where that is known."""
        return _earliest(window.end if window else None, self._beside(visit, visit.before, occurrence, on))

    def _beside(
        self, visit: VisitDefinition, other: str | None, occurrence: int = 1, on: date | None = None
    ) -> date | None:
        return day_beside(self.protocol, visit, other, self._beside_which(on), occurrence, on)

    def _beside_which(self, on: date | None) -> Held:
        """The visits from which one is planned that took place `on` this day, or is still to come: until the last
        screening has a visit of its own, those of the failed one plan nothing that is to come."""
        return self.held if on is not None else self.current

    def _seen(self, code: str) -> bool:
        """Whether anything is recorded of such a visit in the last screening."""
        return any(self._of_last_screening(record) for record in self.by_code.get(code, ()))

    def _of_last_screening(self, record: Recorded) -> bool:
        """By its number, or by its day: the failed screening may have ended before it had such a visit. What screenings
        have none of is always of the last one."""
        since = record.on is not None and self.began is not None and record.on >= self.began
        return since or record.occurrence >= self._first(record.visit)

    def _first(self, code: str) -> int:
        """The first occurrence in the last screening."""
        return (self.screening - 1) * self.protocol.by_screening(code) + 1

    def _dropped(self, visit: VisitDefinition, closes: date | None) -> bool:
        """Whether it need not take place: without consent, or because the participant left or withdrew before its
        window was over."""
        if self.scopes is not None and visit.needs_scope is not None and visit.needs_scope not in self.scopes:
            return True
        ended_on = None if visit.kept_after_early_termination else self.ended_on
        undosed_from = self.undosed_from if visit.kind is VisitKind.dosing else None
        stops = _earliest(self.left_on, ended_on, undosed_from)
        return stops is not None and (closes is None or closes >= stops)

    def _never(self, visit: VisitDefinition) -> bool:
        """Whether its anchor will not take place, so that it will not either."""
        anchor = self.protocol.planned(visit.anchor or "") if visit.has_window else None
        if anchor is None or self._beside(visit, anchor.code) is not None:
            return False
        first = self._first(anchor.code)
        if (anchor.code, first) in self.records:
            return True
        window = window_of(self.protocol, anchor, self.held, first)
        return self._never(anchor) or self._dropped(anchor, self._closes(anchor, first, window))


def _earliest(*days: date | None) -> date | None:
    return min((day for day in days if day is not None), default=None)


def _missing(visit: VisitDefinition, state: VisitState, present: frozenset[str]) -> tuple[str, ...]:
    if state not in (VisitState.done, VisitState.due, VisitState.overdue):
        return ()
    return tuple(code for code in visit.instruments if code not in present)
