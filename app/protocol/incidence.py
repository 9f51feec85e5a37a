"""Incidence of adverse events: numbers of events and participants, with denominators and exposure.

The counting rules are those of safety tables (ICH E3, section 12.2; ICH E9, section 6.3): a participant counts once in
each group, and in a table by severity only at the worst severity. Events add up over groups; participants need not.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    """Adverse events of one participant that belong to the same group."""

    person: str
    onset: date | None
    """The earliest day that one of them can have begun on; None where that of one is not known."""

    groups: Mapping[str, str]
    """By the names that do not belong to the participant, as far as rows are grouped by them."""

    number: int = 1


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


class _Tally:
    """The events of one group."""

    def __init__(self) -> None:
        self.events = 0
        self.firsts: dict[str, date | None] = {}
        """Who had one, and the day at risk of the first; None without time at risk."""

    def add(self, event: Event, person: Person) -> None:
        """An onset before exposure, or an unknown one, counts from the first day at risk."""
        self.events += event.number
        onset = None if person.first is None else max(event.onset or person.first, person.first)
        earlier = self.firsts.get(event.person)
        self.firsts[event.person] = min(onset, earlier) if onset and earlier else onset


class _Members(NamedTuple):
    """The population of a site or an arm, or the whole."""

    number: int
    days: int


def incidence(people: Iterable[Person], events: Iterable[Event], by: Sequence[str]) -> list[Incidence]:
    """One row for each group that has events, and without `by` one row for all.

    Most participants first, then most events, then by name: the order never depends on that of the input.
    """
    everybody = {person.key: person for person in people}
    members = _members(everybody.values(), by)
    tallies: dict[tuple[str, ...], _Tally] = defaultdict(_Tally)
    for event in events:
        if (person := everybody.get(event.person)) is not None:
            tallies[_group(event, person, by)].add(event, person)
    if not by:
        tallies.setdefault((), _Tally())
    counted = _people_of(tallies, by)
    rows = [
        _row(group, counted[group], tally, members[_person_part(group, by)], everybody)
        for group, tally in tallies.items()
    ]
    return sorted(rows, key=lambda row: (-row.participants, -row.events, row.group))


def _group(event: Event, person: Person, by: Sequence[str]) -> tuple[str, ...]:
    return tuple((person.groups if name in OF_PERSON else event.groups)[name] for name in by)


def _person_part(group: tuple[str, ...], by: Sequence[str]) -> tuple[str, ...]:
    return tuple(value for name, value in zip(by, group, strict=True) if name in OF_PERSON)


def _members(people: Iterable[Person], by: Sequence[str]) -> Mapping[tuple[str, ...], _Members]:
    """The denominators."""
    names = [name for name in by if name in OF_PERSON]
    members: dict[tuple[str, ...], _Members] = defaultdict(lambda: _Members(0, 0))
    for person in people:
        part = tuple(person.groups[name] for name in names)
        members[part] = _Members(members[part].number + 1, members[part].days + person.days())
    return members


def _people_of(tallies: Mapping[tuple[str, ...], _Tally], by: Sequence[str]) -> dict[tuple[str, ...], Collection[str]]:
    """The participants of each group: those with an event in it, by severity only at the worst."""
    people: dict[tuple[str, ...], Collection[str]] = {group: tally.firsts.keys() for group, tally in tallies.items()}
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
    counted: Collection[str],
    tally: _Tally,
    members: _Members,
    everybody: Mapping[str, Person],
) -> Incidence:
    years = members.days / DAYS_A_YEAR
    after = sum(_days_after(everybody[key], tally.firsts[key]) for key in counted)
    until_first = (members.days - after) / DAYS_A_YEAR
    return Incidence(
        group=group,
        participants=len(counted),
        denominator=members.number,
        percent=100 * len(counted) / members.number if members.number else None,
        events=tally.events,
        person_years=years,
        events_rate=100 * tally.events / years if years else None,
        first_event_rate=100 * len(counted) / until_first if until_first else None,
    )


def _days_after(person: Person, first: date | None) -> int:
    """The days at risk after the first event, which do not count for the rate of first events."""
    return person.days() - person.days(_until(person, first))


def _until(person: Person, onset: date | None) -> date | None:
    """Time at risk ends with the first event, and never after the participant left."""
    return None if onset is None else min(onset, person.last or onset)
