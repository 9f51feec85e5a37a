"""Reading a site's label: a valid request for each of its routes."""

from collections.abc import Mapping

from app.models.account import Role
from tests.world import Caller, Case, World, posted_below

PATH = "/v1/label-disclosures"
APPROVED = {"decision": "approve", "reason": "the physician on call asks"}


def asking(pid: str) -> dict[str, str]:
    """The body of a request to read the label of somebody."""
    return {"participant": pid, "ground": "safety", "reason": "Unwell on the phone, and calling from elsewhere"}


def a_disclosure(world: World, site: str = "A", by: Caller | None = None) -> str:
    """The path of a request that nobody has decided: by this caller, or by the monitor where the caller may not ask."""
    body = asking(world.enrolled(site))
    asked = by.post(PATH, body) if by else world.monitor.post(PATH, body)
    path: str = asked.headers["Location"] if asked.is_success else a_disclosure(world, site)
    return path


def approved(world: World, path: str) -> str:
    """The same path, approved by somebody who asked for nothing."""
    decided = world.caller((Role.custodian, None)).post(f"{path}/decision", APPROVED)
    assert decided.status_code == 201, decided.text
    return path


LABEL_CASES: Mapping[tuple[str, str], Case] = {
    ("POST", PATH): lambda world, caller, site: caller.post(PATH, asking(world.enrolled(site))),
    ("GET", PATH + "/{disclosure_id}"): lambda world, caller, site: caller.get(a_disclosure(world, site, caller)),
    ("POST", PATH + "/{disclosure_id}/decision"): posted_below(a_disclosure, "decision", APPROVED),
    ("POST", PATH + "/{disclosure_id}/reading"): lambda world, caller, site: caller.post(
        f"{approved(world, a_disclosure(world, site, caller))}/reading", {}
    ),
}
