"""Below a path of a proxy: every address that an answer gives leads back through the proxy."""

from collections.abc import Iterator
from urllib.parse import urljoin
from uuid import uuid4

import httpx
import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.main import create_app
from app.settings import Settings
from registry_client.answers import meant
from tests.world import Caller, World

ROOT = "/trials/registry"


@pytest.fixture
def below(world: World) -> Iterator[TestClient]:
    settings = world.registry.app.state.settings.model_copy(update={"root_path": ROOT})
    with TestClient(create_app(settings)) as client:
        yield client


def test_every_address_in_an_answer_carries_the_path(world: World, below: TestClient) -> None:
    staff = Caller(below, world.staff_a.token)
    pids = [staff.post(f"{ROOT}/v1/participants", world.enrolment()).json()["pid"] for _ in range(2)]
    made = staff.post(f"{ROOT}/v1/visits", world.visit(pids[0]))
    assert made.headers["Location"] == f"{ROOT}/v1/visits/{made.json()['id']}"
    page = staff.get(f"{ROOT}/v1/participants", limit=1)
    following = page.headers["Link"].removeprefix("<").partition(">")[0]
    for address in (made.headers["Location"], following):
        assert address.startswith(f"{ROOT}/v1/")
        assert staff.get(address).status_code == 200
    refused = staff.get(f"{ROOT}/v1/visits/{uuid4()}").json()
    assert refused["instance"] == f"{ROOT}/v1/visits/{{visit_id}}"
    assert below.get(refused["type"]).json()["code"] == "not_found"


def test_the_page_and_the_description_lead_below_the_path(below: TestClient) -> None:
    described = below.get(f"{ROOT}/v1/openapi.json").json()
    assert described["servers"] == [{"url": ROOT}]
    flow = described["components"]["securitySchemes"]["siteApp"]["flows"]["clientCredentials"]
    assert flow["tokenUrl"] == f"{ROOT}/v1/auth/token"
    for name in ("docs/start.js", "docs/swagger-ui.css", "v1/openapi.json"):
        assert below.get(urljoin(f"{ROOT}/docs", name)).status_code == 200


def test_a_proxy_may_take_the_path_off_and_bodies_never_hold_it(world: World, below: TestClient) -> None:
    """So that a retry through another address, or after a move, is known as the same request."""
    staff, key, body = Caller(below, world.staff_a.token), str(uuid4()), world.enrolment()
    answers = [staff.post(f"{path}/v1/participants", body, key=key) for path in (ROOT, "")]
    assert answers[0].headers["Location"] == answers[1].headers["Location"]
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    act = {"id": str(uuid4()), "path": "/v1/visits", "body": world.visit(answers[0].json()["pid"])}
    (told,) = staff.post(f"{ROOT}/v1/sync", {"operations": [act]}).json()["results"]
    assert told["location"].startswith("/v1/visits/")
    assert world.staff_a.get(told["location"]).status_code == 200


@pytest.mark.parametrize("path", ["registry", "/registry/", "/a b", "//", "/a?b"])
def test_an_invalid_path_is_refused_at_the_start(path: str) -> None:
    with pytest.raises(ValidationError, match="root_path"):
        Settings(root_path=path)


def test_the_client_names_what_it_made_as_calls_name_it() -> None:
    """Or its next call would have the path twice: in the base URL and in the address."""
    told = httpx.Response(201, headers={"Location": f"{ROOT}/v1/visits/some-id"}, json={})
    assert meant(told).location == "/v1/visits/some-id"
