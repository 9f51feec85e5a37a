"""The search for levels: everybody who is released is in a class of twelve, whatever the cohort looks like."""

import json
from collections import Counter
from collections.abc import Callable
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.privacy.lattice import MAX_SUPPRESSED, Generalised, K, Value, generalise
from app.privacy.quasi import QUASI_IDENTIFIERS, RACES
from app.privacy.risk import risk_report

Person = tuple[Value, ...]
NAMES = [one.name for one in QUASI_IDENTIFIERS]
PEOPLE = st.tuples(
    st.one_of(st.none(), st.integers(18, 100)),
    st.sampled_from(["F", "M", "U"]),
    st.one_of(st.none(), st.sampled_from(sorted(RACES)), st.just("typed in")),
    st.sampled_from([None, "DEU", "CHE", "USA"]),
    st.sampled_from(["completed", "active", "withdrawn", "died"]),
)
SKEWED = st.tuples(
    st.integers(30, 34), st.just("F"), st.just("WHITE"), st.just("DEU"), st.sampled_from(["completed"] * 9 + ["died"])
)


def require_hidden(people: list[Person], chosen: Generalised, marked: list[bool]) -> None:
    """By counting alone, without the search's own classes of the exact values."""
    shown = [
        tuple(
            one.levels[chosen.levels[one.name]].of(value) for value, one in zip(person, QUASI_IDENTIFIERS, strict=True)
        )
        for person in people
    ]
    released = Counter(classed for classed, kept in zip(shown, chosen.kept, strict=True) if kept)
    assert shown == chosen.classes
    assert min(released.values()) >= K
    spared = {classed for classed, mark in zip(shown, marked, strict=True) if not mark}
    assert all(marked) or set(released) <= spared, "a class of which all are marked"
    assert len(people) - released.total() <= MAX_SUPPRESSED * len(people)


@settings(max_examples=60)
@given(
    st.one_of(st.lists(PEOPLE, min_size=K, max_size=150), st.lists(SKEWED, min_size=K, max_size=80)),
    st.one_of(st.just(lambda _: False), st.just(lambda one: one[1] == "F"), st.just(lambda one: one[4] == "died")),
)
def test_everybody_released_is_in_a_class_of_twelve_who_do_not_all_have_the_sensitive_trait(
    people: list[Person], mark: Callable[[Person], bool]
) -> None:
    marked = [mark(person) for person in people]
    chosen = generalise(people, QUASI_IDENTIFIERS, None, marked)
    require_hidden(people, chosen, marked)
    assert generalise(people, QUASI_IDENTIFIERS, None, marked) == chosen
    report = risk_report(people, QUASI_IDENTIFIERS, chosen, True, {}, {})
    assert report["released"]["k_min"] >= K
    assert report["released"]["max_risk"] <= report["threshold"]["max_risk"]


@settings(max_examples=20)
@given(st.lists(PEOPLE, min_size=K, max_size=60))
def test_no_finer_combination_of_levels_is_allowed(people: list[Person]) -> None:
    """Every combination of which no level is coarser than the chosen one, and some are finer, leaves somebody alone."""
    chosen = generalise(people, QUASI_IDENTIFIERS)
    top = [chosen.levels[name] for name in NAMES]
    for node in product(*(range(level + 1) for level in top)):
        if list(node) == top:
            continue
        sizes = Counter(
            tuple(one.levels[at].of(value) for value, at, one in zip(person, node, QUASI_IDENTIFIERS, strict=True))
            for person in people
        )
        assert sum(size for size in sizes.values() if size < K) > MAX_SUPPRESSED * len(people)


def test_a_later_release_is_never_finer() -> None:
    people: list[Person] = [(40, "F", "WHITE", "DEU", "completed")] * 30
    assert generalise(people, QUASI_IDENTIFIERS).levels == dict.fromkeys(NAMES, 0)
    pinned = generalise(people, QUASI_IDENTIFIERS, {"age_group": 2, "sex": 1}).levels
    assert pinned == {**dict.fromkeys(NAMES, 0), "age_group": 2, "sex": 1}


def test_no_class_discloses_the_sensitive_trait_of_everybody_in_it() -> None:
    people: list[Person] = [(40, "F", "WHITE", "DEU", "completed")] * 12 + [(40, "M", "WHITE", "DEU", "completed")] * 12
    women, everybody = [person[1] == "F" for person in people], [True] * 24
    assert generalise(people, QUASI_IDENTIFIERS).levels == dict.fromkeys(NAMES, 0)
    assert generalise(people, QUASI_IDENTIFIERS, None, women).levels == {**dict.fromkeys(NAMES, 0), "sex": 1}
    assert generalise(people, QUASI_IDENTIFIERS, None, everybody).levels == dict.fromkeys(NAMES, 0), "as if nobody were"


def test_eleven_people_cannot_be_hidden() -> None:
    with pytest.raises(ValueError, match="fewer people"):
        generalise([(40, "F", "WHITE", "DEU", "completed")] * (K - 1), QUASI_IDENTIFIERS)


@pytest.mark.parametrize(
    ("level", "age", "shown"),
    [
        (0, 18, "15-19"),
        (0, 74, "70-74"),
        (0, 75, "GE75"),
        (1, 69, "60-69"),
        (1, 70, "GE70"),
        (2, 34, "LT35"),
        (2, 35, "35-54"),
        (2, 55, "GE55"),
        (3, 44, "LT45"),
        (3, 45, "GE45"),
        (4, 45, None),
        (0, None, None),
    ],
)
def test_ages_are_shown_in_bands_that_are_open_above(level: int, age: int | None, shown: str | None) -> None:
    assert QUASI_IDENTIFIERS[0].levels[level].of(age) == shown


def test_small_counts_do_not_appear_in_the_report() -> None:
    people: list[Person] = [(40, "F", "WHITE", "DEU", "completed")] * 40 + [(40, "M", "WHITE", "DEU", "completed")]
    chosen = generalise(people, QUASI_IDENTIFIERS)
    report = risk_report(people, QUASI_IDENTIFIERS, chosen, True, {}, {})
    assert report["population"] == {"considered": "", "released": 40, "suppressed": "0-10"}
    assert (report["exact"]["k_min"], report["exact"]["max_risk"]) == ("1-10", "above 0.09")
    assert "41" not in json.dumps(report)


def test_the_report_does_not_say_whether_anybody_was_left_out() -> None:
    """Of 26 people one can be left out at most."""
    women: list[Person] = [(40, "F", "WHITE", "DEU", "completed")] * 25
    told = []
    for people in (women, [*women, (40, "M", "WHITE", "DEU", "completed")]):
        report = risk_report(people, QUASI_IDENTIFIERS, generalise(people, QUASI_IDENTIFIERS), True, {}, {})
        told.append(report["population"])
        assert report["exact"]["classes"] == ""
    assert told[0] == told[1] == {"considered": "", "released": 25, "suppressed": "0-10"}


def test_a_quasi_identifier_that_nobody_gave_is_reported_as_not_given() -> None:
    people: list[Person] = [(40, "F", None, None, "completed")] * 20
    report = risk_report(people, QUASI_IDENTIFIERS, generalise(people, QUASI_IDENTIFIERS), True, {}, {})
    told = {one["name"]: one["released"] for one in report["quasi_identifiers"]}
    assert (told["race"], told["country"], told["sex"]) == (*["not given by anybody"] * 2, "as stored")


@pytest.mark.parametrize("released", [20, 40, 100, 400])
def test_the_risk_before_fits_any_number_of_people_who_may_have_been_left_out(released: int) -> None:
    alike, other = (40, "F", "WHITE", "DEU", "completed"), (40, "M", "WHITE", "DEU", "completed")
    people: list[Person] = [alike] * released + [other]
    exact = risk_report(people, QUASI_IDENTIFIERS, generalise(people, QUASI_IDENTIFIERS), True, {}, {})["exact"]
    assert exact["classes"] == ""
    for considered in range(released + 1, released + 11):
        fitting = [classes for classes in range(1, considered) if round(classes / considered, 1) == exact["avg_risk"]]
        assert fitting, considered
