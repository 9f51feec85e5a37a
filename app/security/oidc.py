"""Access tokens of the institution's OpenID Connect provider (Keycloak, Entra): verified against its published keys.

The provider says who somebody is, never what they may do: grants are held here. Algorithms are bound to the keys
(RFC 8725, sections 3.1 and 3.2), keys are found by `kid` in our own copy of the provider's key set, and no token can
make the registry fetch that set more than once in RETRY_SECONDS.
"""

import hashlib
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

import httpx
import structlog

from app.errors import Unavailable
from app.security.jwt import TokenRefused, Unverified, constructed, read, strict_object, verified
from app.settings import Settings

log = structlog.get_logger()
KEYS_SECONDS, RETRY_SECONDS, KEPT_SECONDS = 600, 30, 24 * 3600
"""Keys are fetched again after ten minutes, at most twice a minute, and used for a day while the provider is down."""

MAX_TOKEN_CHARACTERS, MAX_HEADER_CHARACTERS, MAX_ANSWER_BYTES = 8192, 512, 512 * 1024
MAX_LIFETIME_SECONDS, CLOCK_SKEW_SECONDS = 24 * 3600, 30
_HEADER = {"alg", "kid", "typ", "x5t"}
_TYPES = {"jwt", "at+jwt", "application/at+jwt"}
_ID_TOKEN_CLAIMS = {"nonce", "at_hash", "c_hash", "s_hash"}
_CACHE_SIZE = 4096


class ProviderUnavailable(Unavailable):
    """The institution's sign-in service cannot be reached; try again."""


class _Untrusted(Exception):
    """The provider's address gave an answer that cannot be its metadata or its keys."""


@dataclass(frozen=True)
class OutsideClaims:
    """What a provider's token says: who, and until when."""

    issuer: str
    subject: str
    token_id: UUID
    issued_at: int
    expires_at: int
    session: None = None


class Provider:
    """The configured provider. Each worker keeps its keys, and the tokens that they verified."""

    def __init__(self, settings: Settings) -> None:
        self.issuer, self._audience = settings.oidc_issuer or "", settings.oidc_audience
        self._jwks_url, self._loopback_allowed = settings.oidc_jwks_url, settings.environment == "demo"
        self._keys: Mapping[str, tuple[str, Any]] = {}
        self._verified: dict[bytes, OutsideClaims] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lock = threading.Lock()

    def verify(self, token: str) -> OutsideClaims:
        """Whom the token was issued to. Raises TokenRefused; raises ProviderUnavailable where there are no keys, or
        none younger than KEPT_SECONDS."""
        try:
            fingerprint = hashlib.sha256(token.encode()).digest()
            claims = self._verified.get(fingerprint) or self._verify(token, fingerprint)
        except (TokenRefused, ProviderUnavailable):
            raise
        except Exception:
            raise TokenRefused from None
        if not claims.issued_at - CLOCK_SKEW_SECONDS <= time.time() < claims.expires_at:
            raise TokenRefused
        return claims

    def _verify(self, token: str, fingerprint: bytes) -> OutsideClaims:
        parts = read(token, MAX_TOKEN_CHARACTERS, MAX_HEADER_CHARACTERS)
        algorithm, key = self._key_of(parts)
        payload = verified(parts, key, algorithm)
        claims = self._claims(payload, fingerprint)
        if len(self._verified) >= _CACHE_SIZE:
            self._verified.clear()
        self._verified[fingerprint] = claims
        return claims

    def _key_of(self, token: Unverified) -> tuple[str, Any]:
        header = token.header
        if not {"alg", "kid"} <= header.keys() <= _HEADER or not isinstance(header["kid"], str):
            raise TokenRefused
        if str(header.get("typ", "JWT")).lower() not in _TYPES or header["alg"] not in ("RS256", "ES256"):
            raise TokenRefused
        if strict_object(token.payload).get("iss") != self.issuer:
            raise TokenRefused  # before its key is looked up, which may cost the provider a request
        known = self._current(header["kid"]).get(header["kid"])
        if known is None or known[0] != header["alg"]:
            raise TokenRefused
        return known

    def _claims(self, payload: Mapping[str, Any], fingerprint: bytes) -> OutsideClaims:
        audiences = payload["aud"] if isinstance(payload["aud"], list) else [payload["aud"]]
        issued, expires, subject = payload["iat"], payload["exp"], payload["sub"]
        if payload["iss"] != self.issuer or self._audience not in audiences or _ID_TOKEN_CLAIMS & payload.keys():
            raise TokenRefused
        if payload.get("typ", "Bearer") != "Bearer":  # Keycloak's own name for an access token
            raise TokenRefused
        if type(issued) is not int or type(expires) is not int or not 0 < expires - issued <= MAX_LIFETIME_SECONDS:
            raise TokenRefused
        if payload.get("nbf", issued) > time.time() + CLOCK_SKEW_SECONDS:
            raise TokenRefused
        if not isinstance(subject, str) or not 0 < len(subject) <= 255 or not subject.isprintable():
            raise TokenRefused
        return OutsideClaims(self.issuer, subject, uuid5(NAMESPACE_URL, fingerprint.hex()), issued, expires)

    def _current(self, kid: str) -> Mapping[str, tuple[str, Any]]:
        """The provider's keys by `kid`. If they are old or do not have this `kid`, one thread fetches them; the others
        meanwhile use those that are known."""
        old = time.monotonic() - self._fetched_at > KEYS_SECONDS
        may_ask = time.monotonic() - self._tried_at > RETRY_SECONDS
        if (old or kid not in self._keys) and may_ask and self._lock.acquire(blocking=not self._keys):
            try:
                if time.monotonic() - self._tried_at > RETRY_SECONDS:
                    self._fetch_keys()
            finally:
                self._lock.release()
        if time.monotonic() - self._fetched_at > KEPT_SECONDS:
            raise ProviderUnavailable(headers={"Retry-After": str(RETRY_SECONDS)})
        return self._keys

    def _fetch_keys(self) -> None:
        self._tried_at = time.monotonic()
        try:
            with httpx.Client(timeout=3, follow_redirects=False, trust_env=False) as client:
                keys = _usable(self._get_object(client, self._keys_address(client)))
        except (httpx.HTTPError, _Untrusted, ValueError, RecursionError) as failed:
            log.warning("provider_keys_not_had", kind=type(failed).__name__)
            return
        self._keys, self._fetched_at = keys, time.monotonic()
        self._verified = {}  # a token of a key that the provider has withdrawn must not be accepted any longer

    def _keys_address(self, client: httpx.Client) -> str:
        if self._jwks_url is not None:
            return self._jwks_url
        metadata = self._get_object(client, f"{self.issuer.rstrip('/')}/.well-known/openid-configuration")
        address = metadata.get("jwks_uri")
        if metadata.get("issuer") != self.issuer or not isinstance(address, str) or not self._safe(address):
            raise _Untrusted
        return address

    def _safe(self, address: str) -> bool:
        parts = urlsplit(address)
        return parts.scheme == "https" or (self._loopback_allowed and parts.hostname in ("127.0.0.1", "localhost"))

    def _get_object(self, client: httpx.Client, address: str) -> dict[str, Any]:
        with client.stream("GET", address, headers={"Accept": "application/json"}) as response:
            if response.status_code != 200:
                raise _Untrusted
            raw = bytearray()
            for chunk in response.iter_bytes(65_536):
                raw += chunk
                if len(raw) > MAX_ANSWER_BYTES:
                    raise _Untrusted
        answer = json.loads(raw)
        if not isinstance(answer, dict):
            raise _Untrusted
        return answer


def _usable(key_set: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """kid -> (algorithm, key) of the signing keys that we can use. A kid that two keys have is ignored."""
    listed = key_set.get("keys")
    if not isinstance(listed, list) or len(listed) > 100:
        raise _Untrusted
    found: dict[str, list[tuple[str, Any]]] = {}
    for entry in listed:
        algorithm = _algorithm(entry) if isinstance(entry, dict) else None
        if algorithm is not None:
            found.setdefault(entry["kid"], []).append((algorithm, constructed(entry, algorithm)))
    return {kid: keys[0] for kid, keys in found.items() if len(keys) == 1}


def _algorithm(entry: Mapping[str, Any]) -> str | None:
    """The one algorithm of a key: ES256 for P-256, RS256 for RSA of 2048 bits or more. None: it cannot be used."""
    if not isinstance(entry.get("kid"), str) or entry.get("use", "sig") != "sig":
        return None
    algorithm = None
    if (entry.get("kty"), entry.get("crv")) == ("EC", "P-256"):
        algorithm = "ES256"
    elif entry.get("kty") == "RSA" and isinstance(entry.get("n"), str) and len(entry["n"]) >= 2048 // 6:
        algorithm = "RS256"
    return algorithm if entry.get("alg", algorithm) == algorithm else None
