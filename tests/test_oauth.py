"""The token and revocation addresses, to the letter of RFC 6749, 6750 and 7009."""

import base64
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus, urlencode
from uuid import UUID, uuid4

import pytest
from httpx2 import Response
from sqlmodel import col, select

from app.models.account import Account, ClientSecret
from app.models.base import now
from app.web.oauth import MAX_FIELD_CHARACTERS
from tests.test_sign_in import app, person, sign_in
from tests.world import Caller, World

MARK = "Zq7MARKq7Z"
GRANT = {"grant_type": "client_credentials"}


def post(world: World, form: Any, path: str = "token", **headers: str) -> Response:
    content = form if isinstance(form, str) else urlencode(form)
    sent = {"Content-Type": "application/x-www-form-urlencoded", **headers}
    return world.registry.client.post(f"/v1/auth/{path}", content=content, headers=sent)


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def refusal(answer: Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")
    assert set(answer.json()) <= {"error", "error_description"}
    assert MARK not in answer.text
    return answer.status_code, answer.json()["error"]


def test_a_token_answer_has_what_there_is_and_is_not_kept(world: World) -> None:
    answer = post(world, {**GRANT, **app(world)})
    assert answer.json().keys() == {"access_token", "token_type", "expires_in"}
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")


@pytest.mark.parametrize("path", ["token", "revoke"])
@pytest.mark.parametrize(
    "form",
    [
        f"grant_type=client_credentials&grant_type={MARK}&token=x",
        f"token={MARK}&token={MARK}&grant_type=refresh_token",
        f"{MARK}=1&{MARK}=2&token=x",
        urlencode({**GRANT, "token": MARK * MAX_FIELD_CHARACTERS}),
        "&".join(f"{MARK}{number}=1" for number in range(51)),
        "token=%ff&grant_type=%ff",
        "token=%00&grant_type=%00",
        "grant_type=&token=",
        "",
    ],
    ids=range(9),
)
def test_a_form_that_says_something_twice_too_long_or_not_at_all_is_an_invalid_request(
    world: World, path: str, form: str
) -> None:
    assert refusal(post(world, form, path)) == (400, "invalid_request")


@pytest.mark.parametrize("path", ["token", "revoke"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "", "multipart/form-data; boundary=x"])
def test_only_a_form_is_read(world: World, path: str, kind: str) -> None:
    answer = post(world, {**GRANT, **app(world), "token": "x"}, path, **{"Content-Type": kind})
    assert refusal(answer) == (400, "invalid_request")


@pytest.mark.parametrize("path", ["token", "revoke"])
def test_nothing_of_it_belongs_in_the_address(world: World, path: str) -> None:
    assert refusal(post(world, {"token": "x", **GRANT}, f"{path}?client_secret={MARK}")) == (400, "invalid_request")


def test_credentials_come_one_way_only(world: World) -> None:
    known = app(world)
    header = {"Authorization": basic(*known.values())}
    assert refusal(post(world, {**GRANT, **known}, **header)) == (400, "invalid_request")
    assert refusal(post(world, {**GRANT, "client_id": MARK}, **header)) == (400, "invalid_request")
    assert post(world, {**GRANT, "client_id": known["client_id"]}, **header).status_code == 200
    doubled = [("Authorization", header["Authorization"])] * 2
    assert refusal(world.registry.client.post("/v1/auth/token", data=GRANT, headers=doubled)) == (
        400,
        "invalid_request",
    )


@pytest.mark.parametrize(
    "header",
    [
        basic(MARK, MARK),
        basic("", ""),
        f"Basic {MARK}!",
        f"Bearer {MARK}",
        "Basic",
        basic("%ff", MARK),
        basic("é", "x"),
    ],
)
def test_a_client_that_is_none_is_challenged_for_basic(world: World, header: str) -> None:
    answer = post(world, GRANT, Authorization=header)
    assert refusal(answer) == (401, "invalid_client")
    assert answer.headers["WWW-Authenticate"].startswith('Basic realm="')


def test_basic_credentials_are_form_encoded_inside(world: World) -> None:
    known = app(world)
    login = f"app:{uuid4().hex} é"
    with world.registry.database.write() as session:
        session.exec(select(Account).where(Account.login == known["client_id"])).one().login = login
    encoded = basic(quote_plus(login), quote_plus(known["client_secret"]))
    assert post(world, GRANT, Authorization=encoded).status_code == 200
    assert post(world, GRANT, Authorization=basic(login, known["client_secret"])).status_code == 401


def test_an_expired_or_revoked_secret_does_not_work_and_several_may_coexist(world: World) -> None:
    known = app(world)
    secrets = ["rrs_second", "rrs_third"]
    keyring = world.registry.app.state.keyring
    with world.registry.database.write() as session:
        account = session.exec(select(Account).where(Account.login == known["client_id"])).one()
        for secret, seconds in zip(secrets, (60, -1), strict=True):
            digest = keyring.digest("secret-digest", secret.encode())
            row = ClientSecret(account_id=account.id, digest=digest, expires_at=now() + timedelta(seconds=seconds))
            session.add(row)
    asked = [post(world, {**GRANT, **known, "client_secret": secret}) for secret in (known["client_secret"], *secrets)]
    assert [answer.status_code for answer in asked] == [200, 200, 401]
    with world.registry.database.write() as session:
        for row in session.exec(select(ClientSecret).where(ClientSecret.account_id == account.id)).all():
            row.revoked_at = now()
    assert post(world, {**GRANT, **known}).status_code == 401


def test_the_use_of_a_secret_is_noted_at_most_once_a_minute(world: World) -> None:
    known = app(world)

    def noted() -> Any:
        wanted = select(ClientSecret).join(Account).where(Account.login == known["client_id"])
        with world.registry.database.read() as session:
            return session.exec(wanted).one().last_used_at

    assert noted() is None
    post(world, {**GRANT, **known})
    first = noted()
    post(world, {**GRANT, **known})
    assert noted() == first is not None
    with world.registry.database.write() as session:
        session.exec(select(ClientSecret).where(ClientSecret.last_used_at == first)).one().last_used_at = (
            first - timedelta(seconds=61)
        )
    post(world, {**GRANT, **known})
    assert noted() >= first


def test_a_site_app_cannot_refresh_a_persons_session(world: World) -> None:
    refresh = sign_in(world, person(world)).json()["refresh_token"]
    form = {"grant_type": "refresh_token", "refresh_token": refresh}
    assert refusal(post(world, {**form, **app(world)})) == (400, "invalid_grant")
    assert post(world, form).status_code == 200


def revoke(world: World, token: str, **form: str) -> Response:
    return post(world, {"token": token, **form}, "revoke")


def works(world: World, token: str) -> bool:
    return Caller(world.registry.client, token).get("/v1/me").status_code == 200


@pytest.mark.parametrize("which", ["access_token", "refresh_token"])
@pytest.mark.parametrize("hint", ["access_token", "refresh_token", MARK])
def test_either_token_ends_the_whole_session_whatever_the_hint(world: World, which: str, hint: str) -> None:
    session = sign_in(world, person(world)).json()
    again = post(world, {"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}).json()
    assert works(world, session["access_token"])
    assert works(world, again["access_token"])
    assert revoke(world, again[which], token_type_hint=hint).status_code == 200
    assert not works(world, session["access_token"])
    assert not works(world, again["access_token"])
    form = {"grant_type": "refresh_token", "refresh_token": again["refresh_token"]}
    assert refusal(post(world, form)) == (400, "invalid_grant")
    assert revoke(world, again[which]).status_code == 200


def test_one_session_ends_and_the_others_go_on(world: World) -> None:
    username = person(world)
    one, other = (sign_in(world, username).json() for _ in range(2))
    revoke(world, one["access_token"])
    assert not works(world, one["access_token"])
    assert works(world, other["access_token"])


def test_reuse_of_a_refresh_token_ends_the_access_tokens_too(world: World) -> None:
    session = sign_in(world, person(world)).json()
    form = {"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}
    again = post(world, form).json()
    assert refusal(post(world, form)) == (400, "invalid_grant")
    assert not works(world, again["access_token"])


def test_a_site_app_revokes_its_own_tokens_and_nobody_elses(world: World) -> None:
    own, another = app(world), app(world)
    token, other = (post(world, {**GRANT, **own}).json()["access_token"] for _ in range(2))
    session = sign_in(world, person(world)).json()
    assert refusal(revoke(world, token)) == (401, "invalid_client")
    assert refusal(revoke(world, token, **another)) == (400, "invalid_grant")
    assert refusal(revoke(world, session["access_token"], **own)) == (400, "invalid_grant")
    assert refusal(revoke(world, token, client_id=own["client_id"], client_secret=MARK)) == (401, "invalid_client")
    assert works(world, token)
    assert works(world, session["access_token"])
    assert revoke(world, token, **own).status_code == 200
    assert not works(world, token)
    assert works(world, other)


@pytest.mark.parametrize("token", [MARK, "a.b.c", "x" * MAX_FIELD_CHARACTERS, "[" * 1000])
def test_an_unknown_token_is_answered_as_a_known_one(world: World, token: str) -> None:
    assert (revoke(world, token).status_code, revoke(world, token).content) == (200, b"")


def test_a_session_of_a_disabled_person_cannot_go_on(world: World) -> None:
    session = sign_in(world, person(world)).json()
    subject = Caller(world.registry.client, session["access_token"]).get("/v1/me").json()["id"]
    with world.registry.database.write() as writing:
        writing.exec(select(Account).where(col(Account.id) == UUID(subject))).one().disabled_at = now()
    assert not works(world, session["access_token"])
    form = {"grant_type": "refresh_token", "refresh_token": session["refresh_token"]}
    assert refusal(post(world, form)) == (400, "invalid_grant")
