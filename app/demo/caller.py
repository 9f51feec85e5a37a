"""A caller of the API: the registry's own client, with answers as plain objects."""

from typing import Any, Self

from app.demo.demo_file import DemoAccount
from registry_client import ClientCredentials, Password, Registry, Token
from registry_client.credentials import Credentials

PATIENCE_SECONDS = 20.0
Answer = dict[str, Any]


class Caller:
    """One signed-in person or site app. Not for use by several threads. Every call raises RegistryFailure."""

    def __init__(self, base_url: str, token: str = "") -> None:
        self._registry = _registry(base_url, Token(token))

    @classmethod
    def signed_in(cls, base_url: str, account: DemoAccount) -> Self:
        """Also leaves the fresh token in the account."""
        account.token = token_of(base_url, account)
        return cls(base_url, account.token)

    def post(self, path: str, body: Answer) -> Answer:
        """One act under one Idempotency-Key, however often it is sent."""
        return dict(self._registry.post(path, body).body or {})

    def get(self, path: str, **query: Any) -> Answer:
        return dict(self._registry.get(path, **query).body)

    def __enter__(self) -> Self:
        self._registry.__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        self._registry.__exit__(*failure)


def token_of(base_url: str, account: DemoAccount) -> str:
    """A fresh access token: people by password, site apps by client credentials."""
    who: Credentials = (
        Password(account.username or "", account.password or "")
        if account.kind == "user"
        else ClientCredentials(account.client_id or "", account.client_secret or "")
    )
    with _registry(base_url, who) as registry:
        return registry.token()


def _registry(base_url: str, who: Credentials) -> Registry:
    # Straight to 127.0.0.1, whatever proxy the environment names.
    return Registry(base_url, who, patience=PATIENCE_SECONDS, trust_env=False)
