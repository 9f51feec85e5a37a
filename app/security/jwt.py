"""JSON Web Tokens, read strictly. The one module that uses python-jose.

python-jose 3.5 accepts tokens without exp or aud, ignores typ and crit, tries every key whatever the kid, and raises
errors other than its own (a deeply nested header is a RecursionError). So the shape of a token is checked before the
library sees it, the key comes from our own table, and the library only checks the signature.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jose import jwk, jws

_SEGMENT = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)


class TokenRefused(Exception):
    """The token is not valid here. The reason is kept from the caller on purpose."""


@dataclass(frozen=True)
class Unverified:
    """A token whose form is acceptable. Its signature is not checked yet, so nothing in it may be trusted."""

    text: str
    header: Mapping[str, Any]
    payload: bytes
    signature: bytes


def read(token: str, most_characters: int, most_header_characters: int) -> Unverified:
    """The parts of a compact JWS: three segments of canonical base64url, a header without duplicated names.

    Raises TokenRefused, and any other exception that malformed bytes can cause: callers turn each into a refusal.
    """
    if len(token) > most_characters:
        raise TokenRefused
    segments = token.split(".")
    if len(segments) != 3:
        raise TokenRefused
    header, payload, signature = (_decoded(segment) for segment in segments)
    if len(segments[0]) > most_header_characters:
        raise TokenRefused
    return Unverified(token, strict_object(header), payload, signature)


def verified(token: Unverified, key: Any, algorithm: str) -> dict[str, Any]:
    """The claims, once the signature fits `key` under the key's own algorithm. Raises TokenRefused or a JOSEError."""
    jws.verify(token.text, key, [algorithm])
    return strict_object(token.payload)


def signed(claims: Mapping[str, Any], key: Any, header: Mapping[str, str], algorithm: str) -> str:
    """A compact JWS over the claims."""
    text: str = jws.sign(dict(claims), key, dict(header), algorithm)
    return text


def constructed(key: Any, algorithm: str) -> Any:
    """A key ready for use, from its PEM or its JWK. This is slow, so keep the result."""
    return jwk.construct(key, algorithm)


def strict_object(raw: bytes) -> dict[str, Any]:
    """A JSON object without duplicated names, NaN or Infinity. Raises TokenRefused or ValueError."""

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


def _decoded(segment: str) -> bytes:
    """Canonical base64url only: the last character has no spare bits set, no padding, no other alphabet."""
    if not _SEGMENT.fullmatch(segment):
        raise TokenRefused
    raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != segment:
        raise TokenRefused
    return raw
