"""Our own access tokens: JWT after RFC 9068, signed ES256."""

import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from app.security.jwt import TokenRefused, constructed, read, signed, verified
from app.security.keys import Keyring, SigningKey
from app.settings import Settings

ALGORITHM = "ES256"
TYPE = "at+jwt"
MAX_TOKEN_CHARACTERS = 4096
MAX_HEADER_CHARACTERS = 256
CLOCK_SKEW_SECONDS = 30
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


class _ReadyKeys:
    """Signing keys ready for use, and the tokens that they verified, which are forgotten with them."""

    def __init__(self, listed: list[SigningKey]) -> None:
        self.listed = listed
        self.private = {key.kid: constructed(key.private_pem, ALGORITHM) for key in listed}
        self.public = {kid: key.public_key() for kid, key in self.private.items()}
        self.active = listed[0].kid
        self.verified: dict[bytes, Claims] = {}


class TokenAuthority:
    """Issues and verifies access tokens. One per process, since making keys ready for use is slow."""

    def __init__(self, keyring: Keyring, settings: Settings) -> None:
        self._issuer = settings.issuer
        self._audience = settings.audience
        self.lifetime_seconds = settings.access_token_seconds
        self._keyring = keyring
        self._ready = _ReadyKeys(keyring.signing)

    def _signing(self) -> "_ReadyKeys":
        """The keys as the keyring has them now. Replaced as a whole, so that no thread sees half of a rotation."""
        listed = self._keyring.signing
        if listed is not self._ready.listed:
            self._ready = _ReadyKeys(listed)
        return self._ready

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
        return signed(claims, keys.private[keys.active], {"kid": keys.active, "typ": TYPE}, ALGORITHM)

    def verify(self, token: str) -> Claims:
        """The claims of a valid token. Raises TokenRefused for every other text, and no other exception."""
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

    def _verify(self, token: str, keys: "_ReadyKeys") -> Claims:
        parts = read(token, MAX_TOKEN_CHARACTERS, MAX_HEADER_CHARACTERS)
        header = parts.header
        if set(header) != {"alg", "kid", "typ"} or header["alg"] != ALGORITHM or header["typ"] != TYPE:
            raise TokenRefused
        key = keys.public.get(header["kid"]) if isinstance(header["kid"], str) else None
        if key is None or len(parts.signature) != 64:
            raise TokenRefused
        return self._claims(verified(parts, key, ALGORITHM))

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
        """The public keys (RFC 7517), with which others can verify our tokens."""
        return {"keys": [{**key.to_dict(), "kid": kid, "use": "sig"} for kid, key in self._signing().public.items()]}


def _uuid(text: Any) -> UUID:
    """Raises TokenRefused for a form other than ours: UUID() also accepts braces, `urn:` and a lack of hyphens."""
    value = UUID(text)
    if str(value) != text:
        raise TokenRefused
    return value
