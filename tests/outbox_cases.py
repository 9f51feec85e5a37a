"""Subscriptions and deliveries: a valid request for each of their routes."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from httpx2 import Response

from app.models.notification import Delivery, DeliveryState
from tests.world import Caller, Case, World


def a_subscription(world: World, **changes: Any) -> dict[str, Any]:
    """A webhook that is told of everything in the world's study; `path` and `tag` are for the tests."""
    body = {
        "kind": "webhook",
        "address": "https://receiver.example.org/registry",
        "study": world.study,
        "event_types": ["adverse_event.serious", "adverse_event.overdue", "extract.ready"],
        **changes,
    }
    made = world.admin.post("/v1/subscriptions", body)
    assert made.status_code == 201, made.text
    return {**made.json(), "path": made.headers["Location"], "tag": made.headers["ETag"]}


def a_dead_delivery(world: World) -> str:
    """The path of a message that nobody took."""
    tested = world.admin.post(f"{a_subscription(world)['path']}/test", {})
    with world.registry.database.write() as session:
        delivery = session.get_one(Delivery, UUID(tested.json()["id"]))
        delivery.state = DeliveryState.dead
    return f"/v1/deliveries/{tested.json()['id']}"


def _new_subscription(world: World, caller: Caller, site: str) -> Response:
    body = {"kind": "webhook", "address": "https://r.example.org/", "study": world.study, "site": site}
    return caller.post("/v1/subscriptions", {**body, "event_types": ["adverse_event.serious"]})


def _amend_subscription(world: World, caller: Caller, site: str) -> Response:
    made = a_subscription(world)
    return caller.patch(made["path"], {"disabled": True, "reason": "receiver moved"}, made["tag"])


OUTBOX_CASES: Mapping[tuple[str, str], Case] = {
    ("POST", "/v1/subscriptions"): _new_subscription,
    ("GET", "/v1/subscriptions/{subscription_id}"): lambda world, caller, site: caller.get(
        a_subscription(world)["path"]
    ),
    ("PATCH", "/v1/subscriptions/{subscription_id}"): _amend_subscription,
    ("POST", "/v1/subscriptions/{subscription_id}/secret"): lambda world, caller, site: caller.post(
        f"{a_subscription(world)['path']}/secret", {"reason": "yearly"}
    ),
    ("POST", "/v1/subscriptions/{subscription_id}/test"): lambda world, caller, site: caller.post(
        f"{a_subscription(world)['path']}/test", {}
    ),
    ("POST", "/v1/deliveries/{delivery_id}/replay"): lambda world, caller, site: caller.post(
        f"{a_dead_delivery(world)}/replay", {"reason": "receiver is back"}
    ),
    ("POST", "/v1/deliveries/{delivery_id}/dismissal"): lambda world, caller, site: caller.post(
        f"{a_dead_delivery(world)}/dismissal", {"reason": "told by telephone"}
    ),
}
