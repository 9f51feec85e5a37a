"""A query parameter that the route does not have is refused: none is ignored silently."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.course_cases import WITHDRAWAL
from tests.hostile import census, require_problem
from tests.route_cases import an_act, an_extract
from tests.world import Registry, World

OAUTH = {"/v1/auth/token", "/v1/auth/revoke"}
"""They take no query at all, and say so in their own form."""


def faults(answer: Any) -> set[tuple[str, str]]:
    return {(error["pointer"], error["code"]) for error in answer.json().get("errors", ())}


def operations(registry: Registry) -> Iterator[tuple[str, str, set[str]]]:
    """Method, an address below it, and what the published description names for its query."""
    paths = registry.client.get("/v1/openapi.json").json()["paths"]
    for path, methods in paths.items():
        for method, told in methods.items():
            asked = {one["name"] for one in told.get("parameters", ()) if one["in"] == "query"}
            yield method.upper(), path, asked


def test_no_route_takes_a_name_that_it_does_not_ask_for(registry: Registry) -> None:
    found = [one for one in operations(registry) if one[1] not in OAUTH]
    assert len(found) > 100
    for method, path, _ in found:
        answer = registry.client.request(method, path, params={"dryrun": "true", "Jane Doe": "1"})
        require_problem(answer, "Jane")
        assert faults(answer) == {("/query/dryrun", "extra_forbidden"), ("/query/?", "extra_forbidden")}, path


def test_every_route_takes_the_parameters_that_it_publishes(registry: Registry) -> None:
    found = [one for one in operations(registry) if one[2]]
    assert len(found) > 50
    for method, path, asked in found:
        answer = registry.client.request(method, path, params=dict.fromkeys(asked, "1"))
        assert "extra_forbidden" not in {code for _, code in faults(answer)}, path


def test_the_oauth_addresses_refuse_a_query_in_their_own_form(registry: Registry) -> None:
    for path in OAUTH:
        answer = registry.client.post(f"{path}?dryrun=true", data={"grant_type": "client_credentials"})
        assert (answer.status_code, answer.json()) == (400, {"error": "invalid_request"})


@pytest.mark.parametrize("name", ["dryrun", "dry-run", "DRY_RUN", "dry_run "])
def test_a_mistyped_dry_run_is_refused_and_does_nothing(world: World, name: str) -> None:
    pid, extract, custodian = world.enrolled(), an_extract(world), world.custodian
    engine = world.registry.database.engine
    before = census(engine)
    withdrawal = {**WITHDRAWAL, "scope": "identity"}
    for answer in (
        world.staff_a.post(f"/v1/participants/{pid}/withdrawals?{name}=true", withdrawal),
        world.staff_a.post(f"/v1/visits?{name}=true", world.visit(pid)),
        custodian.post(f"{extract}/approval?{name}=true", {"decision": "approve", "reason": "agreed use"}),
    ):
        assert answer.status_code == 422, answer.text
    assert census(engine) == before


def test_where_nothing_can_be_tried_out_dry_run_is_refused(world: World) -> None:
    act = an_act(world, "A")
    answer = world.staff_a.post("/v1/sync?dry_run=true", {"operations": [act]})
    assert faults(answer) == {("/query/dry_run", "extra_forbidden")}
    (told,) = world.staff_a.post("/v1/sync", {"operations": [act]}).json()["results"]
    assert told["result"] == "created"
