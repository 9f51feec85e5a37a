"""Passwords of people (Argon2id) and random secrets of site apps."""

import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from app.settings import Settings

CLIENT_SECRET_PREFIX = "rrs_"
REFRESH_TOKEN_PREFIX = "rrr_"


class Passwords:
    """Hashes and checks. At most two at once: hashing is slow on purpose and must not starve the site apps."""

    def __init__(self, settings: Settings) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=settings.argon2_memory_kib, parallelism=1)
        self._gate = threading.Semaphore(2)
        self._nobody = self._hasher.hash(secrets.token_urlsafe(16))

    def hash(self, password: str) -> str:
        with self._gate:
            return self._hasher.hash(password)

    def check(self, stored: str | None, password: str) -> bool:
        """Whether it fits. An unknown user (`stored` None) takes the same time as a known one."""
        with self._gate:
            try:
                return self._hasher.verify(stored or self._nobody, password) and stored is not None
            except (Argon2Error, InvalidHashError):
                return False


def new_client_secret() -> str:
    """256 random bits behind a prefix that secret scanners can find."""
    return CLIENT_SECRET_PREFIX + secrets.token_urlsafe(32)


def new_refresh_token() -> str:
    return REFRESH_TOKEN_PREFIX + secrets.token_urlsafe(32)
