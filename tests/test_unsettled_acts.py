"""What a site's apps sent and the registry could not store is shown to its monitors, as a number and since when."""

from typing import Any

from app.models.account import Role, RoleGrant
from tests.test_sync import act, sync
from tests.test_sync_again import closed, lift
from tests.world import Caller, World

Shown = tuple[int, str | None]


def app_at(world: World, *sites: str) -> Caller:
    """An app with an account of its own."""
    return world.caller(*((Role.site_staff, site) for site in sites))


def at_sites(world: World, monitor: Caller | None = None) -> dict[str, Shown]:
    """By site, how many acts are unsettled and since when: the same in the summary and beside the other sites."""
    caller = monitor or world.monitor
    summary = caller.get("/v1/monitoring/summary", study=world.study).json()["sites"]
    beside = caller.get("/v1/monitoring/sites", study=world.study).json()["sites"]
    counted: dict[str, Any] = {one["site"]: one["unsettled_acts"] for one in summary}
    assert {one["site"]: one["unsettled_acts"] for one in beside} == counted
    return {site: (told["count"], told["oldest_at"]) for site, told in counted.items()}


def test_what_a_lock_holds_and_what_was_refused_counts_until_it_is_settled(world: World) -> None:
    app, pid = app_at(world, "A"), world.enrolled()
    lifting = closed(world, pid)
    held, wrong = act("/v1/adverse-events", world.event(pid)), act("/v1/visits", {})
    sync(app, held)
    sync(app, wrong, act("/v1/adverse-events", world.event(world.enrolled())))
    first = min(one["created_at"] for one in app.get("/v1/sync").json()["items"] if one["id"] == held["id"])
    assert at_sites(world) == {"A": (2, first), "B": (0, None)}
    lift(world, lifting)
    sync(app, held)
    (refused,) = app.get("/v1/sync", state="refused").json()["items"]
    assert at_sites(world) == {"A": (1, refused["created_at"]), "B": (0, None)}
    discarded = app.post(f"/v1/sync/{wrong['id']}/resolution", {"decision": "discard", "reason": "entered twice"})
    assert discarded.is_success, discarded.text
    assert at_sites(world) == {"A": (0, None), "B": (0, None)}


def test_an_act_of_an_account_of_two_sites_counts_at_each_once_and_of_no_other_study(world: World) -> None:
    other = World(world.registry)
    both = world.caller((Role.site_staff, "A"), (Role.investigator, "A"), (Role.site_staff, "B"))
    sync(both, act("/v1/visits", {}))
    assert {site: count for site, (count, _) in at_sites(world).items()} == {"A": 1, "B": 1}
    assert at_sites(other) == {"A": (0, None), "B": (0, None)}
    assert at_sites(world, world.monitor_a).keys() == {"A"}


def test_what_an_account_of_the_whole_study_sent_counts_at_every_site(world: World) -> None:
    sync(world.caller((Role.site_staff, None)), act("/v1/visits", {}))
    assert [count for count, _ in at_sites(world).values()] == [1, 1]


def test_an_act_counts_where_its_account_had_a_role_when_it_came(world: World) -> None:
    account = world.account((Role.site_staff, "A"))
    caller = Caller(world.registry.client, world.token(account))
    sync(caller, act("/v1/visits", {}))
    world.revoke(account)
    assert at_sites(world)["A"][0] == 1
    with world.registry.database.write() as session:
        at = {"account_id": account.id, "study_id": world.study_id, "site_id": world.site_ids["B"]}
        session.add(RoleGrant(role=Role.site_staff, **at))
    sync(Caller(world.registry.client, world.token(account)), act("/v1/visits", {}), act("/v1/visits", {}))
    assert {site: count for site, (count, _) in at_sites(world).items()} == {"A": 1, "B": 2}
