"""The worker of the outbox: claim deliveries that are due, send them, store the result. Each is sent at least once, and
never within a transaction.

A claim is a lease: if a worker dies, it expires and the message is sent again with the same delivery id.
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
from app.services.notifications.mail import mail
from app.services.notifications.outbox import not_notified, notify_overdue
from app.services.notifications.webhooks import Undelivered, post
from app.services.studies import every_site
from app.settings import Settings

log = structlog.get_logger()
BATCH = 20
LEASE = timedelta(minutes=5)


@dataclass(frozen=True)
class Message:
    """One claimed delivery, with its content and recipient."""

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
        """The whole content of a message. Recipients follow the link and sign in to see more."""
        return {
            "delivery": str(self.delivery_id),
            "type": self.event,
            "subject": str(self.subject),
            "link": self.link,
            "occurred_at": utc_text(self.occurred_at),
        }


class Courier:
    """Delivers the messages of one database. Several couriers may work at once."""

    def __init__(
        self, database: Database, keyring: Keyring, settings: Settings, clock: Callable[[], datetime] = now
    ) -> None:
        self._database, self._keyring, self._settings, self._clock = database, keyring, settings, clock

    def look_for_overdue(self) -> int:
        """Notify of serious adverse events whose reporting deadline has passed; gives their number."""
        with self._database.read() as session:
            late = not_notified(session, self._clock())
        if late:
            with self._database.write() as session:
                notify_overdue(session, late)
        return len(late)

    def deliver(self) -> int:
        """Send one batch of what is due; gives the number of messages tried."""
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
        """The kind of failure of each message; None if it was delivered."""
        every_one_at_once = ThreadPoolExecutor(BATCH)  # mails and DNS look-ups each block a thread
        asyncio.get_running_loop().set_default_executor(every_one_at_once)
        return list(await asyncio.gather(*(self._outcome(message) for message in messages)))

    async def _outcome(self, message: Message) -> str | None:
        try:
            await self._send(message)
        except Undelivered as failed:
            return failed.kind
        except Exception as failed:  # the other messages are to be sent all the same
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
                col(Delivery.attempts) == message.attempt,  # else the lease expired, and another worker has it
                col(Delivery.state) == DeliveryState.pending,
            ).values(
                state=DeliveryState.dead if dead else DeliveryState.pending,
                last_error=failure,
                claimed_until=None,
                next_attempt_at=at + pause(self._settings, message.attempt),
            )
        )


def pause(settings: Settings, attempt: int) -> timedelta:
    """How long to wait after a failed attempt (the first is 1): doubled each time up to the longest pause, less a
    random part of up to a half, so that deliveries that failed together are not tried again together."""
    longest = settings.delivery_longest_pause_seconds
    seconds = min(longest, settings.delivery_pause_seconds * 2 ** min(attempt - 1, 32))
    return timedelta(seconds=seconds * SystemRandom().uniform(0.5, 1.0))


def _next(at: datetime) -> SelectOfScalar[UUID]:
    """The next deliveries that are due, one of each subscription in turn, so that a receiver that hangs or was away for
    long does not delay the others."""
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
        .where(*due)  # again: PostgreSQL rechecks these, but not the subquery, for a row that changed meanwhile
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
