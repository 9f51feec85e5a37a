"""Writes about reserved pids, to be made to fail at every statement; with the rows that each makes."""

from collections.abc import Callable, Mapping
from functools import partial
from uuid import uuid4

from httpx2 import Response

from tests.route_cases import RESERVATIONS, Route, a_block
from tests.world import World

WHY = {"reason": "the tablet was lost"}


def _drawn(world: World) -> Callable[[], Response]:
    key, body = str(uuid4()), {"study": world.study, "site": "A", "count": 2}
    return partial(world.staff_a.post, RESERVATIONS, body, key)


def _closed(world: World) -> Callable[[], Response]:
    key, path = str(uuid4()), f"{a_block(world, 'A').headers['Location']}/closure"
    return partial(world.staff_a.post, path, WHY, key)


RESERVING: Mapping[Route, tuple[Callable[[World], Callable[[], Response]], dict[str, int]]] = {
    ("POST", RESERVATIONS): (_drawn, {"pid_reservation": 1, "reserved_pid": 2, "audit_entry": 1}),
    ("POST", f"{RESERVATIONS}/{{reservation_id}}/closure"): (_closed, {"audit_entry": 1}),
}
