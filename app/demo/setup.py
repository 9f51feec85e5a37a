"""What the admin makes: the study with its protocol and sites, and accounts of every role."""

import secrets
import tomllib
from collections.abc import Iterator, Sequence
from importlib.resources import files

from app.demo.caller import Caller
from app.demo.demo_file import DemoAccount

STUDY = "mdma-mdd-demo"
SITES = ("S01", "S02", "S03")
PROTOCOL = files("app.protocol") / "definitions" / "protocols" / "mdma-mdd-generic-1.toml"


def new_password() -> str:
    return secrets.token_urlsafe(18)


def make_study(admin: Caller) -> None:
    """The study with the shipped generic protocol and three sites. Raises RegistryFailure."""
    admin.post("/v1/studies", {"code": STUDY, "title": "MDMA-assisted therapy for depression (demo, synthetic data)"})
    admin.post(f"/v1/studies/{STUDY}/protocols", tomllib.loads(PROTOCOL.read_text()))
    for site in SITES:
        admin.post(f"/v1/studies/{STUDY}/sites", {"code": site, "name": f"Demo site {site} (synthetic)"})


def make_accounts(admin: Caller, base_url: str) -> list[DemoAccount]:
    """Make all accounts but the admin's, with passwords and secrets of this demo only. Raises RegistryFailure."""
    everybody = [*_people()]
    for person in everybody:
        _make_person(admin, person)
        _choose_password(base_url, person)
    for site in SITES:
        everybody.append(_make_site_app(admin, site))
    return everybody


def _people() -> Iterator[DemoAccount]:
    for site in SITES:
        yield _person("site_staff", f"staff-{site.lower()}", f"Demo hospital {site}", [site])
    yield _person("investigator", f"investigator-{SITES[0].lower()}", f"Demo hospital {SITES[0]}", SITES[:1])
    yield _person("monitor", "monitor-two-sites", "Demo monitoring", SITES[:2])
    yield _person("monitor", "monitor-all-sites", "Demo monitoring", SITES)
    for number, university in enumerate(("Demo university A", "Demo university B"), 1):
        yield _person("analyst", f"analyst-{number}", university)
    for number in (1, 2):
        yield _person("custodian", f"custodian-{number}", "Demo data access board")


def _person(role: str, username: str, organisation: str, sites: Sequence[str] = ()) -> DemoAccount:
    return DemoAccount.model_validate(
        {
            "role": role,
            "sites": list(sites),
            "organisation": organisation,
            "username": username,
            "password": new_password(),
        }
    )


def _make_person(admin: Caller, person: DemoAccount) -> None:
    body = {
        "username": person.username,
        "display_name": f"Demo {person.username}",
        "organisation": person.organisation,
        "password": person.password,
    }
    made = admin.post("/v1/users", body)
    # Without sites a grant reaches all of the study; analysts and custodians are granted no sites.
    some = {"sites": person.sites} if person.sites and len(person.sites) < len(SITES) else {}
    admin.post(f"/v1/users/{made['id']}/grants", {"role": person.role, "study": STUDY, **some})


def _choose_password(base_url: str, person: DemoAccount) -> None:
    """With the one that the admin set, nobody signs and nobody decides."""
    chosen = new_password()
    with Caller.signed_in(base_url, person) as caller:
        caller.post("/v1/me/password", {"current": person.password, "new": chosen})
    person.password = chosen


def _make_site_app(admin: Caller, site: str) -> DemoAccount:
    organisation = f"Demo hospital {site}"
    made = admin.post("/v1/clients", {"name": f"Site app of {site}", "organisation": organisation})
    grant = {"role": "site_staff", "study": STUDY, "sites": [site]}
    admin.post(f"/v1/clients/{made['client_id']}/grants", grant)
    return DemoAccount(
        role="site_staff",
        kind="client",
        sites=[site],
        organisation=organisation,
        client_id=made["client_id"],
        client_secret=made["client_secret"],
    )
