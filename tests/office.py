"""Who delivers in the tests: couriers on a study's database, with a clock that the test sets."""

import time
from collections import Counter
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import update
from sqlmodel import col, select

from app.database import Database
from app.models.base import now
from app.models.notification import Delivery, EventType, Notification, SubjectType, Subscription
from app.services.notifications.delivering import BATCH, Courier
from app.services.notifications.outbox import notify
from tests.receivers import Receiver
from tests.world import World

LOOPBACK = "127.0.0.0/8, ::1/128"


class Clock:
    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return now() + self.ahead


class Office:
    """The subscriptions of one study, and nobody else's."""

    def __init__(self, world: World, **changes: Any) -> None:
        self.world, self.clock = world, Clock()
        usual = {"webhook_private_networks": LOOPBACK, "delivery_timeout_seconds": 5.0, "delivery_attempts": 4}
        self.settings = world.registry.app.state.settings.model_copy(update={**usual, **changes})
        with world.registry.database.write() as session:
            others = col(Subscription.disabled_at).is_(None)
            session.execute(update(Subscription).where(others).values(disabled_at=now()))

    def courier(self, database: Database | None = None) -> Courier:
        state = self.world.registry.app.state
        return Courier(database or state.database, state.keyring, self.settings, self.clock)

    def tell(self, subject: UUID, event: EventType = EventType.extract_ready, site: str | None = None) -> None:
        """Something happens, in a transaction of its own."""
        world = self.world
        with world.registry.database.write() as session:
            site_id = world.site_ids[site] if site else None
            notify(session, event, site_id, world.study_id, SubjectType.extract, subject)

    def deliveries(self) -> list[Delivery]:
        """Those of this study, oldest first."""
        mine = select(Delivery).join(Notification).where(Notification.study_id == self.world.study_id)
        with self.world.registry.database.read() as session:
            return list(session.exec(mine.order_by(col(Delivery.created_at), col(Delivery.id))))


def require_one_delivered_beside_a_batch_that_hangs(office: Office, healthy: Receiver, left: int) -> None:
    """Of a batch all others wait for the timeout, at the same time; what is `left` comes in the next one."""
    began = time.monotonic()
    assert office.courier().deliver() == BATCH
    assert time.monotonic() - began < 3
    assert len(healthy.got) == 1
    assert Counter((row.state, row.last_error) for row in office.deliveries()) == {
        ("delivered", None): 1,
        ("pending", "timeout"): BATCH - 1,
        ("pending", None): left,
    }
