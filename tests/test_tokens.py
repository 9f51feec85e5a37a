"""Access tokens: what python-jose alone would accept, this registry refuses, always with 401."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jose import jwk, jws

from app.security.jwt import TokenRefused
from app.security.keys import Keyring, new_key_file
from app.security.tokens import TokenAuthority
from app.settings import Settings
from tests.world import World

FILE = new_key_file(demo=True)
SETTINGS = Settings(environment="production")
AUTHORITY = TokenAuthority(Keyring(FILE), SETTINGS)
KEY = FILE.signing[0]
PRIVATE = jwk.construct(KEY.private_pem, "ES256")
HEADER = {"kid": KEY.kid, "typ": "at+jwt"}


def claims(**changes: Any) -> dict[str, Any]:
    issued = int(time.time())
    whole = {
        "iss": SETTINGS.issuer,
        "aud": SETTINGS.audience,
        "sub": str(uuid4()),
        "client_id": "app",
        "jti": str(uuid4()),
        "iat": issued,
        "nbf": issued,
        "exp": issued + 900,
        "gv": 1,
        "roles": [],
    }
    return {name: value for name, value in (whole | changes).items() if value is not ...}


def signed(payload: dict[str, Any] | bytes, header: dict[str, Any] | None = None) -> str:
    token: str = jws.sign(payload, PRIVATE, HEADER if header is None else header, "ES256")
    return token


def text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def with_header(raw: str) -> str:
    """A token whose header is this text, with a valid signature over it."""
    signing_input = f"{text(raw.encode())}.{text(json.dumps(claims()).encode())}"
    return f"{signing_input}.{text(PRIVATE.sign(signing_input.encode()))}"


def refused(token: str) -> bool:
    try:
        AUTHORITY.verify(token)
    except TokenRefused:
        return True
    return False


def test_an_issued_token_is_accepted_and_says_who_it_is_for() -> None:
    subject = uuid4()
    verified = AUTHORITY.verify(AUTHORITY.issue(subject, "app", {"monitor"}, 3))
    assert (verified.subject, verified.grants_version) == (subject, 3)
    assert verified.expires_at - verified.issued_at == 900
    assert not refused(signed(claims()))


NOW = int(time.time())
BAD_CLAIMS: list[dict[str, Any]] = [
    *({name: ...} for name in ("iss", "aud", "sub", "client_id", "jti", "iat", "nbf", "exp", "gv")),
    *({name: None} for name in ("iss", "aud", "sub", "client_id", "jti", "iat", "nbf", "exp", "gv")),
    {"iss": "somebody else"},
    {"aud": "another api"},
    {"aud": [SETTINGS.audience]},
    {"sub": "not a uuid"},
    {"exp": str(NOW + 900)},
    {"exp": float(NOW + 900)},
    {"exp": True},
    {"exp": NOW, "iat": NOW - 900, "nbf": NOW - 900},
    {"exp": NOW - 1, "iat": NOW - 900, "nbf": NOW - 900},
    {"exp": NOW + 5_000},
    {"exp": 10**30},
    {"iat": NOW + 86_400, "nbf": NOW + 86_400, "exp": NOW + 86_400 + 60},
    {"nbf": NOW + 60},
    {"gv": "1"},
]


@pytest.mark.parametrize("change", BAD_CLAIMS, ids=lambda change: ",".join(map(str, change)))
def test_a_signed_token_with_wrong_claims_is_refused(change: dict[str, Any]) -> None:
    assert refused(signed(claims(**change)))


BAD_HEADERS: list[dict[str, Any]] = [
    {"kid": KEY.kid},
    {"typ": "at+jwt"},
    {"kid": KEY.kid, "typ": "JWT"},
    {"kid": KEY.kid, "typ": "refresh+jwt"},
    {"kid": "another", "typ": "at+jwt"},
    {"kid": ["x"], "typ": "at+jwt"},
    {**HEADER, "crit": ["exp"]},
    {**HEADER, "jku": "http://127.0.0.1/keys"},
    {**HEADER, "jwk": {}},
    {**HEADER, "b64": False},
]


@pytest.mark.parametrize("header", BAD_HEADERS, ids=lambda header: ",".join(map(str, header)))
def test_a_header_with_more_less_or_other_than_ours_is_refused(header: dict[str, Any]) -> None:
    assert refused(signed(claims(), header))


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "ES384", "RS256", "", None, ["ES256"], {}])
def test_no_other_algorithm_is_taken_from_the_token(algorithm: Any) -> None:
    assert refused(with_header(json.dumps({**HEADER, "alg": algorithm})))


@pytest.mark.parametrize(
    "header",
    [
        f'{{"alg":"ES256","kid":"{KEY.kid}","typ":"at+jwt","typ":"at+jwt"}}',
        f'{{"alg":"none","alg":"ES256","kid":"{KEY.kid}","typ":"at+jwt"}}',
        '{"alg":"ES256","kid":NaN,"typ":"at+jwt"}',
        "[" * 1000,
        '{"a":' * 60,
        "null",
        "[]",
        "",
        "\ud7ff",
    ],
    ids=range(9),
)
def test_a_header_that_is_no_plain_object_is_refused(header: str) -> None:
    assert refused(with_header(header))


def test_public_key_confusion_is_refused() -> None:
    public = PRIVATE.public_key().to_pem()
    for secret in (public, public.strip(), b""):
        signing_input = (
            text(json.dumps({**HEADER, "alg": "HS256"}).encode()) + "." + text(json.dumps(claims()).encode())
        )
        mac = base64.urlsafe_b64encode(__import__("hmac").digest(secret, signing_input.encode(), "sha256"))
        assert refused(f"{signing_input}.{mac.rstrip(b'=').decode()}")


def test_another_deployments_key_is_refused() -> None:
    other = TokenAuthority(Keyring(new_key_file()), SETTINGS)
    assert refused(other.issue(uuid4(), "app", [], 1))


def test_every_single_character_change_is_refused() -> None:
    token = AUTHORITY.issue(uuid4(), "app", [], 1)
    for position, letter in enumerate(token):
        for other in ("A", "B", "-", "=", "é"):
            if other != letter:
                assert refused(token[:position] + other + token[position + 1 :])


@pytest.mark.parametrize("spoil", [lambda t: t + "=", lambda t: t + ".", lambda t: t * 5, lambda t: t.split(".")[0]])
def test_a_token_of_another_shape_is_refused(spoil: Callable[[str], str]) -> None:
    assert refused(spoil(AUTHORITY.issue(uuid4(), "app", [], 1)))


@settings(max_examples=300)
@given(
    st.text(max_size=300)
    | st.from_regex(r"[A-Za-z0-9_-]{1,90}\.[A-Za-z0-9_-]{1,90}\.[A-Za-z0-9_-]{86}", fullmatch=True)
)
def test_whatever_is_sent_only_one_error_comes_out(token: str) -> None:
    assert refused(token)


def test_a_cached_token_still_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    token = AUTHORITY.issue(uuid4(), "app", [], 1)
    assert not refused(token)
    later = time.time() + 901
    monkeypatch.setattr(time, "time", lambda: later)
    assert refused(token)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "[" * 2000, "Ω", "null", "a" * 5000])
def test_a_bad_token_is_401_over_http(world: World, token: str) -> None:
    answer = world.registry.client.get("/v1/me", headers={"Authorization": f"Bearer {token}".encode()})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_invalid")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


def test_other_schemes_are_401_and_misplaced_tokens_400(world: World) -> None:
    client, token = world.registry.client, world.monitor.token
    for headers in ({"Authorization": f"Basic {token}"}, {}):
        unknown = client.get("/v1/me", headers=headers)
        assert (unknown.status_code, unknown.headers["WWW-Authenticate"]) == (401, 'Bearer realm="registry"')
    doubled = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
    for answer in (client.get("/v1/me", headers=doubled), client.get("/v1/me", params={"access_token": token})):
        assert (answer.status_code, answer.json()["code"]) == (400, "token_misplaced")
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="registry", error="invalid_request"'
        assert token not in answer.text


def test_a_missing_permission_is_named_in_the_challenge(world: World) -> None:
    answer = world.monitor.post("/v1/visits", {})
    assert answer.status_code == 403
    told = 'Bearer realm="registry", error="insufficient_scope", scope="visit:write"'
    assert answer.headers["WWW-Authenticate"] == told


def test_the_published_keys_hold_nothing_private(world: World) -> None:
    (key,) = world.registry.client.get("/.well-known/jwks.json").json()["keys"]
    assert (key["kty"], key["crv"], key["use"]) == ("EC", "P-256", "sig")
    assert "d" not in key
