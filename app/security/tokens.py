"""Access tokens: JWT after RFC 9068, signed ES256. The one module that uses python-jose.

python-jose 3.5 accepts tokens without exp or aud, ignores typ and crit, tries every key whatever the kid, and raises
more than its own errors (a nested header is a RecursionError). So the shape of a token is checked before the library
sees it, the key comes from our own table, and the library only checks the signature.
"""

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from jose import jwk, jws

from app.security.keys import Keyring, SigningKey
from app.settings import Settings

ALGORITHM = "ES256"
TYPE = "at+jwt"
MAX_TOKEN_CHARACTERS = 4096
MAX_HEADER_CHARACTERS = 256
CLOCK_SKEW_SECONDS = 30
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_CLAIMS = {
    "iss": str,
    "aud": str,
    "sub": str,
    "client_id": str,
    "jti": str,
    "iat": int,
    "nbf": int,
    "exp": int,
    "gv": int,
}
_CACHE_SIZE = 4096


class TokenRefused(Exception):
    """The token is not one of ours, or no longer valid. Says nothing more, on purpose."""


@dataclass(frozen=True)
class Claims:
    """What a valid token says. Roles are informative: grants are looked up, never believed."""

    subject: UUID
    token_id: UUID
    grants_version: int
    issued_at: int
    expires_at: int
    session: UUID | None = None
    """The session that a person's token belongs to (`sid`); site apps have none."""


class _Built:
    """Signing keys ready for use, and the tokens that they verified: a key that goes takes its tokens along."""

    def __init__(self, listed: list[SigningKey]) -> None:
        self.listed = listed
        self.private = {key.kid: jwk.construct(key.private_pem, ALGORITHM) for key in listed}
        self.public = {kid: key.public_key() for kid, key in self.private.items()}
        self.active = listed[0].kid
        self.verified: dict[bytes, Claims] = {}


class TokenAuthority:
    """Issues and verifies access tokens. One per process; keys are built once, as building is the slow part."""

    def __init__(self, keyring: Keyring, settings: Settings) -> None:
        self._issuer = settings.issuer
        self._audience = settings.audience
        self.lifetime_seconds = settings.access_token_seconds
        self._keyring = keyring
        self._built = _Built(keyring.signing)

    def _signing(self) -> "_Built":
        """The keys as the keyring has them now. Replaced as a whole, so that no thread sees half of a rotation."""
        listed = self._keyring.signing
        if listed is not self._built.listed:
            self._built = _Built(listed)
        return self._built

    def issue(
        self, subject: UUID, client: str, roles: Iterable[str], grants_version: int, session: UUID | None = None
    ) -> str:
        """A signed access token for an account, valid from now for `lifetime_seconds`."""
        issued, keys = int(time.time()), self._signing()
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": str(subject),
            "client_id": client,
            "jti": str(uuid4()),
            "iat": issued,
            "nbf": issued,
            "exp": issued + self.lifetime_seconds,
            "roles": sorted(roles),
            "gv": grants_version,
            **({"sid": str(session)} if session else {}),
        }
        signed: str = jws.sign(claims, keys.private[keys.active], {"kid": keys.active, "typ": TYPE}, ALGORITHM)
        return signed

    def verify(self, token: str) -> Claims:
        """The claims of a valid token. Raises TokenRefused for anything else, whatever goes wrong inside."""
        keys = self._signing()
        try:
            fingerprint = hashlib.sha256(token.encode()).digest()
            claims = keys.verified.get(fingerprint) or self._verify(token, keys)
        except TokenRefused:
            raise
        except Exception:
            raise TokenRefused from None
        if not claims.issued_at - CLOCK_SKEW_SECONDS <= time.time() < claims.expires_at:
            raise TokenRefused
        if len(keys.verified) >= _CACHE_SIZE:
            keys.verified.clear()
        keys.verified[fingerprint] = claims
        return claims

    def _verify(self, token: str, keys: "_Built") -> Claims:
        if len(token) > MAX_TOKEN_CHARACTERS:
            raise TokenRefused
        segments = token.split(".")
        if len(segments) != 3:
            raise TokenRefused
        header_text, payload_text, signature_text = (_decoded(segment) for segment in segments)
        if len(segments[0]) > MAX_HEADER_CHARACTERS or len(signature_text) != 64:
            raise TokenRefused
        header = _strict_object(header_text)
        if set(header) != {"alg", "kid", "typ"} or header["alg"] != ALGORITHM or header["typ"] != TYPE:
            raise TokenRefused
        key = keys.public.get(header["kid"]) if isinstance(header["kid"], str) else None
        if key is None:
            raise TokenRefused
        jws.verify(token, key, [ALGORITHM])
        return self._claims(_strict_object(payload_text))

    def _claims(self, payload: dict[str, Any]) -> Claims:
        if any(type(payload.get(name)) is not kind for name, kind in _CLAIMS.items()):
            raise TokenRefused
        if payload["iss"] != self._issuer or payload["aud"] != self._audience or payload["nbf"] != payload["iat"]:
            raise TokenRefused
        if not 0 < payload["exp"] - payload["iat"] <= self.lifetime_seconds:
            raise TokenRefused
        session = _uuid(payload["sid"]) if "sid" in payload else None
        times = payload["iat"], payload["exp"]
        return Claims(_uuid(payload["sub"]), _uuid(payload["jti"]), payload["gv"], *times, session)

    def jwks(self) -> dict[str, list[dict[str, Any]]]:
        """The public keys (RFC 7517): verifiers outside need no secret of ours."""
        return {"keys": [{**key.to_dict(), "kid": kid, "use": "sig"} for kid, key in self._signing().public.items()]}


def _uuid(text: Any) -> UUID:
    """Written as we write it: UUID() alone takes braces, urn: and no hyphens."""
    value = UUID(text)
    if str(value) != text:
        raise TokenRefused
    return value


def _decoded(segment: str) -> bytes:
    """Canonical base64url only: the last character has no spare bits set, no padding, no other alphabet."""
    if not _SEGMENT.fullmatch(segment):
        raise TokenRefused
    raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != segment:
        raise TokenRefused
    return raw


def _strict_object(raw: bytes) -> dict[str, Any]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise TokenRefused
        return dict(pairs)

    def no_constant(_: str) -> None:
        raise TokenRefused

    value = json.loads(raw.decode(), object_pairs_hook=no_duplicates, parse_constant=no_constant)
    if not isinstance(value, dict):
        raise TokenRefused
    return value
