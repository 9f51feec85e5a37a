"""Signing in through the institution's OpenID Connect provider: who somebody is comes from there, grants from here."""

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jose import jws
from sqlalchemy import update
from sqlmodel import col

from app.errors import DatabaseUnavailable
from app.models.account import Account, Role
from app.security import oidc
from app.security.jwt import TokenRefused
from app.security.oidc import Provider, ProviderUnavailable
from app.services.identity.outside_sign_ins import OutsideSignIns
from app.services.identity.throttle import Throttle
from app.settings import Settings
from tests.hot_requests import statements
from tests.provider import AUDIENCE, Key, OutsideProvider, new_key, running_provider
from tests.world import Caller, World


@pytest.fixture
def outside() -> Iterator[OutsideProvider]:
    with running_provider() as provider:
        yield provider


def settings(outside: OutsideProvider, **more: Any) -> Settings:
    return Settings(environment="demo", oidc_issuer=outside.url, oidc_audience=AUDIENCE, **more)


@pytest.fixture
def ours(outside: OutsideProvider) -> Provider:
    """The registry's view of the provider."""
    return Provider(settings(outside))


@pytest.fixture
def connected(world: World, outside: OutsideProvider, monkeypatch: pytest.MonkeyPatch) -> OutsideProvider:
    """The world's registry trusts the provider."""
    monkeypatch.setitem(world.registry.app.state._state, "settings", settings(outside))
    monkeypatch.setitem(world.registry.app.state._state, "provider", Provider(settings(outside)))
    return outside


def linked(world: World, subject: str, *grants: tuple[Role, str | None]) -> Account:
    account = world.account(*grants)
    answer = world.admin.post(f"/v1/users/{account.id}/identity", {"subject": subject, "reason": "joined the site"})
    assert answer.status_code == 201, answer.text
    return account


def told(caller: Caller, path: str = "/v1/me") -> tuple[int, str | None]:
    answer = caller.get(path)
    return answer.status_code, answer.json().get("code")


def test_a_linked_person_has_the_grants_held_here_and_no_others(world: World, connected: OutsideProvider) -> None:
    subject = uuid4().hex
    account = linked(world, subject, (Role.monitor, "A"))
    caller = Caller(world.registry.client, connected.token(sub=subject, roles=["admin"], scope="admin"))
    me = caller.get("/v1/me").json()
    assert (me["id"], [grant["role"] for grant in me["grants"]]) == (str(account.id), ["monitor"])
    assert told(caller, "/v1/participants") == (200, None)
    assert told(caller, "/v1/users") == (403, "permission_missing")
    pid = world.enrolled("B")
    assert told(caller, f"/v1/participants/{pid}") == (404, "not_found")


def test_an_outside_account_that_is_not_linked_is_refused(world: World, connected: OutsideProvider) -> None:
    answer = world.registry.client.get("/v1/me", headers={"Authorization": f"Bearer {connected.token(sub='x')}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"]


def test_a_disabled_account_a_revoked_grant_and_a_removed_link_act_at_once(
    world: World, connected: OutsideProvider
) -> None:
    subject = uuid4().hex
    account = linked(world, subject, (Role.monitor, "A"))
    caller = Caller(world.registry.client, connected.token(sub=subject))
    world.revoke(account)
    assert told(caller, "/v1/participants") == (403, "permission_missing")
    with world.registry.database.write() as session:
        session.execute(update(Account).where(col(Account.id) == account.id).values(disabled_at=account.created_at))
    assert told(caller) == (401, "token_invalid")
    with world.registry.database.write() as session:
        session.execute(update(Account).where(col(Account.id) == account.id).values(disabled_at=None))
    assert told(caller)[0] == 403  # no grant is left
    world.admin.post(f"/v1/users/{account.id}/identity", {"subject": None, "reason": "left the institution"})
    assert told(caller) == (401, "token_invalid")


def test_one_person_there_is_one_account_here_and_the_link_is_in_the_trail(
    world: World, connected: OutsideProvider
) -> None:
    subject = uuid4().hex
    account = linked(world, subject)
    other = world.account()
    again = world.admin.post(f"/v1/users/{other.id}/identity", {"subject": subject, "reason": "joined"})
    assert (again.status_code, again.json()["code"]) == (409, "identity_taken")
    trail = world.admin.get("/v1/audit-entries", subject_id=str(account.id)).json()["items"]
    assert {(row["field"], row["new"]) for row in trail if row["action"] == "account:identity-linked"} == {
        ("oidc_issuer", connected.url),
        ("oidc_subject", subject),
    }


def sign_ins(world: World, account: Account) -> int:
    trail = world.admin.get("/v1/audit-entries", actor=str(account.id), action="session:outside").json()["items"]
    return len(trail)


def test_the_first_use_of_a_token_is_in_the_trail_whatever_its_answer(world: World, connected: OutsideProvider) -> None:
    account = linked(world, subject := uuid4().hex, (Role.monitor, "A"))
    for number, path in enumerate(("/v1/me", "/v1/users", f"/v1/visits/{uuid4()}", "/v1/visits?limit=0"), start=1):
        caller = Caller(world.registry.client, connected.token(sub=subject, jti=str(number)))
        for _ in range(2):
            caller.get(path)
        assert sign_ins(world, account) == number, path


def test_later_uses_of_a_token_cost_no_statement(world: World, connected: OutsideProvider) -> None:
    linked(world, subject := uuid4().hex, (Role.monitor, "A"))
    caller, made = Caller(world.registry.client, connected.token(sub=subject)), []
    with statements(world.registry.served, lambda _cursor, statement, _given: made.append(statement)):
        caller.get("/v1/participants")
        first = len(made)
        caller.get("/v1/participants")
        assert any("throttle" in statement for statement in made[:first])
        assert not any("throttle" in statement or "audit" in statement for statement in made[first:])


def test_workers_remember_the_first_use_of_a_token_once_among_them(
    world: World, connected: OutsideProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = linked(world, subject := uuid4().hex, (Role.monitor, "A"))
    caller, state = Caller(world.registry.client, connected.token(sub=subject)), world.registry.app.state
    for _ in range(2):
        monkeypatch.setitem(state._state, "outside_sign_ins", OutsideSignIns(state.database, state.throttle))
        assert told(caller) == (200, None)
    assert sign_ins(world, account) == 1


def test_a_use_that_could_not_be_remembered_is_remembered_with_the_next(
    world: World, connected: OutsideProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = linked(world, subject := uuid4().hex, (Role.monitor, "A"))
    caller = Caller(world.registry.client, connected.token(sub=subject))

    def away(*_: object) -> bool:
        raise DatabaseUnavailable

    with monkeypatch.context() as broken:
        broken.setattr(Throttle, "first_in_a_day", away)
        assert told(caller) == (200, None)
    assert sign_ins(world, account) == 0
    assert told(caller) == (200, None)
    assert sign_ins(world, account) == 1


def test_without_a_provider_nobody_is_linked(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    unconnected = world.registry.app.state.settings.model_copy(update={"oidc_issuer": None})
    monkeypatch.setitem(world.registry.app.state._state, "settings", unconnected)
    answer = world.admin.post(f"/v1/users/{world.account().id}/identity", {"subject": "x", "reason": "joined"})
    assert (answer.status_code, answer.json()["code"]) == (409, "provider_not_configured")


def test_tokens_of_either_kind_of_key_and_the_usual_headers_are_taken(ours: Provider, outside: OutsideProvider) -> None:
    for key in outside.keys:
        for header in ({}, {"typ": "at+jwt"}, {"typ": "JWT", "x5t": "abc"}):
            assert ours.verify(outside.token(key, header)).subject == "s-1"
    assert ours.verify(outside.token(aud=["account", AUDIENCE], typ="Bearer", nbf=int(time.time()))).subject == "s-1"
    assert outside.asked["/keys"] == 1


NOW = int(time.time())


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"aud": "another-api"},
        {"aud": ["another-api"]},
        {"aud": None},
        {"exp": NOW - 1},
        {"exp": str(NOW + 300)},
        {"exp": None},
        {"exp": True},
        {"exp": NOW + 90_000},
        {"iat": NOW + 3600, "exp": NOW + 3700},
        {"iat": None},
        {"iat": "x"},
        {"nbf": NOW + 3600},
        {"nbf": "x"},
        {"sub": None},
        {"sub": ""},
        {"sub": 5},
        {"sub": "x" * 256},
        {"sub": "a\nb"},
        {"nonce": "n"},
        {"at_hash": "h"},
        {"typ": "ID"},
        {"typ": "Refresh"},
    ],
)
def test_a_well_signed_token_with_other_claims_is_refused(
    ours: Provider, outside: OutsideProvider, claims: dict[str, Any]
) -> None:
    with pytest.raises(TokenRefused):
        ours.verify(outside.token(**claims))


def _segment(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _unsigned(outside: OutsideProvider) -> str:
    _, payload, _ = outside.token().split(".")
    return f'{_segment(b"""{"alg":"none","kid":"%s"}""" % outside.keys[0].kid.encode())}.{payload}.AA'


def _by_public_key(outside: OutsideProvider) -> str:
    """The public key's bytes as the secret of an HMAC."""
    key = outside.keys[0]
    secret = key.public["n"].encode()
    header = {"kid": key.kid}
    signed: str = jws.sign({"iss": outside.url, "aud": AUDIENCE}, secret.hex(), header, "HS256")
    return signed


FORGERIES: dict[str, Callable[[OutsideProvider], str]] = {
    "alg none": _unsigned,
    "hmac with the public key": _by_public_key,
    "a stranger's key": lambda outside: outside.token(new_key()),
    "a stranger's key under a known kid": lambda outside: outside.token(
        Key(outside.keys[0].kid, "RS256", new_key().pem)
    ),
    "the kid of the other key": lambda outside: outside.token(outside.keys[0], {"kid": outside.keys[1].kid}),
    "crit": lambda outside: outside.token(header={"crit": ["exp"]}),
    "an embedded key": lambda outside: outside.token(header={"jwk": outside.keys[0].public}),
    "a key's address": lambda outside: outside.token(header={"jku": "http://127.0.0.1/keys"}),
    "another type": lambda outside: outside.token(header={"typ": "refresh+jwt"}),
    "nested brackets": lambda outside: f"{_segment(b'[' * 1000)}.AA.AA",
    "too long": lambda outside: outside.token(filler="x" * 9000),
    "cut": lambda outside: outside.token()[:-10],
    "nothing": lambda outside: "",
}


@pytest.mark.parametrize("forged", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_token_is_refused(
    ours: Provider, outside: OutsideProvider, forged: Callable[[OutsideProvider], str]
) -> None:
    ours.verify(outside.token())
    with pytest.raises(TokenRefused):
        ours.verify(forged(outside))


def test_every_other_character_breaks_a_token(ours: Provider, outside: OutsideProvider) -> None:
    token = outside.token(outside.keys[1])
    ours.verify(token)
    for place in range(len(token)):
        other = "A" if token[place] != "A" else "B"
        with pytest.raises(TokenRefused):
            ours.verify(token[:place] + other + token[place + 1 :])


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: f"{_segment(raw)}.{_segment(raw)}.AA"))
def test_no_text_brings_down_the_check(text: str) -> None:
    with pytest.raises(TokenRefused):
        Provider(Settings(environment="demo", oidc_issuer="http://127.0.0.1:9", oidc_audience="r")).verify(text)


def test_a_new_key_is_taken_up_and_a_removed_one_ends(
    ours: Provider, outside: OutsideProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = outside.token()
    ours.verify(old)
    outside.keys = [new_key("ES256")]
    with pytest.raises(TokenRefused):
        ours.verify(outside.token())  # asked a moment ago
    monkeypatch.setattr(oidc, "RETRY_SECONDS", 0)
    ours.verify(outside.token())
    with pytest.raises(TokenRefused):
        ours.verify(old)


def test_forged_kids_cost_the_provider_one_request(ours: Provider, outside: OutsideProvider) -> None:
    ours.verify(outside.token())
    for _ in range(50):
        with pytest.raises(TokenRefused):
            ours.verify(outside.token(header={"kid": uuid4().hex}))
    assert outside.asked["/keys"] == 1


def test_tokens_of_another_issuer_cost_the_provider_none(ours: Provider, outside: OutsideProvider) -> None:
    with pytest.raises(TokenRefused):
        ours.verify(outside.token(iss="https://elsewhere.example"))
    assert not outside.asked


def test_known_keys_outlive_a_provider_that_is_down(
    ours: Provider, outside: OutsideProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours.verify(outside.token())
    outside.up = False
    monkeypatch.setattr(oidc, "RETRY_SECONDS", 0)
    monkeypatch.setattr(oidc, "KEYS_SECONDS", 0)
    assert ours.verify(outside.token(sub="s-2")).subject == "s-2"
    assert outside.asked["/.well-known/openid-configuration"] == 2
    monkeypatch.setattr(oidc, "KEPT_SECONDS", 0)
    with pytest.raises(ProviderUnavailable):
        ours.verify(outside.token(sub="s-3"))


UNTRUSTED: dict[str, Callable[[OutsideProvider], None]] = {
    "down": lambda outside: setattr(outside, "up", False),
    "another issuer": lambda outside: outside.discovery.update(issuer="https://elsewhere.example"),
    "keys elsewhere without TLS": lambda outside: outside.discovery.update(jwks_uri="http://elsewhere.example/keys"),
    "keys in a file": lambda outside: outside.discovery.update(jwks_uri="file:///etc/passwd"),
    "a redirect": lambda outside: setattr(outside, "redirects_to", "http://127.0.0.1/"),
    "5 MB of keys": lambda outside: setattr(outside, "padding", 5_000_000),
    "a thousand keys": lambda outside: setattr(outside, "published", [{}] * 1000),
}


@pytest.mark.by_turns
@pytest.mark.parametrize("wrong", UNTRUSTED.values(), ids=UNTRUSTED.keys())
def test_a_provider_that_misbehaves_is_not_believed(
    world: World, connected: OutsideProvider, wrong: Callable[[OutsideProvider], None]
) -> None:
    wrong(connected)
    answer = world.registry.client.get("/v1/me", headers={"Authorization": f"Bearer {connected.token()}"})
    assert (answer.status_code, answer.json()["code"]) == (503, "provider_unavailable")
    assert answer.headers["Retry-After"] == "30"
    assert world.admin.get("/v1/me").status_code == 200


@pytest.mark.parametrize(
    "spoil",
    [
        {"use": "enc"},
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"kid": 5},
        {"kty": "oct", "k": "AAAA"},
    ],
    ids=str,
)
def test_a_key_of_another_use_is_left_aside(ours: Provider, outside: OutsideProvider, spoil: dict[str, Any]) -> None:
    outside.published = [{**outside.keys[0].public, **spoil}, outside.keys[1].public]
    with pytest.raises(TokenRefused):
        ours.verify(outside.token(outside.keys[0]))
    assert ours.verify(outside.token(outside.keys[1])).subject == "s-1"


def test_weak_and_doubled_keys_are_left_aside(ours: Provider, outside: OutsideProvider) -> None:
    weak, good = new_key(bits=1024), outside.keys[1]
    outside.published = [weak.public, good.public, {**new_key("ES256").public, "kid": good.kid}]
    for key in (weak, good):
        with pytest.raises(TokenRefused):
            ours.verify(outside.token(key))


@pytest.mark.parametrize(
    "wrong",
    [
        {"oidc_issuer": "https://sign-in.example"},
        {"oidc_audience": "registry"},
        {"oidc_issuer": "http://sign-in.example", "oidc_audience": "registry"},
        {"oidc_issuer": "https://s.example", "oidc_audience": "r", "oidc_jwks_url": "http://s.example/keys"},
        {"oidc_issuer": "research-registry", "oidc_audience": "registry"},
    ],
    ids=str,
)
def test_a_half_or_unsafe_configuration_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="REGISTRY_OIDC"):
        Settings(environment="production", **wrong)  # type: ignore[arg-type]
