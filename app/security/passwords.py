"""Passwords of people (Argon2id) and random secrets of site apps."""

import secrets
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from app.errors import Fault, Invalid, Unavailable
from app.security.common_passwords import COMMON_PASSWORDS
from app.settings import Settings

CLIENT_SECRET_PREFIX = "rrs_"
REFRESH_TOKEN_PREFIX = "rrr_"


_FEWEST_CHARACTERS = 5
_PATIENCE_SECONDS = 1.0
MOST_AT_ONCE, MOST_OF_ONE = 12, 4
"""The most requests that hash or wait for their turn, in all and for one login: each occupies one of a worker's forty
threads."""


class PasswordTooEasy(Invalid):
    """Many people use this password, or it can be guessed from the name; choose another."""


class SignInBusy(Unavailable):
    """Too many people are signing in at this moment; try again."""


def require_strong(password: str, username: str, pointer: str) -> None:
    """Raises PasswordTooEasy for a common password and one that holds the username (OWASP ASVS 5.0, 6.2.4, 6.2.11).

    A password of very few different characters counts as common.
    """
    plain = password.casefold()
    if username.casefold() in plain:
        raise PasswordTooEasy(Fault(pointer, "holds_username", "Must not contain the username"))
    if plain in COMMON_PASSWORDS or len(set(plain)) < _FEWEST_CHARACTERS:
        raise PasswordTooEasy(Fault(pointer, "common_password", "Must not be one of the most common passwords"))


class Passwords:
    """Hashes and checks passwords, at most two at once: hashing is slow on purpose and must not starve the site apps.
    One login has at most MOST_OF_ONE of the MOST_AT_ONCE places, so that it cannot starve the others."""

    def __init__(self, settings: Settings) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=settings.argon2_memory_kib, parallelism=1)
        self._gate, self._lock = threading.Semaphore(2), threading.Lock()
        self._asking: Counter[str] = Counter()
        self._hash_of_nobody = self._hasher.hash(secrets.token_urlsafe(16))

    def hash(self, password: str, login: str = "") -> str:
        """The hash to store. `login`: whose password it is, if that person asks; empty if somebody else sets it."""
        with self._turn(login):
            return self._hasher.hash(password)

    def check(self, stored: str | None, password: str, login: str) -> bool:
        """Whether the password is that of the hash. An unknown user (`stored` None) takes as long as a known one."""
        with self._turn(login):
            try:
                return self._hasher.verify(stored or self._hash_of_nobody, password) and stored is not None
            except (Argon2Error, InvalidHashError):
                return False

    def outdated(self, stored: str) -> bool:
        """Whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    @contextmanager
    def _turn(self, login: str = "") -> Iterator[None]:
        """Hold one of the two turns to hash. Raises SignInBusy rather than wait long, which would occupy a thread."""
        with self._in_line(login):
            if not self._gate.acquire(timeout=_PATIENCE_SECONDS):
                raise SignInBusy
            try:
                yield
            finally:
                self._gate.release()

    @contextmanager
    def _in_line(self, login: str) -> Iterator[None]:
        with self._lock:
            if self._asking.total() >= MOST_AT_ONCE or (login and self._asking[login] >= MOST_OF_ONE):
                raise SignInBusy
            self._asking[login] += 1
        try:
            yield
        finally:
            with self._lock:
                self._asking[login] -= 1
                self._asking += Counter()  # drops the logins whose count is 0


def new_client_secret() -> str:
    """256 random bits behind a prefix that secret scanners can find."""
    return CLIENT_SECRET_PREFIX + secrets.token_urlsafe(32)


def new_refresh_token() -> str:
    return REFRESH_TOKEN_PREFIX + secrets.token_urlsafe(32)
