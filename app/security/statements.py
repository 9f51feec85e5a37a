"""Signed statements that leave the registry: compact JWS (RFC 7515), ES256, checked with the JWKS alone.

They are not access tokens: their `typ` is another, and neither is accepted as the other.
"""

from collections.abc import Mapping
from typing import Any

from app.security import jwt
from app.security.keys import KeyFile, Keyring

ALGORITHM = "ES256"
_MOST_CHARACTERS, _MOST_HEADER_CHARACTERS = 64 * 1024 * 1024, 512
"""A checkpoint has a line for every site."""


class StatementRefused(Exception):
    """The statement was changed, is none, or is of another kind."""


class SignerUnknown(Exception):
    """The statement names a key that is not among those given."""


def sign(keyring: Keyring, kind: str, body: Mapping[str, Any]) -> str:
    """`body` signed with the deployment's active key. `kind` is the header's `typ`."""
    active = keyring.signing[0]
    return jwt.signed(body, active.private_pem, {"kid": active.kid, "typ": kind}, ALGORITHM)


def public_keys(file: KeyFile) -> dict[str, Any]:
    """The public keys with which this deployment signs or has signed, by their ids."""
    pems = {key.kid: key.public_pem for key in file.past} | {key.kid: key.private_pem for key in file.signing}
    return {kid: jwt.constructed(pem, ALGORITHM).public_key() for kid, pem in pems.items()}


def opened(keys: Mapping[str, Any], kind: str, statement: str) -> dict[str, Any]:
    """The body of a statement that one of `keys` signed. Raises StatementRefused, SignerUnknown."""
    try:
        token = jwt.read(statement.strip(), _MOST_CHARACTERS, _MOST_HEADER_CHARACTERS)
        if (token.header["alg"], token.header["typ"]) != (ALGORITHM, kind):
            raise StatementRefused
        key = keys.get(token.header["kid"])
        body = None if key is None else jwt.verified(token, key, ALGORITHM)
    except Exception:  # malformed bytes can cause any: see jwt.read
        raise StatementRefused from None
    if body is None:
        raise SignerUnknown
    return body
