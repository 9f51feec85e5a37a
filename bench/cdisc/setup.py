"""What an admin prepares: the study, its protocol and sites, an account for each site app, and people to check."""

import secrets
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from bench.cdisc import plan
from bench.cdisc.network import Network
from registry_client import ClientCredentials, Conflicting, Password, Registry
from registry_client.answers import Record

ORGANISATION = "CDISC pilot replay"


@dataclass(frozen=True)
class People:
    """The readers of the data: their accounts."""

    monitor: Registry
    analyst: Registry
    custodian: Registry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for registry in (self.monitor, self.analyst, self.custodian):
            registry.close()


@dataclass
class Admin:
    """Makes accounts for one study. Signs in as the deployment's admin."""

    base_url: str
    username: str
    password: str = field(repr=False)
    study: str

    def __post_init__(self) -> None:
        self._registry = self._signed_in(self.username, self.password)

    def prepare(self, sites: Iterable[str]) -> None:
        """Make study, protocol and sites, unless they exist."""
        definition = plan.definition()
        self._made("/v1/studies", {"code": self.study, "title": definition["title"]})
        self._made(f"/v1/studies/{self.study}/protocols", definition)
        for site in sites:
            body = {"code": site, "name": f"CDISC pilot site {site}", "country": "USA"}
            self._made(f"/v1/studies/{self.study}/sites", body)

    def site_app(self, site: str, network: Network) -> Registry:
        """A new account for the app of one site, which calls over this network."""
        body = {"name": f"CDISC pilot site {site}", "organisation": ORGANISATION}
        client = self._registry.post("/v1/clients", body).body
        grant = {"role": "site_staff", "study": self.study, "sites": [site]}
        self._registry.post(f"/v1/clients/{client['client_id']}/grants", grant)
        who = ClientCredentials(client["client_id"], client["client_secret"])
        return Registry(self.base_url, who, transport=network)

    def people(self) -> People:
        """Make accounts of a monitor of all sites, an analyst and a custodian. Their passwords are not stored."""
        return People(*(self._person(role) for role in ("monitor", "analyst", "custodian")))

    def _person(self, role: str) -> Registry:
        username, password = f"pilot-{role}-{secrets.token_hex(4)}", secrets.token_urlsafe(24)
        body = {"username": username, "display_name": f"Pilot {role}", "organisation": ORGANISATION}
        user = self._registry.post("/v1/users", {**body, "password": password}).body
        self._registry.post(f"/v1/users/{user['id']}/grants", {"role": role, "study": self.study})
        chosen = secrets.token_urlsafe(24)
        with self._signed_in(username, password) as person:
            person.post("/v1/me/password", {"current": password, "new": chosen})
        return self._signed_in(username, chosen)

    def _signed_in(self, username: str, password: str) -> Registry:
        return Registry(self.base_url, Password(username, password))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._registry.close()

    def _made(self, path: str, body: Record) -> None:
        with suppress(Conflicting):
            self._registry.post(path, body)
