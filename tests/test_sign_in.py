"""Signing in: people with a password, site apps with a secret, refresh tokens used once."""

from datetime import timedelta
from uuid import uuid4

import pytest
from httpx2 import Response

from app.models import base
from app.services.identity import sign_in as sign_in_service
from tests.world import Caller, World

PASSWORD = "a long enough pass phrase"


def person(world: World) -> str:
    username = f"u{uuid4().hex}"
    body = {"username": username, "display_name": "P", "organisation": "O", "password": PASSWORD}
    user = world.admin.post("/v1/users", body).json()
    world.admin.post(f"/v1/users/{user['id']}/grants", {"role": "monitor", "study": world.study})
    return username


def sign_in(world: World, username: str, password: str = PASSWORD) -> Response:
    return world.registry.client.post("/v1/auth/sessions", json={"username": username, "password": password})


def token(world: World, **form: str) -> Response:
    return world.registry.client.post("/v1/auth/token", data=form)


def app(world: World) -> dict[str, str]:
    client = world.admin.post("/v1/clients", {"name": "Tablet", "organisation": "O"}).json()
    body = {"role": "site_staff", "study": world.study, "sites": ["A"]}
    assert world.admin.post(f"/v1/clients/{client['client_id']}/grants", body).status_code == 201
    return {"client_id": client["client_id"], "client_secret": client["client_secret"]}


def test_a_person_signs_in_and_is_who_the_token_says(world: World) -> None:
    answer = sign_in(world, person(world))
    assert answer.status_code == 201
    assert answer.headers["Cache-Control"] == "no-store"
    me = Caller(world.registry.client, answer.json()["access_token"]).get("/v1/me").json()
    assert me["grants"][0]["role"] == "monitor"
    assert "adverse-event:read" in me["permissions"]
    assert "visit:write" not in me["permissions"]


def test_a_wrong_password_and_an_unknown_name_are_answered_alike(world: World) -> None:
    wrong, unknown = sign_in(world, person(world), "not the password"), sign_in(world, f"u{uuid4().hex}")
    assert wrong.status_code == unknown.status_code == 401
    assert {**wrong.json(), "request_id": ""} == {**unknown.json(), "request_id": ""}


def test_a_site_app_gets_a_token_with_its_secret(world: World) -> None:
    credentials = app(world)
    for answer in (
        token(world, grant_type="client_credentials", **credentials),
        world.registry.client.post(
            "/v1/auth/token", data={"grant_type": "client_credentials"}, auth=tuple(credentials.values())
        ),
    ):
        assert answer.status_code == 200
        assert answer.json()["token_type"] == "Bearer"
        assert "refresh_token" not in answer.json() or answer.json()["refresh_token"] is None
        caller = Caller(world.registry.client, answer.json()["access_token"])
        assert caller.post("/v1/participants", world.enrolment()).status_code == 201


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({}, 400, "invalid_request"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, 401, "invalid_client"),
        ({"grant_type": "client_credentials", "client_id": "x", "client_secret": "y"}, 401, "invalid_client"),
        ({"grant_type": "refresh_token"}, 400, "invalid_request"),
        ({"grant_type": "client_credentials", "scope": "all"}, 400, "invalid_scope"),
        ({"grant_type": "refresh_token", "refresh_token": "unknown"}, 400, "invalid_grant"),
    ],
)
def test_the_token_endpoint_refuses_as_oauth_does(world: World, form: dict[str, str], status: int, error: str) -> None:
    answer = token(world, **form)
    assert (answer.status_code, answer.json()) == (status, {"error": error})
    assert (status == 401) == ("WWW-Authenticate" in answer.headers)


def test_a_person_cannot_use_the_site_apps_way_in(world: World) -> None:
    answer = token(world, grant_type="client_credentials", client_id=person(world), client_secret=PASSWORD)
    assert answer.status_code == 401


def test_a_refresh_token_works_once_and_its_reuse_ends_the_session(world: World) -> None:
    first = sign_in(world, person(world)).json()["refresh_token"]
    second = token(world, grant_type="refresh_token", refresh_token=first)
    assert second.status_code == 200
    assert token(world, grant_type="refresh_token", refresh_token=first).status_code == 400
    descendant = token(world, grant_type="refresh_token", refresh_token=second.json()["refresh_token"])
    assert descendant.status_code == 400


def test_a_session_ends_half_a_day_after_signing_in_however_often_it_is_renewed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = base.now()
    refresh = sign_in(world, person(world)).json()["refresh_token"]
    answers = []
    for hours in (5, 10, 13):
        monkeypatch.setattr(sign_in_service, "now", lambda at=begun + timedelta(hours=hours): at)
        answers.append(token(world, grant_type="refresh_token", refresh_token=refresh))
        refresh = answers[-1].json().get("refresh_token", refresh)
    assert [answer.status_code for answer in answers] == [200, 200, 400]
    assert answers[-1].json() == {"error": "invalid_grant"}


def test_a_revoked_session_cannot_be_refreshed(world: World) -> None:
    refresh = sign_in(world, person(world)).json()["refresh_token"]
    assert world.registry.client.post("/v1/auth/revoke", data={"token": refresh}).status_code == 200
    assert token(world, grant_type="refresh_token", refresh_token=refresh).status_code == 400


def test_revoking_an_unknown_token_is_no_error(world: World) -> None:
    assert world.registry.client.post("/v1/auth/revoke", data={"token": "unknown"}).status_code == 200


def test_a_clients_secret_is_shown_once_and_stored_hashed(world: World) -> None:
    credentials = app(world)
    listed = world.admin.get("/v1/clients").text
    assert credentials["client_id"] in listed
    assert credentials["client_secret"] not in listed


@pytest.mark.parametrize("password", ["tooBrief-1", "x" * 129])
def test_a_password_has_a_sensible_length(world: World, password: str) -> None:
    body = {"username": f"u{uuid4().hex}", "display_name": "P", "organisation": "O", "password": password}
    answer = world.admin.post("/v1/users", body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/password"
    assert password not in answer.text


@pytest.mark.parametrize(
    "body",
    [
        {"role": "site_staff"},
        {"role": "site_staff", "study": "STUDY"},
        {"role": "admin", "study": "STUDY"},
        {"role": "analyst", "study": "STUDY", "sites": ["A"]},
        {"role": "monitor", "study": "STUDY", "sites": []},
    ],
)
def test_a_role_and_a_place_that_do_not_fit_are_refused(world: World, body: dict[str, object]) -> None:
    account = world.account()
    asked = {**body, **({"study": world.study} if "study" in body else {})}
    answer = world.admin.post(f"/v1/users/{account.id}/grants", asked)
    assert (answer.status_code, answer.json()["code"]) == (422, "grant_scope_wrong")


@pytest.mark.parametrize(
    ("first", "second"), [("analyst", "custodian"), ("custodian", "analyst"), ("custodian", "admin")]
)
def test_nobody_is_custodian_together_with_analyst_or_admin(world: World, first: str, second: str) -> None:
    account = world.account()
    place = {"study": world.study}

    def grant(role: str) -> Response:
        return world.admin.post(f"/v1/users/{account.id}/grants", {"role": role, **({} if role == "admin" else place)})

    assert grant(first).status_code == 201
    refused = grant(second)
    assert (refused.status_code, refused.json()["code"]) == (409, "custodian_separate")
