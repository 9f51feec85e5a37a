"""Who calls. Tokens are fetched when they are needed and again before they end; they are kept in memory only."""

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from registry_client.answers import NotNow, problem_of, require_verdict
from registry_client.errors import NotSignedIn

Asking = Generator[httpx.Request, httpx.Response, str]
EARLY_SECONDS = 30
"""How long before it expires a token is renewed."""


class Credentials(Protocol):
    """Gives an access token, asking the registry for one where needed. Raises NotSignedIn, NotNow."""

    def token(self, base_url: str, *, fresh: bool = False) -> Asking: ...


@dataclass
class Token:
    """A token that somebody else fetched."""

    access: str = field(repr=False)

    def token(self, base_url: str, *, fresh: bool = False) -> Asking:  # noqa: ARG002 - asks nobody
        yield from ()
        return self.access


@dataclass
class _Kept:
    access: str = field(default="", repr=False)
    refresh: str | None = field(default=None, repr=False)
    until: float = 0.0

    def usable(self) -> bool:
        return time.monotonic() < self.until

    def keep(self, answer: httpx.Response) -> str:
        require_verdict(answer)
        if not answer.is_success:
            raise NotSignedIn(answer.status_code, problem_of(answer))
        body: Any = answer.json()
        if not isinstance(body, dict) or "access_token" not in body:
            raise NotNow(answer, ", no answer to a sign-in")
        self.access, self.refresh = str(body["access_token"]), body.get("refresh_token")
        self.until = time.monotonic() + max(float(body.get("expires_in", 60)) - EARLY_SECONDS, 5)
        return self.access


@dataclass
class ClientCredentials:
    """A site app, by OAuth 2.0 client credentials."""

    client_id: str
    client_secret: str = field(repr=False)
    _kept: _Kept = field(default_factory=_Kept, repr=False)

    def token(self, base_url: str, *, fresh: bool = False) -> Asking:
        if self._kept.usable() and not fresh:
            return self._kept.access
        form = {"grant_type": "client_credentials", "client_id": self.client_id, "client_secret": self.client_secret}
        return self._kept.keep((yield httpx.Request("POST", f"{base_url}/v1/auth/token", data=form)))


@dataclass
class Password:
    """A person, by name, password and a code where they have a second factor. The code is used once: afterwards the
    refresh token keeps the session."""

    username: str
    password: str = field(repr=False)
    totp: str | None = field(default=None, repr=False)
    _kept: _Kept = field(default_factory=_Kept, repr=False)

    def token(self, base_url: str, *, fresh: bool = False) -> Asking:
        if self._kept.usable() and not fresh:
            return self._kept.access
        if self._kept.refresh is not None:
            form = {"grant_type": "refresh_token", "refresh_token": self._kept.refresh}
            answer = yield httpx.Request("POST", f"{base_url}/v1/auth/token", data=form)
            require_verdict(answer)
            if answer.is_success:
                return self._kept.keep(answer)
        body = {"username": self.username, "password": self.password, **({"totp": self.totp} if self.totp else {})}
        return self._kept.keep((yield httpx.Request("POST", f"{base_url}/v1/auth/sessions", json=body)))
