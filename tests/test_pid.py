"""The registry pseudonym: every likely slip of a pen or a finger is found."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import pid

data = st.text(alphabet=pid.ALPHABET, min_size=10, max_size=10)
place = st.integers(0, 11)
symbol = st.sampled_from(pid.ALPHABET)


def found(text: str) -> bool:
    try:
        pid.normalise(text)
    except pid.PidChecksum:
        return True
    return False


def test_a_known_answer() -> None:
    """Worked by hand: with one data symbol 1 at place i the check symbols are a^i and a^2i; at place 1: 2 and 4."""
    assert pid.complete("1000000000") == "100000000024"
    assert pid.complete("0100000000") == "01000000004G"
    assert pid.complete("0000000000") == "000000000000"


@given(data)
def test_a_pid_survives_every_spelling(text: str) -> None:
    whole = pid.complete(text)
    for spelling in (whole, pid.display(whole), whole.lower(), whole.replace("0", "o").replace("1", "I")):
        assert pid.normalise(spelling) == whole
    assert pid.display(pid.display(whole)) == pid.display(whole)


@given(data, place, symbol)
def test_every_single_error_is_found(text: str, at: int, other: str) -> None:
    whole = pid.complete(text)
    changed = whole[:at] + other + whole[at + 1 :]
    assert found(changed) == (changed != whole)


@given(data, place, place, symbol, symbol)
def test_every_double_error_is_found(text: str, one: int, two: int, first: str, second: str) -> None:
    symbols = list(pid.complete(text))
    symbols[one], symbols[two] = first, second
    changed = "".join(symbols)
    assert found(changed) == (changed != pid.complete(text))


@given(data, place, place)
def test_every_swap_is_found(text: str, one: int, two: int) -> None:
    symbols = list(pid.complete(text))
    symbols[one], symbols[two] = symbols[two], symbols[one]
    changed = "".join(symbols)
    assert found(changed) == (changed != pid.complete(text))


@pytest.mark.parametrize("text", ["", "1", "U" * 12, "1" * 11, "1" * 13, "é" * 12, "100000000024x"])
def test_a_text_that_is_no_pid_differs_from_a_mistyped_pid(text: str) -> None:
    with pytest.raises(pid.PidFormat):
        pid.normalise(text)


def test_drawn_pids_are_valid_different_and_use_the_whole_alphabet() -> None:
    drawn = [pid.draw() for _ in range(2000)]
    assert len(set(drawn)) == 2000
    assert all(pid.normalise(one) == one for one in random.sample(drawn, 50))
    assert set("".join(drawn)) == set(pid.ALPHABET)
