"""Time-based one-time codes (RFC 6238: HMAC-SHA1, six digits, 30 seconds), which every authenticator app supports."""

import base64
import hmac
import secrets
from urllib.parse import quote, urlencode

STEP_SECONDS = 30
DIGITS = 6
SECRET_BYTES = 20
_DRIFT = (0, -1, 1)
"""The present step, and one before and after it, for clocks that differ and people who type slowly (RFC 6238, 5.2)."""


def new_secret() -> bytes:
    """A random secret as long as the hash, as RFC 4226, section 4 recommends."""
    return secrets.token_bytes(SECRET_BYTES)


def code(secret: bytes, step: int, digits: int = DIGITS) -> str:
    """The code of one time step (RFC 4226, section 5.3)."""
    mac = hmac.digest(secret, step.to_bytes(8, "big"), "sha1")
    offset = mac[-1] & 15
    number = int.from_bytes(mac[offset : offset + 4], "big") & 0x7FFFFFFF
    return str(number % 10**digits).zfill(digits)


def step_at(seconds: float) -> int:
    """The time step of a moment, in seconds since 1970."""
    return int(seconds) // STEP_SECONDS


def matching_step(secret: bytes, given: str, seconds: float, after: int | None) -> int | None:
    """The step whose code was given, if it is later than `after`, the step of the last code that was used."""
    present = step_at(seconds)
    for step in (present + drift for drift in _DRIFT):
        if hmac.compare_digest(code(secret, step).encode(), given.encode()) and (after is None or step > after):
            return step
    return None


def shown(secret: bytes) -> str:
    """Base32, as people type it into an authenticator."""
    return base64.b32encode(secret).decode()


def otpauth_uri(secret: bytes, issuer: str, account: str) -> str:
    """The `otpauth` address that a QR code shows to authenticator apps."""
    parameters = {
        "secret": shown(secret),
        "issuer": issuer,
        "algorithm": "SHA1",
        "digits": DIGITS,
        "period": STEP_SECONDS,
    }
    return f"otpauth://totp/{quote(f'{issuer}:{account}', safe=':')}?{urlencode(parameters, quote_via=quote)}"
