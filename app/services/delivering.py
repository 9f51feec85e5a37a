"""The worker's part: claim what is due, send it, keep what became of it. At least once, never within a transaction.

A claim is a lease: a worker that dies lets it lapse, and the message goes out again with the same delivery id.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import SystemRandom
from uuid import UUID

import structlog
from sqlalchemy import func, update
from sqlmodel import Session, col, or_, select
from sqlmodel.sql.expression import SelectOfScalar

from app.database import Database, within
from app.models.base import canonical_json, now, utc_text
from app.models.notification import Delivery, DeliveryState, Notification, Subscription, SubscriptionKind
from app.security.keys import Keyring
from app.security.sealing import SealBroken, unseal
from app.services.mail import mail
from app.services.outbox import every_site, tell_overdue, untold
from app.services.webhooks import Undelivered, post
from app.settings import Settings

log = structlog.get_logger()
BATCH = 20
LEASE = timedelta(minutes=5)


@dataclass(frozen=True)
class Message:
    """One claimed delivery with all that is sent, and to whom."""

    delivery_id: UUID
    attempt: int
    subscription_id: UUID
    kind: SubscriptionKind
    address: str
    sealed: str | None
    event: str
    subject: UUID
    link: str
    occurred_at: datetime

    @property
    def content(self) -> dict[str, str]:
        """All that anybody is told. Whoever may know more follows the link and signs in."""
        return {
            "delivery": str(self.delivery_id),
            "type": self.event,
            "subject": str(self.subject),
            "link": self.link,
            "occurred_at": utc_text(self.occurred_at),
        }


class Courier:
    """Delivers the messages of one database. Many may work at once."""

    def __init__(
        self, database: Database, keyring: Keyring, settings: Settings, clock: Callable[[], datetime] = now
    ) -> None:
        self._database, self._keyring, self._settings, self._clock = database, keyring, settings, clock

    def look_for_overdue(self) -> int:
        """Tell of the clocks of serious events that have run out. How many were found."""
        with self._database.read() as session:
            late = untold(session, self._clock())
        if late:
            with self._database.write() as session:
                tell_overdue(session, late)
        return len(late)

    def deliver(self) -> int:
        """Send what is due, one batch. How many were tried."""
        messages = self._claimed()
        if messages:
            self._keep(messages, asyncio.run(self._sent(messages)))
        return len(messages)

    def _claimed(self) -> list[Message]:
        at = self._clock()
        with self._database.write() as session:
            ids = session.exec(_next(at)).all()
            if not ids:
                return []
            theirs = update(Delivery).where(col(Delivery.id).in_(ids))
            session.execute(theirs.values(attempts=col(Delivery.attempts) + 1, claimed_until=at + LEASE))
            return _messages(session, ids, self._settings.published_at)

    async def _sent(self, messages: Sequence[Message]) -> list[str | None]:
        """The kind of failure of each message; None: it arrived."""
        every_one_at_once = ThreadPoolExecutor(BATCH)  # a mail, or a name that is looked up, waits for no other
        asyncio.get_running_loop().set_default_executor(every_one_at_once)
        return list(await asyncio.gather(*(self._outcome(message) for message in messages)))

    async def _outcome(self, message: Message) -> str | None:
        try:
            await self._send(message)
        except Undelivered as failed:
            return failed.kind
        except Exception as failed:  # one message must not hold up the others
            log.error("delivery_broke", kind=type(failed).__name__)
            return "internal_error"
        return None

    async def _send(self, message: Message) -> None:
        if message.kind == SubscriptionKind.email:
            text = "".join(f"{name}: {value}\n" for name, value in message.content.items())
            arguments = (message.address, str(message.delivery_id), message.event, text)
            await asyncio.to_thread(mail, self._settings, *arguments)
            return
        body = canonical_json(message.content).encode()
        secret = self._secret(message)
        await post(self._settings, message.address, str(message.delivery_id), body, secret, int(time.time()))

    def _secret(self, message: Message) -> bytes:
        try:
            key = self._keyring.derived("webhook-secret")
            return unseal(key, message.sealed or "", str(message.subscription_id).encode())
        except SealBroken:
            raise Undelivered("secret_unreadable") from None

    def _keep(self, messages: Sequence[Message], failures: Sequence[str | None]) -> None:
        at = self._clock()
        with self._database.write() as session:
            for message, failure in sorted(zip(messages, failures, strict=True), key=lambda pair: pair[0].delivery_id):
                self._keep_one(session, message, failure, at)

    def _keep_one(self, session: Session, message: Message, failure: str | None, at: datetime) -> None:
        this = update(Delivery).where(col(Delivery.id) == message.delivery_id)
        if failure is None:
            done = {"state": DeliveryState.delivered, "delivered_at": at, "last_error": None, "claimed_until": None}
            session.execute(this.values(**done))
            return
        dead = message.attempt >= self._settings.delivery_attempts
        log.warning("delivery_failed", delivery=str(message.delivery_id), attempt=message.attempt, kind=failure)
        session.execute(
            this.where(
                col(Delivery.attempts) == message.attempt,  # else the lease lapsed, and it is another worker's
                col(Delivery.state) == DeliveryState.pending,
            ).values(
                state=DeliveryState.dead if dead else DeliveryState.pending,
                last_error=failure,
                claimed_until=None,
                next_attempt_at=at + pause(self._settings, message.attempt),
            )
        )


def pause(settings: Settings, attempt: int) -> timedelta:
    """How long to wait after a failed attempt (the first is 1): doubling, up to the longest, of which a random part
    up to a half is taken off, so that those who failed together do not come back together."""
    longest = settings.delivery_longest_pause_seconds
    seconds = min(longest, settings.delivery_pause_seconds * 2 ** min(attempt - 1, 32))
    return timedelta(seconds=seconds * SystemRandom().uniform(0.5, 1.0))


def _next(at: datetime) -> SelectOfScalar[UUID]:
    """What is due, of each subscription in turn: a receiver that hangs or was away for long holds up no other."""
    due = (
        Delivery.state == DeliveryState.pending,
        Delivery.next_attempt_at <= at,
        or_(col(Delivery.claimed_until).is_(None), col(Delivery.claimed_until) <= at),
    )
    oldest = col(Delivery.next_attempt_at)
    turn = func.row_number().over(partition_by=col(Delivery.subscription_id), order_by=oldest).label("turn")
    queue = select(Delivery.id, turn).join(Subscription).where(*due, col(Subscription.disabled_at).is_(None)).subquery()
    return (
        select(Delivery.id)
        .join(queue, queue.c.id == Delivery.id)
        .where(*due)  # again: of a row that changed meanwhile PostgreSQL looks at these once more, not at the queue
        .order_by(queue.c.turn, oldest)
        .limit(BATCH)
        .with_for_update(skip_locked=True, of=Delivery)
    )


def _messages(session: Session, ids: Sequence[UUID], published_at: str) -> list[Message]:
    statement = (
        select(Delivery, Subscription, Notification)
        .join(Subscription, col(Subscription.id) == Delivery.subscription_id)
        .join(Notification, col(Notification.id) == Delivery.notification_id)
        .where(col(Delivery.id).in_(ids))
    )
    with within(session, every_site(session)):
        rows = session.exec(statement).all()
    return [
        Message(
            delivery_id=delivery.id,
            attempt=delivery.attempts,
            subscription_id=subscription.id,
            kind=subscription.kind,
            address=subscription.address,
            sealed=subscription.sealed,
            event=notification.type,
            subject=notification.subject_id,
            link=f"{published_at}/v1/{notification.subject_type}/{notification.subject_id}",
            occurred_at=notification.occurred_at,
        )
        for delivery, subscription, notification in rows
    ]
