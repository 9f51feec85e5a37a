"""A study or site that was named and is not in reach is 404, and never a list that says that nothing is wrong there."""

from typing import Any

import pytest
from httpx2 import Response

from app.models.account import Role
from tests.world import Caller, Registry, World

NEEDED = {"instrument": "MADRS", "score": "total", "subject_type": "visit"}


def lists(registry: Registry) -> list[tuple[str, dict[str, str], set[str]]]:
    """Every address that is read by study or site: with what else it needs, and which of the two it takes."""
    found = []
    for path, operations in registry.app.openapi()["paths"].items():
        asked = {one["name"]: one for one in operations.get("get", {}).get("parameters", ()) if one["in"] == "query"}
        if places := {"study", "site"} & asked.keys():
            needed = {name for name, one in asked.items() if one.get("required")} - {"study"}
            found.append((path, {name: NEEDED[name] for name in needed}, places))
    return found


def everybody(world: World) -> Caller:
    return world.caller(*((role, None) for role in Role if role is not Role.admin))


def asked(world: World, path: str, **places: str) -> Response:
    """By whoever may, everywhere in the study."""
    caller = world.admin if path == "/v1/subscriptions" else everybody(world)
    return caller.get(path.replace("{study}", world.study), **places)


def test_a_list_of_a_study_that_is_not_in_reach_is_404(world: World) -> None:
    elsewhere = World(world.registry).study
    tried = 0
    for path, needed, places in lists(world.registry):
        if "study" not in places:
            continue
        assert asked(world, path, **needed, study=world.study).status_code == 200, path
        foreign = [] if path == "/v1/subscriptions" else [elsewhere]  # an admin has all studies
        for code in (f"{world.study}0", *foreign):
            answer = asked(world, path, **needed, study=code)
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
        tried += 1
    assert tried >= 20


def test_a_list_of_a_site_that_is_not_in_reach_is_404(world: World) -> None:
    for path, needed, places in lists(world.registry):
        if "site" not in places:
            continue
        study = {"study": world.study} if "study" in places else {}
        assert asked(world, path, **needed, **study, site="A").status_code == 200, path
        assert asked(world, path, **needed, **study, site="S1").status_code == 404, path


@pytest.mark.parametrize("path", ["/v1/monitoring/summary", "/v1/adverse-events", "/v1/safety-signals", "/v1/changes"])
def test_another_callers_site_of_the_study_looks_as_if_it_did_not_exist(world: World, path: str) -> None:
    theirs, nowhere = (world.monitor_a.get(path, study=world.study, site=site) for site in ("B", "nowhere"))
    assert theirs.status_code == 404
    assert told(theirs) == told(nowhere)


def told(answer: Response) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if name != "request_id"}


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/v1/adverse-events", {"overdue": "true"}),
        ("/v1/adverse-events", {"format": "csv"}),
        ("/v1/audit-entries", {"format": "csv"}),
    ],
)
def test_a_mistyped_study_is_404_however_it_is_asked_for(world: World, path: str, more: dict[str, str]) -> None:
    assert world.monitor.get(path, study="mistyped", **more).status_code == 404
    assert world.monitor.get(path, study=world.study, **more).status_code == 200


def test_a_stream_of_a_mistyped_study_is_not_opened(world: World) -> None:
    sent = world.monitor.headers(Accept="text/event-stream")
    answer = world.monitor.client.get("/v1/changes", params={"study": "mistyped"}, headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_a_feed_of_a_site_that_went_out_of_reach_is_404_and_of_all_sites_is_silent_of_it(world: World) -> None:
    account = world.account((Role.monitor, "A"), (Role.monitor, "B"))
    caller = Caller(world.registry.client, world.token(account))
    world.enrolled("B")
    of_all, of_one = caller.get("/v1/changes").json(), caller.get("/v1/changes", site="B").json()
    world.revoke(account)
    granted = {"role": "monitor", "study": world.study, "sites": ["A"]}
    assert world.admin.post(f"/v1/users/{account.id}/grants", granted).status_code == 201
    account.grants_version += 1
    caller = Caller(world.registry.client, world.token(account))
    world.enrolled("B")
    assert caller.get("/v1/changes", site="B", after=of_one["next"]).status_code == 404
    assert caller.get("/v1/changes", after=of_all["next"]).json()["items"] == []
