"""A caller of the demo's API, by the registry's own client. Answers are plain dictionaries."""

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
        """Sign in, and put the new token into the account."""
        account.token = token_of(base_url, account)
        return cls(base_url, account.token)

    def post(self, path: str, body: Answer) -> Answer:
        """Post under one Idempotency-Key, again if there is no answer; gives the body of the answer."""
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
    # To 127.0.0.1 without the proxy that the environment may name.
    return Registry(base_url, who, patience=PATIENCE_SECONDS, trust_env=False)
