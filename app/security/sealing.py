"""Sealed values: AES-256-GCM, bound to their context by the associated data."""

import base64
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NONCE_BYTES = 12


class SealBroken(Exception):
    """The value was changed, belongs elsewhere, or was sealed with another key."""


def seal(key: bytes, plain: bytes, context: bytes) -> str:
    """URL-safe text that only `key` and the same `context` open."""
    nonce = os.urandom(_NONCE_BYTES)
    return base64.urlsafe_b64encode(nonce + AESGCM(key).encrypt(nonce, plain, context)).rstrip(b"=").decode()


def unseal(key: bytes, sealed: str, context: bytes) -> bytes:
    """What was sealed. Raises SealBroken."""
    try:
        raw = base64.urlsafe_b64decode(sealed.encode("ascii") + b"=" * (-len(sealed) % 4))
        return AESGCM(key).decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], context)
    except (InvalidTag, ValueError):
        raise SealBroken from None
