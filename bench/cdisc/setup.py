"""What an admin prepares: the study, its protocol and sites, an account for each site app, and people to check."""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

import httpx

from bench.cdisc import plan
from bench.cdisc.calls import Answered, Caller

ORGANISATION = "CDISC pilot replay"


@dataclass(frozen=True)
class People:
    """Who looks at the data afterwards."""

    monitor: Caller
    analyst: Caller
    custodian: Caller

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for caller in (self.monitor, self.analyst, self.custodian):
            caller.close()


@dataclass
class Admin:
    """Makes accounts for one study. Signs in as the deployment's admin."""

    base_url: str
    username: str
    password: str = field(repr=False)
    study: str

    def __post_init__(self) -> None:
        self._caller = Caller.person(self.base_url, self.username, self.password)

    def prepare(self, sites: Iterable[str]) -> None:
        """Study, protocol and sites; what is there already stays."""
        definition = plan.definition()
        self._made("/v1/studies", {"code": self.study, "title": definition["title"]})
        self._made(f"/v1/studies/{self.study}/protocols", definition)
        for site in sites:
            body = {"code": site, "name": f"CDISC pilot site {site}", "country": "USA"}
            self._made(f"/v1/studies/{self.study}/sites", body)

    def site_app(self, site: str, answered: Answered, lose: float = 0) -> Caller:
        """A new account for the app of one site, which loses a share of its answers."""
        body = {"name": f"CDISC pilot site {site}", "organisation": ORGANISATION}
        client = self._caller.post("/v1/clients", body).raise_for_status().json()
        grant = {"role": "site_staff", "study": self.study, "sites": [site]}
        self._caller.post(f"/v1/clients/{client['client_id']}/grants", grant).raise_for_status()
        return Caller.site_app(self.base_url, (client["client_id"], client["client_secret"]), answered, lose)

    def people(self) -> People:
        """New accounts of a monitor of all sites, an analyst and a custodian, with passwords that nobody keeps."""
        return People(*(self._person(role) for role in ("monitor", "analyst", "custodian")))

    def _person(self, role: str) -> Caller:
        username, password = f"pilot-{role}-{secrets.token_hex(4)}", secrets.token_urlsafe(24)
        body = {"username": username, "display_name": f"Pilot {role}", "organisation": ORGANISATION}
        user = self._caller.post("/v1/users", {**body, "password": password}).raise_for_status().json()
        grant = {"role": role, "study": self.study}
        self._caller.post(f"/v1/users/{user['id']}/grants", grant).raise_for_status()
        return Caller.person(self.base_url, username, password)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._caller.close()

    def _made(self, path: str, body: object) -> None:
        answer = self._caller.post(path, body)
        if answer.status_code != httpx.codes.CONFLICT:
            answer.raise_for_status()
