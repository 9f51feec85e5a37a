"""Signed statements that leave the registry: compact JWS (RFC 7515), ES256, checked with the JWKS alone.

Not access tokens: another `typ`, and nothing here takes a token's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from app.security import jwt
from app.security.keys import Keyring

ALGORITHM = "ES256"
_MOST_CHARACTERS, _MOST_OF_HEADER = 64 * 1024 * 1024, 512
"""A checkpoint has a line for every site."""


class StatementRefused(Exception):
    """The statement was changed, is of another kind, or was signed with a key that is not ours."""


def sign(keyring: Keyring, kind: str, body: Mapping[str, Any]) -> str:
    """`body` signed with the deployment's active key. `kind` is the header's `typ`."""
    active = keyring.signing[0]
    return jwt.signed(body, active.private_pem, {"kid": active.kid, "typ": kind}, ALGORITHM)


def opened(keys: Sequence[Mapping[str, Any]], kind: str, statement: str) -> dict[str, Any]:
    """The body of a statement that one of `keys` (of a JWKS) signed. Raises StatementRefused."""
    try:
        token = jwt.read(statement.strip(), _MOST_CHARACTERS, _MOST_OF_HEADER)
        (key,) = (key for key in keys if key["kid"] == token.header["kid"])
        if (token.header["alg"], token.header["typ"]) != (ALGORITHM, kind):
            raise StatementRefused
        return jwt.verified(token, dict(key), ALGORITHM)
    except Exception:  # whatever strange bytes can raise: see jwt.read
        raise StatementRefused from None
