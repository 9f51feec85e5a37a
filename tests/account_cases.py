"""A person, a site app, and one valid request for each route that changes one of them."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from httpx2 import Response

from tests.world import Caller, World

PASSWORD = "correct horse battery"
WHY = {"reason": "left the team"}


def new_user() -> dict[str, str]:
    """The body of a new person's account."""
    return {"username": f"u{uuid4().hex}", "display_name": "P", "organisation": "Test", "password": PASSWORD}


def a_person(world: World) -> dict[str, Any]:
    """A person who monitors site A, as the admin sees them; `path` and `secret` are for the tests."""
    made = world.admin.post("/v1/users", new_user()).json()
    path = f"/v1/users/{made['id']}"
    granted = {"role": "monitor", "study": world.study, "sites": ["A"]}
    return {**world.admin.post(f"{path}/grants", granted).json(), "path": path}


def a_site_app(world: World) -> dict[str, Any]:
    """A site app of site A, with its first secret."""
    made = world.admin.post("/v1/clients", {"name": "App", "organisation": "Test"}).json()
    path = f"/v1/clients/{made['client_id']}"
    granted = {"role": "site_staff", "study": world.study, "sites": ["A"]}
    read = world.admin.post(f"{path}/grants", granted).json()
    (secret,) = world.admin.get(path).json()["secrets"]
    return {**read, "path": path, "client_secret": made["client_secret"], "secret_id": secret["id"]}


def tag(world: World, account: Mapping[str, Any]) -> str:
    """The ETag of an account as it is now."""
    return world.admin.get(account["path"]).headers["ETag"]


Make = Callable[[World], dict[str, Any]]


def _read(make: Make) -> Callable[[World, Caller, str], Response]:
    return lambda world, caller, _: caller.get(make(world)["path"])


def _amend(make: Make) -> Callable[[World, Caller, str], Response]:
    def case(world: World, caller: Caller, _: str) -> Response:
        account = make(world)
        return caller.patch(account["path"], {"disabled": True, **WHY}, tag(world, account))

    return case


def _post(make: Make, below: str, body: Mapping[str, Any]) -> Callable[[World, Caller, str], Response]:
    def case(world: World, caller: Caller, _: str) -> Response:
        account = make(world)
        names = {"grant": account["grants"][0]["id"], "secret": account.get("secret_id")}
        return caller.post(f"{account['path']}/{below.format(**names)}", {**WHY, **body})

    return case


def _link(world: World, caller: Caller, _: str) -> Response:
    return caller.post(f"{a_person(world)['path']}/identity", {"subject": uuid4().hex, **WHY})


ACCOUNT_CASES = {
    ("POST", "/v1/users/{user_id}/identity"): _link,
    ("GET", "/v1/users/{user_id}"): _read(a_person),
    ("PATCH", "/v1/users/{user_id}"): _amend(a_person),
    ("POST", "/v1/users/{user_id}/password"): _post(a_person, "password", {"password": PASSWORD}),
    ("POST", "/v1/users/{user_id}/sessions/revocation"): _post(a_person, "sessions/revocation", {}),
    ("POST", "/v1/users/{user_id}/grants/{grant_id}/revocation"): _post(a_person, "grants/{grant}/revocation", {}),
    ("GET", "/v1/clients/{client_id}"): _read(a_site_app),
    ("PATCH", "/v1/clients/{client_id}"): _amend(a_site_app),
    ("POST", "/v1/clients/{client_id}/grants/{grant_id}/revocation"): _post(
        a_site_app, "grants/{grant}/revocation", {}
    ),
    ("POST", "/v1/clients/{client_id}/secrets"): _post(a_site_app, "secrets", {}),
    ("POST", "/v1/clients/{client_id}/secrets/{secret_id}/revocation"): _post(
        a_site_app, "secrets/{secret}/revocation", {}
    ),
}
