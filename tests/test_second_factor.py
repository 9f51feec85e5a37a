"""The second factor of people, and what they do to their own password."""

import base64
import time
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import pytest
from httpx2 import Response
from sqlmodel import select

from app.models.account import Account
from app.models.base import now
from app.models.sign_in import Totp
from app.security import totp
from app.security.common_passwords import COMMON_PASSWORDS
from app.security.passwords import PasswordTooEasy, require_strong
from app.services.identity import throttle
from tests.route_cases import totp_code
from tests.test_sign_in import PASSWORD, person, sign_in
from tests.world import Caller, World

RFC_6238 = {
    59: "94287082",
    1111111109: "07081804",
    1111111111: "14050471",
    1234567890: "89005924",
    2000000000: "69279037",
    20000000000: "65353130",
}


@pytest.mark.parametrize(("seconds", "expected"), RFC_6238.items())
def test_codes_are_those_of_rfc_6238_appendix_b(seconds: int, expected: str) -> None:
    secret = b"12345678901234567890"
    assert totp.code(secret, totp.step_at(seconds), digits=8) == expected
    assert totp.code(secret, totp.step_at(seconds)) == expected[2:]


def test_a_code_is_good_for_one_step_either_way_and_never_before_the_last_used_one() -> None:
    secret, moment = totp.new_secret(), 1_700_000_000
    present = totp.step_at(moment)
    for away, accepted in ((-2, False), (-1, True), (0, True), (1, True), (2, False)):
        found = totp.matching_step(secret, totp.code(secret, present + away), moment, after=None)
        assert found == (present + away if accepted else None)
    for after, accepted in ((present - 1, True), (present, False), (present + 1, False)):
        assert (totp.matching_step(secret, totp.code(secret, present), moment, after) == present) is accepted


def test_the_secret_is_given_as_text_and_as_an_address() -> None:
    secret = totp.new_secret()
    address = urlsplit(totp.otpauth_uri(secret, "research-registry", "u.name"))
    assert (address.scheme, address.netloc, address.path) == ("otpauth", "totp", "/research-registry:u.name")
    facts = {name: value for name, (value,) in parse_qs(address.query).items()}
    assert base64.b32decode(facts["secret"]) == secret
    assert facts == {
        "secret": totp.shown(secret),
        "issuer": "research-registry",
        "algorithm": "SHA1",
        "digits": "6",
        "period": "30",
    }


def signed_in(world: World, answer: Response) -> Caller:
    assert answer.status_code == 201, answer.text
    return Caller(world.registry.client, answer.json()["access_token"])


def with_code(world: World, username: str, code: str, password: str = PASSWORD) -> Response:
    body = {"username": username, "password": password, "totp": code}
    return world.registry.client.post("/v1/auth/sessions", json=body)


def offered(caller: Caller) -> str:
    answer = caller.post("/v1/me/totp", {"password": PASSWORD})
    assert answer.status_code == 201, answer.text
    secret: str = answer.json()["secret"]
    assert f"secret={secret}&" in answer.json()["otpauth_uri"]
    return secret


def protected(world: World) -> tuple[str, str]:
    """A person with a second factor, turned on by the code of the previous step."""
    username = person(world)
    caller = signed_in(world, sign_in(world, username))
    secret = offered(caller)
    if (left := 30 - time.time() % 30) < 2:  # the step of the code would be two ago when it arrives
        time.sleep(left)
    answer = caller.post("/v1/me/totp/confirmation", {"code": totp_code(secret, -1)})
    assert answer.status_code == 204, answer.text
    return username, secret


def code_of(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def test_a_second_factor_is_asked_for_once_the_password_fitted(world: World) -> None:
    username, secret = protected(world)
    assert code_of(sign_in(world, username)) == (401, "totp_needed")
    assert code_of(sign_in(world, username, "not the password")) == (401, "credentials_wrong")
    assert code_of(with_code(world, username, totp_code(secret), "not the password")) == (401, "credentials_wrong")
    signed_in(world, with_code(world, username, totp_code(secret)))


def test_a_right_password_without_a_code_is_remembered_once_a_minute(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    username, _ = protected(world)
    at = now()
    for minutes in (0, 0.5, 0.99, 1.5, 2.6):
        monkeypatch.setattr(throttle, "now", lambda moment=at + timedelta(minutes=minutes): moment)
        for _ in range(2):
            assert code_of(sign_in(world, username)) == (401, "totp_needed")
    with world.registry.database.read() as session:
        known = session.exec(select(Account.id).where(Account.login == username)).one()
    trail = world.admin.get("/v1/audit-entries", subject_id=str(known)).json()["items"]
    assert [row["action"] for row in trail].count("session:code-asked-for") == 3
    assert "session:refused" not in [row["action"] for row in trail], "nobody waits for it"


def test_a_code_works_once(world: World) -> None:
    username, secret = protected(world)
    code = totp_code(secret)
    signed_in(world, with_code(world, username, code))
    assert code_of(with_code(world, username, code)) == (401, "totp_wrong")
    assert code_of(with_code(world, username, totp_code(secret, -1))) == (401, "totp_wrong")


def test_wrong_codes_count_as_failures(world: World) -> None:
    username, secret = protected(world)
    wrong = f"{(int(totp_code(secret)) + 5) % 10**6:06}"
    assert [with_code(world, username, wrong).status_code for _ in range(6)] == [401] * 5 + [429]


def test_a_factor_that_was_not_confirmed_is_not_asked_for(world: World) -> None:
    username = person(world)
    caller = signed_in(world, sign_in(world, username))
    first, second = offered(caller), offered(caller)
    assert first != second
    assert caller.post("/v1/me/totp/confirmation", {"code": totp_code(first)}).json()["code"] == "totp_wrong"
    caller = signed_in(world, sign_in(world, username))
    assert caller.post("/v1/me/totp/confirmation", {"code": totp_code(second)}).status_code == 204
    assert caller.post("/v1/me/totp", {"password": PASSWORD}).json()["code"] == "totp_already_on"
    assert caller.post("/v1/me/totp/confirmation", {"code": totp_code(second)}).json()["code"] == "totp_already_on"


def test_setting_up_needs_the_password_and_an_offer(world: World) -> None:
    caller = signed_in(world, sign_in(world, person(world)))
    assert code_of(caller.post("/v1/me/totp", {"password": "not the password"})) == (401, "credentials_wrong")
    assert code_of(caller.post("/v1/me/totp/confirmation", {"code": "123456"})) == (409, "totp_not_offered")


def test_the_secret_is_stored_sealed(world: World) -> None:
    username, secret = protected(world)
    with world.registry.database.read() as session:
        row = session.exec(select(Totp).join(Account).where(Account.login == username)).one()
    assert secret not in row.sealed
    assert base64.b32decode(secret) not in base64.urlsafe_b64decode(row.sealed + "==")


def test_a_new_password_ends_the_other_sessions_and_keeps_this_one(world: World) -> None:
    username = person(world)
    kept, other = sign_in(world, username), sign_in(world, username)
    caller = signed_in(world, kept)
    new = f"another pass phrase {time.time()}"
    assert caller.post("/v1/me/password", {"current": PASSWORD, "new": new}).status_code == 204
    assert caller.get("/v1/me").status_code == 200
    assert signed_in(world, other).get("/v1/me").status_code == 401
    ask = world.registry.client.post
    for session, status in ((kept, 200), (other, 400)):
        form = {"grant_type": "refresh_token", "refresh_token": session.json()["refresh_token"]}
        assert ask("/v1/auth/token", data=form).status_code == status
    assert sign_in(world, username).status_code == 401
    assert sign_in(world, username, new).status_code == 201


def test_the_current_password_is_needed_and_guessing_it_is_throttled(world: World) -> None:
    caller = signed_in(world, sign_in(world, person(world)))
    body = {"current": "not the password", "new": "another pass phrase"}
    answers = [caller.post("/v1/me/password", body).status_code for _ in range(6)]
    assert answers == [401] * 5 + [429]


@pytest.mark.parametrize("password", ["Password1234", "qwertyuiop123", "AAAAbbbbAAAA", "correcthorsebatterystaple"])
def test_a_password_that_many_people_use_is_refused(world: World, password: str) -> None:
    caller = signed_in(world, sign_in(world, person(world)))
    refused = caller.post("/v1/me/password", {"current": PASSWORD, "new": password})
    assert code_of(refused) == (422, "password_too_easy")
    assert refused.json()["errors"][0]["pointer"] == "/new"
    body = {"username": f"u{uuid4().hex}", "display_name": "P", "organisation": "O", "password": password}
    assert code_of(world.admin.post("/v1/users", body)) == (422, "password_too_easy")


def test_a_password_must_not_hold_the_username() -> None:
    with pytest.raises(PasswordTooEasy):
        require_strong("the one of Jane.Doe!", "jane.doe", "/password")
    require_strong("a long enough pass phrase", "jane.doe", "/password")


def test_the_list_of_common_passwords_is_of_long_ones_in_lower_case() -> None:
    long = {password for password in COMMON_PASSWORDS if len(password) >= 12}
    assert len(long) > 300
    assert all(password == password.casefold() for password in COMMON_PASSWORDS)


def test_a_code_that_a_parallel_request_spent_is_not_accepted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    username, secret = protected(world)
    matching_step = totp.matching_step

    def overtaken(*given: Any) -> int | None:
        step = matching_step(*given)
        with world.registry.database.write() as session:
            session.exec(select(Totp).join(Account).where(Account.login == username)).one().last_step = step
        return step

    monkeypatch.setattr(totp, "matching_step", overtaken)
    assert code_of(with_code(world, username, totp_code(secret))) == (401, "totp_wrong")


def test_an_admin_takes_a_lost_second_factor_off_with_a_new_password(world: World) -> None:
    username, _ = protected(world)
    user = next(row for row in world.admin.get("/v1/users").json()["items"] if row["login"] == username)
    path, fresh = f"/v1/users/{user['id']}/password", "another quiet harbour"
    assert world.admin.post(path, {"password": fresh, "reason": "forgotten"}).is_success
    assert code_of(sign_in(world, username, fresh)) == (401, "totp_needed")
    taken_off = {"password": fresh, "reason": "phone lost, seen in person", "second_factor_off": True}
    assert world.admin.post(path, taken_off).is_success
    assert sign_in(world, username, fresh).status_code == 201
