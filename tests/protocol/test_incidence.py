"""Counting adverse events: worked by hand, and properties that no order or split of the rows may touch."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.incidence import SEVERITIES, Event, Incidence, Person, incidence

START = date(2025, 1, 1)
END = START + timedelta(days=99)


def person(key: str, arm: str = "X", first: date | None = START, last: date | None = END) -> Person:
    return Person(key, {"site": "A", "arm": arm}, first, last)


def event(key: str, pt: str = "Headache", severity: str = "mild", day: int | None = 0) -> Event:
    onset = None if day is None else START + timedelta(days=day)
    return Event(key, onset, {"soc": "Nervous", "pt": pt, "severity": severity})


def by_group(rows: list[Incidence]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    return {row.group: (row.participants, row.denominator, row.events) for row in rows}


def test_a_participant_counts_once_in_a_group_however_many_events() -> None:
    """By hand: two of three had a headache, one of them twice and nausea as well."""
    events = [event("p1"), event("p1", day=5), event("p2"), event("p1", "Nausea")]
    people = [person("p1"), person("p2"), person("p3")]
    assert by_group(incidence(people, events, ["pt"])) == {("Headache",): (2, 3, 3), ("Nausea",): (1, 3, 1)}
    assert by_group(incidence(people, events, [])) == {(): (2, 3, 4)}
    assert by_group(incidence(people, [], [])) == {(): (0, 3, 0)}


def test_by_severity_a_participant_counts_at_the_worst_and_events_where_they_are() -> None:
    events = [event("p1", severity="mild"), event("p1", severity="severe", day=3), event("p2", severity="mild")]
    found = by_group(incidence([person("p1"), person("p2")], events, ["pt", "severity"]))
    assert found == {("Headache", "severe"): (1, 2, 1), ("Headache", "mild"): (1, 2, 2)}


def test_denominators_are_those_of_the_arm() -> None:
    people = [person("p1", "X"), person("p2", "X"), person("p3", "Y")]
    rows = incidence(people, [event("p1"), event("p3")], ["pt", "arm"])
    assert by_group(rows) == {("Headache", "X"): (1, 2, 1), ("Headache", "Y"): (1, 1, 1)}
    assert [row.percent for row in rows] == [50, 100]


def test_rates_count_time_at_risk_for_first_events_only_until_they_happen() -> None:
    """By hand: two people at risk 100 days each; one has events on day 10 and 20, so is at risk for 10 days."""
    (row,) = incidence([person("p1"), person("p2")], [event("p1", day=9), event("p1", day=19)], ["pt"])
    assert row.person_years == pytest.approx(200 / 365.25)
    assert row.events_rate == pytest.approx(2 * 100 * 365.25 / 200)
    assert row.first_event_rate == pytest.approx(1 * 100 * 365.25 / 110)


def test_somebody_outside_the_population_is_not_counted_and_somebody_without_dates_has_no_time() -> None:
    (row,) = incidence([person("p1", first=None)], [event("p1"), event("stranger")], ["pt"])
    assert (row.participants, row.events, row.person_years) == (1, 1, 0)
    assert (row.events_rate, row.first_event_rate) == (None, None)


def test_the_order_is_by_participants_then_events_then_name() -> None:
    events = [
        event("p1", "B"),
        event("p2", "B"),
        event("p1", "C"),
        event("p1", "C"),
        event("p1", "A"),
        event("p1", "D"),
    ]
    rows = incidence([person("p1"), person("p2")], events, ["pt"])
    assert [row.group[0] for row in rows] == ["B", "C", "A", "D"]


_EVENTS = st.lists(
    st.builds(
        event,
        st.sampled_from(["p1", "p2", "p3", "p4"]),
        st.sampled_from(["Headache", "Nausea", "Insomnia"]),
        st.sampled_from(SEVERITIES),
        st.none() | st.integers(-5, 120),
    ),
    max_size=30,
)
_BY = st.sampled_from([[], ["pt"], ["arm"], ["severity"], ["pt", "severity"], ["pt", "arm", "severity"]])
_PEOPLE = [person("p1"), person("p2", "Y"), person("p3"), person("p4", "Y", first=None)]


@given(_EVENTS, _BY, st.randoms())
def test_the_order_of_the_rows_changes_nothing(events: list[Event], by: list[str], random: object) -> None:
    shuffled = list(events)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert incidence(_PEOPLE, shuffled, by) == incidence(list(reversed(_PEOPLE)), events, by)


@given(_EVENTS, _BY)
def test_events_add_up_over_groups_and_participants_never_exceed_them(events: list[Event], by: list[str]) -> None:
    rows = incidence(_PEOPLE, events, by)
    assert sum(row.events for row in rows) == len(events)
    assert all(row.participants <= min(row.events, row.denominator) for row in rows)
    assert max((row.participants for row in rows), default=0) <= len({each.person for each in events})


@given(_EVENTS)
def test_by_severity_alone_everybody_with_an_event_counts_exactly_once(events: list[Event]) -> None:
    rows = incidence(_PEOPLE, events, ["severity"])
    assert sum(row.participants for row in rows) == len({each.person for each in events})


@given(_EVENTS, _BY)
def test_another_record_of_the_same_event_changes_no_participants(events: list[Event], by: list[str]) -> None:
    once, twice = incidence(_PEOPLE, events, by), incidence(_PEOPLE, [*events, *events], by)
    assert {row.group: row.participants for row in once} == {row.group: row.participants for row in twice}
    assert sum(row.events for row in twice) == 2 * sum(row.events for row in once)


@given(_EVENTS, _BY)
def test_similar_events_may_be_notified_together(events: list[Event], by: list[str]) -> None:
    alike: dict[tuple[str, ...], list[Event]] = {}
    for one in events:
        alike.setdefault((one.person, *one.groups.values()), []).append(one)
    together = [
        Event(some[0].person, _first([one.onset for one in some]), some[0].groups, len(some)) for some in alike.values()
    ]
    assert incidence(_PEOPLE, together, by) == incidence(_PEOPLE, events, by)


def _first(onsets: list[date | None]) -> date | None:
    return None if None in onsets else min(one for one in onsets if one is not None)
