"""How often adverse events happened: events and participants side by side, with denominators and exposure.

Counting rules of safety tables (ICH E3, section 12.2; ICH E9, section 6.3): a participant counts once in each group,
and in a table by severity at the worst severity only. Sums of events add up over groups; sums of participants need not.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import NamedTuple

SEVERITIES = ("mild", "moderate", "severe")
DAYS_A_YEAR = 365.25
OF_PERSON = ("site", "arm")
"""Groupings that belong to the participant; every other one belongs to the event."""


class Person(NamedTuple):
    """A member of the population. Without exposure dates, no time at risk is counted."""

    key: str
    groups: Mapping[str, str]
    """By the names of OF_PERSON."""

    first: date | None
    last: date | None

    def days(self, until: date | None = None) -> int:
        """Days at risk, the first and the last included; 0 where they are not known."""
        last = self.last if until is None else until
        if self.first is None or last is None or last < self.first:
            return 0
        return (last - self.first).days + 1


class Event(NamedTuple):
    """One adverse event. `onset` is the earliest day that it can have begun on."""

    person: str
    severity: str
    onset: date | None
    groups: Mapping[str, str]


class Incidence(NamedTuple):
    """One group. Rates are per 100 person-years; None without time at risk."""

    group: tuple[str, ...]
    participants: int
    denominator: int
    percent: float | None
    events: int
    person_years: float
    events_rate: float | None
    first_event_rate: float | None
    """Participants over the time until their first event in this group, or until they left."""


def incidence(people: Iterable[Person], events: Iterable[Event], by: Sequence[str]) -> list[Incidence]:
    """One row for each group that has events, and without `by` one row for all.

    Most participants first, then most events, then by name: the order never depends on that of the input.
    """
    everybody = {person.key: person for person in people}
    members = _members(everybody.values(), by)
    told = [event for event in events if event.person in everybody]
    grouped: dict[tuple[str, ...], list[Event]] = defaultdict(list)
    for event in told:
        grouped[_group(event, everybody[event.person], by)].append(event)
    if not by:
        grouped.setdefault((), [])
    counted = _people_of(grouped, by)
    rows = [
        _row(group, counted[group], grouped[group], members[_person_part(group, by)], everybody) for group in grouped
    ]
    return sorted(rows, key=lambda row: (-row.participants, -row.events, row.group))


def _group(event: Event, person: Person, by: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        event.severity if name == "severity" else (person.groups if name in OF_PERSON else event.groups)[name]
        for name in by
    )


def _person_part(group: tuple[str, ...], by: Sequence[str]) -> tuple[str, ...]:
    return tuple(value for name, value in zip(by, group, strict=True) if name in OF_PERSON)


def _members(people: Iterable[Person], by: Sequence[str]) -> Mapping[tuple[str, ...], list[Person]]:
    """The denominators: the population of each site or arm, or the whole."""
    names = [name for name in by if name in OF_PERSON]
    members: dict[tuple[str, ...], list[Person]] = defaultdict(list)
    for person in people:
        members[tuple(person.groups[name] for name in names)].append(person)
    return members


def _people_of(grouped: Mapping[tuple[str, ...], list[Event]], by: Sequence[str]) -> dict[tuple[str, ...], set[str]]:
    """Who counts in each group: everybody with an event there, but at the worst severity only."""
    people = {group: {event.person for event in events} for group, events in grouped.items()}
    if "severity" not in by:
        return people
    place = by.index("severity")
    worst: dict[tuple[tuple[str, ...], str], int] = {}
    for group, keys in people.items():
        others = group[:place] + group[place + 1 :]
        rank = SEVERITIES.index(group[place])
        for key in keys:
            worst[others, key] = max(rank, worst.get((others, key), 0))
    return {
        group: {key for key in keys if SEVERITIES.index(group[place]) == worst[group[:place] + group[place + 1 :], key]}
        for group, keys in people.items()
    }


def _row(
    group: tuple[str, ...],
    counted: set[str],
    events: Sequence[Event],
    members: Sequence[Person],
    everybody: Mapping[str, Person],
) -> Incidence:
    years = sum(person.days() for person in members) / DAYS_A_YEAR
    return Incidence(
        group=group,
        participants=len(counted),
        denominator=len(members),
        percent=100 * len(counted) / len(members) if members else None,
        events=len(events),
        person_years=years,
        events_rate=100 * len(events) / years if years else None,
        first_event_rate=_first_event_rate(counted, events, members, everybody),
    )


def _first_event_rate(
    counted: set[str], events: Sequence[Event], members: Sequence[Person], everybody: Mapping[str, Person]
) -> float | None:
    """An onset before exposure, or an unknown one, counts from the first day at risk."""
    firsts: dict[str, date] = {}
    for event in events:
        start = everybody[event.person].first
        if event.person not in counted or start is None:
            continue
        onset = max(event.onset or start, start)
        firsts[event.person] = min(onset, firsts.get(event.person, onset))
    years = sum(person.days(_until(person, firsts.get(person.key))) for person in members) / DAYS_A_YEAR
    return 100 * len(counted) / years if years else None


def _until(person: Person, onset: date | None) -> date | None:
    """Time at risk ends with the first event, and never after the participant left."""
    return None if onset is None else min(onset, person.last or onset)
