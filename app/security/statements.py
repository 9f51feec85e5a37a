"""Signed statements that leave the registry: compact JWS (RFC 7515), ES256, checked with the JWKS alone.

Not access tokens: another `typ`, and nothing here takes a token's.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from app.security.keys import Keyring

_SIGNATURE = ec.ECDSA(hashes.SHA256())
_HALF = 32
"""Bytes of each of the two numbers of an ES256 signature."""


class StatementRefused(Exception):
    """The statement was changed, is of another kind, or was signed with a key that is not ours."""


def sign(keyring: Keyring, kind: str, body: Mapping[str, Any]) -> str:
    """`body` signed with the deployment's active key. `kind` is the header's `typ`."""
    active = keyring.signing[0]
    header = {"alg": "ES256", "kid": active.kid, "typ": kind}
    signed = ".".join(
        _text(json.dumps(part, sort_keys=True, separators=(",", ":")).encode()) for part in (header, body)
    )
    private = serialization.load_pem_private_key(active.private_pem.encode(), password=None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    numbers = decode_dss_signature(private.sign(signed.encode(), _SIGNATURE))
    return f"{signed}.{_text(b''.join(number.to_bytes(_HALF, 'big') for number in numbers))}"


def opened(keys: Sequence[Mapping[str, Any]], kind: str, statement: str) -> dict[str, Any]:
    """The body of a statement that one of `keys` (of a JWKS) signed. Raises StatementRefused."""
    try:
        header_text, body_text, signature_text = statement.strip().split(".")
        header, signature = json.loads(_bytes(header_text)), _bytes(signature_text)
        if (header["alg"], header["typ"], len(signature)) != ("ES256", kind, 2 * _HALF):
            raise StatementRefused
        (key,) = (key for key in keys if key["kid"] == header["kid"])
        x, y = (int.from_bytes(_bytes(key[name]), "big") for name in ("x", "y"))
        pair = (int.from_bytes(half, "big") for half in (signature[:_HALF], signature[_HALF:]))
        public = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        public.verify(encode_dss_signature(*pair), f"{header_text}.{body_text}".encode(), _SIGNATURE)
        body: dict[str, Any] = json.loads(_bytes(body_text))
    except (InvalidSignature, KeyError, TypeError, ValueError):
        raise StatementRefused from None
    return body


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
