"""What ends somebody's access ends it on every worker, within the time that the settings state."""

import time
from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlmodel import select

from app.main import create_app
from app.models.account import Account, RoleGrant
from app.models.base import now
from tests.test_sign_in import app, person, sign_in
from tests.world import Caller, Registry, World

BOUND_SECONDS = 0.5
"""grants_cache_seconds of both workers; the deployment's default is 1."""

Ending = Callable[[World, Caller], None]


@pytest.fixture(scope="module")
def workers(registry: Registry) -> Iterator[tuple[TestClient, TestClient]]:
    """Two applications with nothing in common but the database and the keys."""
    settings = registry.app.state.settings.model_copy(update={"grants_cache_seconds": BOUND_SECONDS})
    with TestClient(create_app(settings)) as one, TestClient(create_app(settings)) as other:
        yield one, other


def subject(world: World, caller: Caller) -> UUID:
    verified: UUID = world.registry.app.state.tokens.verify(caller.token).subject
    return verified


def disabled(world: World, caller: Caller) -> None:
    with world.registry.database.write() as session:
        session.get_one(Account, subject(world, caller)).disabled_at = now()


def grants_changed(world: World, caller: Caller) -> None:
    with world.registry.database.write() as session:
        session.get_one(Account, subject(world, caller)).grants_version += 1


def grant_revoked(world: World, caller: Caller) -> None:
    with world.registry.database.write() as session:
        wanted = select(RoleGrant).where(RoleGrant.account_id == subject(world, caller))
        session.exec(wanted).one().revoked_at = now()


def a_person(world: World) -> tuple[Caller, Ending]:
    def revoked(world: World, caller: Caller) -> None:
        form = {"token": caller.token}
        assert world.registry.client.post("/v1/auth/revoke", data=form).status_code == 200

    return Caller(world.registry.client, sign_in(world, person(world)).json()["access_token"]), revoked


def a_site_app(world: World) -> tuple[Caller, Ending]:
    known = app(world)

    def revoked(world: World, caller: Caller) -> None:
        form = {"token": caller.token, **known}
        assert world.registry.client.post("/v1/auth/revoke", data=form).status_code == 200

    form = {"grant_type": "client_credentials", **known}
    token = world.registry.client.post("/v1/auth/token", data=form).json()["access_token"]
    return Caller(world.registry.client, token), revoked


@pytest.mark.parametrize("ending", [disabled, grants_changed, grant_revoked, None])
@pytest.mark.parametrize("make", [a_person, a_site_app])
def test_access_ends_on_every_worker_within_the_bound(
    world: World,
    workers: tuple[TestClient, TestClient],
    make: Callable[[World], tuple[Caller, Ending]],
    ending: Ending | None,
) -> None:
    caller, revoked = make(world)
    everywhere = [Caller(worker, caller.token) for worker in workers]
    assert [each.get("/v1/visits").status_code for each in everywhere] == [200, 200]
    (ending or revoked)(world, caller)
    ended = time.monotonic()
    refused = 403 if ending is grant_revoked else 401
    for each in everywhere:
        begun = time.monotonic()
        while each.get("/v1/visits").status_code == 200:
            assert begun - ended < BOUND_SECONDS  # when it was asked, however long a busy machine took to answer
            begun = time.monotonic()
    time.sleep(max(0.0, ended + BOUND_SECONDS - time.monotonic()))
    assert [each.get("/v1/visits").status_code for each in everywhere] == [refused, refused]


def test_a_token_that_was_never_seen_before_its_end_is_refused_at_once(
    world: World, workers: tuple[TestClient, TestClient]
) -> None:
    """Another token of the same account may be known to the worker; that one's grace is not lent to this one."""
    username = person(world)
    one, other = (sign_in(world, username).json()["access_token"] for _ in range(2))
    worker = workers[0]
    assert Caller(worker, one).get("/v1/visits").status_code == 200
    world.registry.client.post("/v1/auth/revoke", data={"token": other})
    assert Caller(worker, other).get("/v1/visits").status_code == 401
    assert Caller(worker, one).get("/v1/visits").status_code == 200
