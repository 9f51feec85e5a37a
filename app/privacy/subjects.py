"""Subject ids of an extract: keyed by a random key that lives only while the extract is built."""

import hashlib
import hmac
import secrets
from collections.abc import Iterable

from app import pid


def subject_ids(pids: Iterable[str]) -> dict[str, str]:
    """A fresh subject id for each pid. The key is drawn here and forgotten, so two extracts share nothing and nobody,
    the registry included, can compute one id from the other (45 CFR 164.514(c))."""
    wanted = list(pids)
    while True:
        key = secrets.token_bytes(32)
        named = {one: _subject(key, one) for one in wanted}
        if len(set(named.values())) == len(wanted):
            return named


def _subject(key: bytes, one: str) -> str:
    number = int.from_bytes(hmac.new(key, b"subject\x1f" + one.encode(), hashlib.sha256).digest()[:7], "big")
    return pid.complete("".join(pid.ALPHABET[(number >> shift) & 31] for shift in range(45, -1, -5)))
