"""Checking a password is slow on purpose: requests that wait for it do not hold up the others."""

import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from httpx2 import Response

from app.security import passwords
from app.security.passwords import MOST_AT_ONCE, MOST_OF_ONE
from tests.test_sign_in import person, sign_in
from tests.test_throttle import told
from tests.world import World


def test_a_full_hashing_gate_says_so_instead_of_hanging(world: World) -> None:
    gate = world.registry.app.state.passwords
    username = person(world)
    with gate._turn(), gate._turn():
        busy = sign_in(world, username)
    assert told(busy) == (503, "sign_in_busy", 1)
    assert sign_in(world, username).status_code == 201


def test_nobody_keeps_others_from_signing_in_by_doing_it_all_the_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with a right password either: who is beyond their share is told so at once, and ties up no thread."""
    gate = world.registry.app.state.passwords
    one, other, another, last = (person(world) for _ in range(4))
    monkeypatch.setattr(passwords, "_PATIENCE_SECONDS", 60.0)
    with ThreadPoolExecutor(MOST_AT_ONCE) as threads:
        with gate._turn(), gate._turn():

            def waiting(username: str, times: int) -> list[Future[Response]]:
                wanted = gate._asking.total() + times
                begun = [threads.submit(sign_in, world, username) for _ in range(times)]
                while gate._asking.total() < wanted:
                    time.sleep(0.01)
                return begun

            asked = waiting(one, MOST_OF_ONE)
            assert told(sign_in(world, one)) == (503, "sign_in_busy", 1)
            asked += waiting(other, MOST_OF_ONE)
            asked += waiting(another, MOST_AT_ONCE - 2 - 2 * MOST_OF_ONE)
            assert told(sign_in(world, last)) == (503, "sign_in_busy", 1)
        assert {begun.result(60).status_code for begun in asked} == {201}
    assert sign_in(world, last).status_code == 201
