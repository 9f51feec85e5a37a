"""The registry's own client: typed, patient, and safe to try again. Needs httpx only; typer for `registry-site`."""

from app.client.calls import Answer, new_key
from app.client.credentials import ClientCredentials, Password, Token
from app.client.errors import (
    Closed,
    Conflicting,
    Damaged,
    NotAllowed,
    NotSignedIn,
    NotThere,
    Refused,
    RegistryFailure,
    Stale,
    Unreachable,
    Wrong,
)
from app.client.outbox import Act, Outbox
from app.client.registry import AsyncRegistry, Line, Registry

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
