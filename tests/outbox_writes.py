"""Writes of subscriptions and deliveries, which are made to fail at every statement; with the rows that each makes."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

from httpx2 import Response

from app.models.base import now
from tests.monitor_cases import shown
from tests.outbox_cases import a_dead_delivery, a_subscription
from tests.route_cases import Route
from tests.world import Caller, World

Send = Callable[[], Response]
Prepare = Callable[[World], Send]
AMENDED: dict[str, int] = {"audit_entry": 1}


def _post(caller: Caller, path: str, body: Any) -> Send:
    key = str(uuid4())
    return lambda: caller.post(path, body, key)


def _serious(world: World) -> Send:
    a_subscription(world)
    body = world.event(world.enrolled(), criteria={"hospitalisation": True}, aware_at=shown(now()))
    return _post(world.staff_a, "/v1/adverse-events", body)


def _subscribed(world: World) -> Send:
    body = {"kind": "webhook", "address": "https://r.example.org/", "study": world.study}
    return _post(world.admin, "/v1/subscriptions", {**body, "event_types": ["extract.ready"]})


def _subscription_amended(world: World) -> Send:
    made = a_subscription(world)
    return lambda: world.admin.patch(made["path"], {"disabled": True, "reason": "receiver moved"}, made["tag"])


TOLD_ONCE: Mapping[Route, tuple[Prepare, dict[str, int]]] = {
    ("POST", "/v1/adverse-events "): (
        _serious,
        {"adverse_event": 1, "notification": 1, "delivery": 1, "audit_entry": 1},
    ),
}
"""The trailing space tells it from an event that nobody is told of."""

TOLD: Mapping[Route, tuple[Prepare, dict[str, int]]] = {
    ("POST", "/v1/subscriptions"): (_subscribed, {"subscription": 1, "audit_entry": 1}),
    ("PATCH", "/v1/subscriptions/{subscription_id}"): (_subscription_amended, AMENDED),
    ("POST", "/v1/subscriptions/{subscription_id}/secret"): (
        lambda world: _post(world.admin, f"{a_subscription(world)['path']}/secret", {"reason": "yearly"}),
        AMENDED,
    ),
    ("POST", "/v1/subscriptions/{subscription_id}/test"): (
        lambda world: _post(world.admin, f"{a_subscription(world)['path']}/test", {}),
        {"notification": 1, "delivery": 1, "audit_entry": 1},
    ),
    ("POST", "/v1/deliveries/{delivery_id}/replay"): (
        lambda world: _post(world.admin, f"{a_dead_delivery(world)}/replay", {"reason": "receiver is back"}),
        AMENDED,
    ),
    ("POST", "/v1/deliveries/{delivery_id}/dismissal"): (
        lambda world: _post(world.admin, f"{a_dead_delivery(world)}/dismissal", {"reason": "told by telephone"}),
        AMENDED,
    ),
}
