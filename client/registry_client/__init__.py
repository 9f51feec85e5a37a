"""The registry's Python client: typed, and safe to retry. It needs httpx only; typer for `registry-site`."""

from registry_client.answers import Answer
from registry_client.asynchronous import AsyncRegistry
from registry_client.calls import new_key
from registry_client.credentials import ClientCredentials, Password, Token
from registry_client.errors import (
    Closed,
    Conflicting,
    Damaged,
    NotAllowed,
    NotReady,
    NotSignedIn,
    NotThere,
    Refused,
    RegistryFailure,
    Stale,
    Unreachable,
    Wrong,
)
from registry_client.outbox import Act, Outbox
from registry_client.registry import Registry
from registry_client.uploads import Line

__all__ = [
    "Act",
    "Answer",
    "AsyncRegistry",
    "ClientCredentials",
    "Closed",
    "Conflicting",
    "Damaged",
    "Line",
    "NotAllowed",
    "NotReady",
    "NotSignedIn",
    "NotThere",
    "Outbox",
    "Password",
    "Refused",
    "Registry",
    "RegistryFailure",
    "Stale",
    "Token",
    "Unreachable",
    "Wrong",
    "new_key",
]
