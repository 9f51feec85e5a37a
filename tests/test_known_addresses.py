"""Guesses from elsewhere make the owner of an account wait nowhere where they work."""

from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from tests.test_sign_in import PASSWORD, app, person, sign_in
from tests.test_throttle import Clock, another_worker, clock, fail, told
from tests.world import Registry, World

__all__ = ["clock"]


def guessed(elsewhere: TestClient, username: str, right: bool = False) -> int:
    body = {"username": username, "password": PASSWORD if right else "not the password"}
    return elsewhere.post("/v1/auth/sessions", json=body).status_code


@pytest.fixture
def attacker(registry: Registry) -> Iterator[TestClient]:
    """Somewhere else, under as few limits as many addresses have together."""
    with another_worker(registry, address_failures=1_000_000) as client:
        yield client


def test_guesses_from_elsewhere_make_nobody_wait_where_they_work(
    world: World, attacker: TestClient, clock: Clock
) -> None:
    """But gets no more guesses by it, and who comes from a new place waits."""
    username = person(world)
    assert sign_in(world, username).status_code == 201
    answers = []
    for minute in range(4 * 60):
        answers.append(guessed(attacker, username))
        clock.wait(minutes=1)
        if minute % 30 == 0:
            assert sign_in(world, username).status_code == 201
    assert guessed(attacker, username, right=True) == 429
    assert answers.count(401) <= 5 + 4 + 4 * 4


def test_where_somebody_works_guesses_cost_as_much_as_elsewhere(
    world: World, attacker: TestClient, clock: Clock
) -> None:
    username = person(world)
    assert sign_in(world, username).status_code == 201
    assert fail(world, username, 6) == [401] * 5 + [429]
    assert told(sign_in(world, username)) == (429, "too_many_attempts", 60)
    assert guessed(attacker, username, right=True) == 201, "and nobody elsewhere waits for it"


def test_a_place_is_known_for_a_month_after_the_last_time(world: World, attacker: TestClient, clock: Clock) -> None:
    username = person(world)
    assert sign_in(world, username).status_code == 201
    clock.wait(days=20)
    assert sign_in(world, username).status_code == 201
    clock.wait(days=29)
    assert {guessed(attacker, username) for _ in range(5)} == {401}
    assert sign_in(world, username).status_code == 201
    clock.wait(days=31)
    assert {guessed(attacker, username) for _ in range(5)} == {401}
    assert sign_in(world, username).status_code == 429


def test_a_site_app_is_not_kept_waiting_from_elsewhere_either(world: World, attacker: TestClient, clock: Clock) -> None:
    form = {"grant_type": "client_credentials", **app(world)}
    assert world.registry.client.post("/v1/auth/token", data=form).status_code == 200
    for _ in range(6):
        attacker.post("/v1/auth/token", data={**form, "client_secret": "wrong"})
    assert attacker.post("/v1/auth/token", data=form).status_code == 429
    assert world.registry.client.post("/v1/auth/token", data=form).status_code == 200
