"""Forged tokens in bulk: every one-character edit, and seeded fuzz.

`REGISTRY_TEST_FUZZED_TOKENS` sets how many tokens are forged, for long runs (20,000 otherwise);
`REGISTRY_TEST_FUZZ_SEED` sets where they start. A failure names its seed and number.
"""

import base64
import hmac
import json
import os
import random
import string
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from jose import jwk

from app.security.jwt import TokenRefused
from tests.test_tokens import AUTHORITY, HEADER, KEY, PRIVATE, claims, refused, signed, text

FORGED = int(os.environ.get("REGISTRY_TEST_FUZZED_TOKENS", "20000"))
SEED = int(os.environ.get("REGISTRY_TEST_FUZZ_SEED", "20261123"))
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the curve P-256."""

URL_SAFE = string.ascii_letters + string.digits + "-_"


def parts(token: str) -> tuple[str, str, str]:
    header, payload, signature = token.split(".")
    return header, payload, signature


def raw(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def resigned(header: str, payload: str) -> str:
    """The two texts with a valid signature over them: only their content can be refused."""
    signing_input = f"{text(header.encode())}.{text(payload.encode())}"
    return f"{signing_input}.{text(PRIVATE.sign(signing_input.encode()))}"


def test_every_edit_of_one_character_is_refused() -> None:
    token = AUTHORITY.issue(uuid4(), "app", ["monitor"], 1, uuid4())
    edits = 0
    for position, letter in enumerate(token):
        for other in URL_SAFE + ".=+/ ":
            if other != letter:
                assert refused(token[:position] + other + token[position + 1 :]), (position, other)
                edits += 1
        assert refused(token[:position] + token[position + 1 :]), position
        assert refused(token[:position] + letter + token[position:]), position
    assert edits > 30_000
    assert not refused(token)


ODD: tuple[Any, ...] = (None, True, False, 0, -1, 1.5, 1e308, 10**30, "", "0", "x" * 50, [], {}, [[]], {"a": 1}, "\0")


def flipped(rng: random.Random, token: str) -> str:
    """Some bits of one segment differ."""
    segments = list(parts(token))
    index = rng.randrange(3)
    content = bytearray(raw(segments[index]))
    for _ in range(rng.randint(1, 4)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    segments[index] = text(bytes(content))
    return ".".join(segments) if bytes(content) != raw(parts(token)[index]) else "x"


def shuffled(rng: random.Random, token: str) -> str:
    """Segments of this token and another, mixed, missing or repeated."""
    other = parts(signed(claims(sub=str(uuid4()))))
    picked = [rng.choice((*parts(token), *other, "", "e30")) for _ in range(rng.randint(1, 5))]
    return "x" if tuple(picked) in (parts(token), other) else ".".join(picked)


def odd_claim(rng: random.Random, token: str) -> str:
    """Validly signed, with a claim of an odd value."""
    name = rng.choice(("iss", "aud", "sub", "client_id", "jti", "iat", "nbf", "exp", "gv", "sid"))
    value = rng.choice([odd for odd in ODD if not (name in {"gv", "client_id"} and type(odd) in {int, str})])
    return resigned(raw(parts(token)[0]).decode(), json.dumps(claims(**{name: value})))


def odd_header(rng: random.Random, token: str) -> str:
    """Validly signed, under a header of an odd value or with more in it."""
    header: dict[str, Any] = {**HEADER, "alg": "ES256"}
    header[rng.choice(("alg", "kid", "typ", "crit", "jku", "x5c", "zip", "b64"))] = rng.choice(ODD)
    return resigned(json.dumps(header), json.dumps(claims()))


def noise(rng: random.Random, _: str) -> str:
    return "".join(rng.choice(string.printable + "é\ud800\0") for _ in range(rng.randrange(400)))


def cut(rng: random.Random, token: str) -> str:
    start = rng.randrange(len(token))
    return token[:start] + token[start + rng.randint(1, 40) :]


FORGERS: tuple[Callable[[random.Random, str], str], ...] = (
    *(flipped, flipped, flipped, cut, cut, noise, noise, noise),
    *(shuffled, odd_claim, odd_header),
)


def test_forged_tokens_are_refused_and_nothing_else_is_raised() -> None:
    token = signed(claims())
    for number in range(FORGED):
        rng = random.Random(SEED * 1_000_003 + number)
        forger = rng.choice(FORGERS)
        assert refused(forger(rng, token)), (forger.__name__, SEED, number)
    assert not refused(token)


@pytest.mark.parametrize("depth", [100, 980, 1000, 3000])
@pytest.mark.parametrize("opening", ["[", '{"a":', '{"alg":'])
def test_nested_headers_and_payloads_raise_nothing_but_a_refusal(opening: str, depth: int) -> None:
    nested = opening * depth
    whole = json.dumps({**HEADER, "alg": "ES256"})
    for token in (f"{text(nested.encode())}.e30.{'A' * 86}", f"e30.{text(nested.encode())}.{'A' * 86}"):
        assert refused(token)
    assert refused(resigned(nested, json.dumps(claims())))
    assert refused(resigned(whole, nested))


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_no_form_of_the_public_key_is_a_shared_secret(algorithm: str) -> None:
    public = jwk.construct(KEY.private_pem, "ES256").public_key()
    pem = public.to_pem()
    der = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    coordinates = public.to_dict()
    point = b"\x04" + raw(coordinates["x"]) + raw(coordinates["y"])
    assert len(der) == 91
    for secret in (der, point, pem, pem.strip(), pem.decode().encode("utf-16"), b""):
        for payload in (claims(), claims(sub=str(uuid4()))):
            header = json.dumps({**HEADER, "alg": algorithm})
            signing_input = f"{text(header.encode())}.{text(json.dumps(payload).encode())}"
            mac = hmac.digest(secret, signing_input.encode(), "sha" + algorithm[2:])
            assert refused(f"{signing_input}.{text(mac)}")
            assert refused(f"{signing_input}.{text((mac * 2)[:64])}")


def test_an_encrypted_token_is_refused() -> None:
    header = text(json.dumps({"alg": "dir", "enc": "A128GCM", "kid": KEY.kid, "typ": "at+jwt", "zip": "DEF"}).encode())
    assert refused(f"{header}..{'A' * 16}.{'A' * 64}.{'A' * 22}")
    assert refused(f"{header}.{'A' * 16}.{'A' * 86}")


@pytest.mark.parametrize("name", ["sub", "gv", "exp", "jti", "sid"])
def test_a_claim_that_comes_twice_is_refused(name: str) -> None:
    whole = claims(sid=str(uuid4()))
    doubled = json.dumps(whole)[:-1] + f", {json.dumps(name)}: {json.dumps(whole[name])}}}"
    assert refused(resigned(json.dumps({**HEADER, "alg": "ES256"}), doubled))


@pytest.mark.parametrize("written", ["{%s}", "urn:uuid:%s", " %s", "%s\n"])
@pytest.mark.parametrize("name", ["sub", "jti", "sid"])
def test_an_id_is_written_one_way(name: str, written: str) -> None:
    assert refused(signed(claims(**{name: written % uuid4()})))
    assert refused(signed(claims(**{name: str(uuid4()).upper().replace("-", "")})))
    assert not refused(signed(claims(**{name: str(uuid4())})))


def test_the_other_signature_of_the_same_token_has_the_same_id() -> None:
    """(r, n - s) verifies as (r, s) does, for anybody: so a token is revoked by its id and never by its text."""
    token = signed(claims())
    header, payload, signature = parts(token)
    r, s = raw(signature)[:32], int.from_bytes(raw(signature)[32:], "big")
    other = f"{header}.{payload}.{text(r + (ORDER - s).to_bytes(32, 'big'))}"
    assert other != token
    assert AUTHORITY.verify(other) == AUTHORITY.verify(token)
    for forged in (bytes(64), r + bytes(32), bytes(32) + raw(signature)[32:], b"\xff" * 64):
        assert refused(f"{header}.{payload}.{text(forged)}")


def test_the_clock_may_differ_by_half_a_minute_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    token, moment = AUTHORITY.issue(uuid4(), "app", [], 1), int(time.time())
    for at, accepted in ((-32, False), (-29, True), (898, True), (902, False)):
        monkeypatch.setattr(time, "time", lambda at=at: moment + at)
        assert refused(token) is not accepted
        if accepted:
            continue
        with pytest.raises(TokenRefused):
            AUTHORITY.verify(token)
