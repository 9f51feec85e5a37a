"""Names of small sites and rare codes: lists of sites or codes do not reveal what a name stands for."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from app.privacy.lattice import K
from app.privacy.profile import common_codes
from app.privacy.subjects import POOL, site_groups

SIZES = st.dictionaries(st.integers(1, 6), st.integers(1, 20), min_size=1)


def require_hidden(sizes: dict[int, int], groups: dict[int, str | None]) -> None:
    pooled = [site for site, group in groups.items() if group == POOL]
    named = Counter(group for group in groups.values() if group not in {POOL, None})
    assert not pooled or (len(pooled) > 1 and sum(sizes[site] for site in pooled) >= K)
    assert set(named.values()) <= {1}, "no two sites under one code"
    assert None not in groups.values() or set(groups.values()) == {None}, "an empty cell among others tells"


@given(SIZES)
def test_a_pool_has_twelve_people_and_two_sites(sizes: dict[int, int]) -> None:
    groups = dict(site_groups(sizes, {}, K))
    require_hidden(sizes, groups)
    assert all(sizes[site] >= K for site, group in groups.items() if group not in {POOL, None})
    if min(sizes.values()) >= K:
        assert POOL not in groups.values()
    if len(sizes) > 1 and sum(sizes.values()) >= K:
        assert None not in groups.values()


@given(SIZES, SIZES)
def test_a_site_keeps_the_code_that_its_project_knows(before: dict[int, int], joined: dict[int, int]) -> None:
    held = {site: group for site, group in site_groups(before, {}, K).items() if group}
    now = {site: before.get(site, 0) + joined.get(site, 0) for site in before | joined}
    groups = dict(site_groups(now, held, K))
    require_hidden(now, groups)
    assert None in groups.values() or held.items() <= groups.items()
    assert all(now[site] >= K for site, group in groups.items() if group not in {POOL, None, *held.values()})


def test_no_more_sites_are_pooled_than_necessary() -> None:
    groups = site_groups({1: 2, 2: 13, 3: 30, 4: 40}, {}, K)
    assert [groups[site] == POOL for site in (1, 2, 3, 4)] == [True, True, False, False]
    groups = site_groups({1: 6, 2: 7, 3: 13}, {}, K)
    assert [groups[site] == POOL for site in (1, 2, 3)] == [True, True, False]


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 30)))
def test_other_never_stands_for_a_single_code(people: dict[str, int]) -> None:
    shown = common_codes(people, listed=True)
    hidden = people.keys() - set(shown)
    assert all(people[code] >= K for code in shown)
    assert not shown or len(hidden) != 1
    assert len([code for code in hidden if people[code] >= K]) <= 1


def test_the_next_rarest_code_is_hidden_with_a_single_hidden_one() -> None:
    assert common_codes({"a": 30, "b": 27, "c": 3}, listed=True) == ["a"]
    assert common_codes({"a": 30, "b": 27, "c": 3, "d": 1}, listed=True) == ["a", "b"]
    assert common_codes({"a": 30, "b": 27}, listed=True) == ["a", "b"]
    assert common_codes({"a": 30, "b": 27, "c": 3}, listed=False) == ["a", "b"]
