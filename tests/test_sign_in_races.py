"""Sessions that end while somebody is just signing in or renewing one: what is on its way ends as well."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from httpx2 import Response
from sqlmodel import select

from app.models.audit import AuditEntry
from app.services.identity import sign_in as sign_in_service
from app.services.identity.sign_in import SignIn
from tests.account_cases import PASSWORD, WHY, a_person, a_site_app, tag
from tests.test_accounts import refreshed, signed_in, speaks, token_of
from tests.test_bulk_races import until_somebody_waits
from tests.world import Caller, World

NEW = "another long one"


def with_another_before_its_commit(
    world: World, monkeypatch: pytest.MonkeyPatch, request: Callable[[], Response], another: Callable[[], Response]
) -> tuple[Response, Response]:
    """The answers of a sign-in, and of a request that comes when all of it is written and nothing is committed."""
    begun: list[Future[Response]] = []
    remember = sign_in_service.remember_own_act

    def and_another_comes(*given: Any) -> None:
        remember(*given)
        if not begun:
            begun.append(thread.submit(another))
            if not world.on_sqlite:
                until_somebody_waits(world)

    monkeypatch.setattr(sign_in_service, "remember_own_act", and_another_comes)
    with ThreadPoolExecutor(1) as thread:
        return request(), begun[0].result()


def renewal(world: World, session: Response) -> Response:
    form = {"grant_type": "refresh_token", "refresh_token": session.json()["refresh_token"]}
    return world.registry.client.post("/v1/auth/token", data=form)


def everywhere(world: World, person: dict[str, Any], *_: Any) -> Response:
    return world.admin.post(f"{person['path']}/sessions/revocation", WHY)


def new_password(world: World, person: dict[str, Any], *_: Any) -> Response:
    return world.admin.post(f"{person['path']}/password", {"password": NEW, **WHY})


def disabled(world: World, person: dict[str, Any], *_: Any) -> Response:
    off = world.admin.patch(person["path"], {"disabled": True, **WHY}, tag(world, person))
    return world.admin.patch(person["path"], {"disabled": False, **WHY}, off.headers["ETag"])


def signed_out(world: World, _: dict[str, Any], session: Response, __: Caller) -> Response:
    return world.registry.client.post("/v1/auth/revoke", data={"token": session.json()["access_token"]})


def own_new_password(_: World, __: dict[str, Any], ___: Response, elsewhere: Caller) -> Response:
    return elsewhere.post("/v1/me/password", {"current": PASSWORD, "new": NEW})


@pytest.mark.parametrize("ending", [everywhere, new_password, disabled, signed_out, own_new_password])
def test_a_session_that_is_renewed_while_it_ends_is_over(
    world: World, monkeypatch: pytest.MonkeyPatch, ending: Callable[..., Response]
) -> None:
    person = a_person(world)
    session, other = signed_in(world, person), signed_in(world, person)
    elsewhere = Caller(world.registry.client, other.json()["access_token"])
    renewed, ended = with_another_before_its_commit(
        world, monkeypatch, lambda: renewal(world, session), lambda: ending(world, person, session, elsewhere)
    )
    assert (renewed.status_code, ended.is_success) == (200, True)
    assert (speaks(world, renewed), refreshed(world, renewed)) == (False, 400)


@pytest.mark.parametrize("ending", [everywhere, new_password])
def test_a_sign_in_while_all_sessions_end_is_ended_too(
    world: World, monkeypatch: pytest.MonkeyPatch, ending: Callable[..., Response]
) -> None:
    person = a_person(world)
    session, ended = with_another_before_its_commit(
        world, monkeypatch, lambda: signed_in(world, person), lambda: ending(world, person)
    )
    assert (session.status_code, ended.is_success) == (201, True)
    assert (speaks(world, session), refreshed(world, session)) == (False, 400)


def test_a_spent_token_ends_a_session_that_its_other_holder_just_renews(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = signed_in(world, a_person(world))
    session = renewal(world, spent)
    renewed, reused = with_another_before_its_commit(
        world, monkeypatch, lambda: renewal(world, session), lambda: renewal(world, spent)
    )
    assert (renewed.status_code, reused.status_code) == (200, 400)
    assert (speaks(world, renewed), refreshed(world, renewed)) == (False, 400)


def secret_revoked(world: World, app: dict[str, Any]) -> Response:
    return world.admin.post(f"{app['path']}/secrets/{app['secret_id']}/revocation", WHY)


def secret_replaced(world: World, app: dict[str, Any]) -> Response:
    return world.admin.post(f"{app['path']}/secrets", {"overlap_hours": 0, **WHY})


def app_disabled(world: World, app: dict[str, Any]) -> Response:
    return world.admin.patch(app["path"], {"disabled": True, **WHY}, tag(world, app))


@pytest.mark.parametrize("ending", [secret_revoked, secret_replaced, app_disabled])
def test_a_site_app_gets_no_token_for_a_secret_that_ended_since_it_was_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch, ending: Callable[[World, dict[str, Any]], Response]
) -> None:
    app, give_token = a_site_app(world), SignIn.client_token

    def late(*given: Any) -> str | None:
        assert ending(world, app).is_success
        return give_token(*given)

    monkeypatch.setattr(SignIn, "client_token", late)
    answer = token_of(world, app)
    assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"})


def test_a_token_that_is_revoked_twice_at_once_is_revoked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 7009, section 2.2: a token that is invalid already is no error."""
    app = a_site_app(world)
    token = token_of(world, app)

    def revocation() -> Response:
        form = {"token": token.json()["access_token"], "client_id": app["login"], "client_secret": app["client_secret"]}
        return world.registry.client.post("/v1/auth/revoke", data=form)

    answers = with_another_before_its_commit(world, monkeypatch, revocation, revocation)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert not speaks(world, token)
    with world.registry.database.read() as session:
        told = select(AuditEntry).where(AuditEntry.action == "token:revoked", AuditEntry.subject_id == app["id"])
        assert len(session.exec(told).all()) == 1
