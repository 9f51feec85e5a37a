"""With a password that somebody else set nothing can be signed or decided until the person has changed it."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from httpx2 import Response

from tests.account_cases import PASSWORD, WHY
from tests.label_cases import APPROVED, a_disclosure
from tests.route_cases import a_visit, an_extract, signature_of
from tests.test_accounts import signed_in, told
from tests.world import Caller, World

NOT_OWN = (403, "password_not_own")


class Person:
    """Somebody whose account and first password an admin made, signed in with it."""

    def __init__(self, world: World, role: str, **place: Any) -> None:
        self.world, self.password = world, PASSWORD
        named = {"username": f"u{uuid4().hex}", "display_name": "Dr. Novak", "organisation": "Test"}
        self.account: dict[str, Any] = world.admin.post("/v1/users", {**named, "password": PASSWORD}).json()
        self.path = f"/v1/users/{self.account['id']}"
        world.admin.post(f"{self.path}/grants", {"role": role, "study": world.study, **place, **WHY})
        self.caller = self.signed_in()

    def signed_in(self) -> Caller:
        session = signed_in(self.world, self.account, self.password)
        return Caller(self.world.registry.client, session.json()["access_token"])

    def chooses(self, password: str) -> None:
        body = {"current": self.password, "new": password}
        assert self.caller.post("/v1/me/password", body).status_code == 204
        self.password = password

    def given(self, password: str) -> None:
        body = {"password": password, "second_factor_off": True, **WHY}
        assert self.world.admin.post(f"{self.path}/password", body).status_code == 201
        self.password = password
        self.caller = self.signed_in()


def test_a_password_that_an_admin_set_signs_nothing_until_its_person_has_changed_it(world: World) -> None:
    investigator = Person(world, "investigator", sites=["A"])
    visit = a_visit(world, "A").json()

    def signs() -> Response:
        body = signature_of(world, visit, password=investigator.password)
        return investigator.caller.post("/v1/signatures", body)

    assert told(signs()) == NOT_OWN, "the first password"
    investigator.chooses("a phrase of my own")
    assert signs().status_code == 201
    investigator.given("chosen by the admin")
    assert told(signs()) == NOT_OWN, "a password that replaced a forgotten one"
    wrong = signature_of(world, visit, password="not the password")
    assert told(investigator.caller.post("/v1/signatures", wrong)) == (401, "credentials_wrong")
    investigator.chooses("another phrase of mine")
    assert signs().status_code == 201


@pytest.mark.parametrize("what", ["extract", "label"])
def test_nothing_is_decided_with_a_password_that_an_admin_set(world: World, what: str) -> None:
    custodian = Person(world, "custodian")
    if what == "extract":
        path, step = an_extract(world), "approval"
    else:
        path, step = a_disclosure(world), "decision"
    decision = {**APPROVED, "decision": "refuse"}
    assert told(custodian.caller.post(f"{path}/{step}", decision)) == NOT_OWN
    assert custodian.caller.get(path).json()["status"] == "requested"
    custodian.chooses("a phrase of my own")
    assert custodian.caller.post(f"{path}/{step}", decision).status_code == 201


def test_whom_the_institutions_provider_knows_decides_whatever_the_password(world: World) -> None:
    """A token without a session of the registry's own stands for the provider's."""
    custodian = Person(world, "custodian")
    subject, login = UUID(custodian.account["id"]), custodian.account["login"]
    token = world.registry.app.state.tokens.issue(subject, login, [], 2)
    answer = Caller(world.registry.client, token).post(f"{a_disclosure(world)}/decision", APPROVED)
    assert answer.status_code == 201, answer.text
