"""Subscriptions, which admins make and change, and the replay of messages that were not delivered."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Session, col

from app import audit
from app.access import Actor, Rows, visible_row
from app.database import within
from app.errors import Conflict
from app.models.base import canonical_json, columns, from_json, now, values
from app.models.notification import (
    Delivery,
    DeliveryRead,
    DeliveryState,
    Notification,
    Subscription,
    SubscriptionAmend,
    SubscriptionCreate,
    SubscriptionKind,
    SubscriptionRead,
)
from app.models.study import Site, Study
from app.security.keys import Keyring
from app.security.sealing import seal
from app.services.notifications import outbox
from app.services.notifications.webhooks import new_secret, written_secret
from app.services.studies import every_site, site_by_code, study_by_code
from app.services.trail.registry_chain import remember
from app.settings import Settings
from app.web.conditional import Seen


class MailNotConfigured(Conflict):
    """This registry has no mail server configured."""


class WebhookNeedsHttps(Conflict):
    """Webhooks go to https addresses only."""


class SubscriptionHasNoSecret(Conflict):
    """Only webhooks are signed; this subscription has no secret."""


class SubscriptionDisabled(Conflict):
    """This subscription is disabled; enable it first."""


class DeliveryPending(Conflict):
    """This message is still being tried; only one that was delivered, is dead or was dismissed can be replayed."""


class DeliveryNotDead(Conflict):
    """Only a message that is dead can be dismissed."""


def subscribe(
    session: Session, actor: Actor, keyring: Keyring, settings: Settings, body: SubscriptionCreate
) -> tuple[Subscription, str | None]:
    """A new subscription, and its secret if it is a webhook. Raises NotFound, MailNotConfigured, WebhookNeedsHttps."""
    study = study_by_code(session, actor, body.study)
    site = site_by_code(session, actor, body.study, body.site) if body.site else None
    if body.kind is SubscriptionKind.email and settings.smtp_host is None:
        raise MailNotConfigured
    webhook = body.kind is SubscriptionKind.webhook
    if webhook and settings.environment == "production" and not body.address.lower().startswith("https://"):
        raise WebhookNeedsHttps
    assert study.id is not None
    row = Subscription(
        kind=body.kind,
        address=body.address,
        study_id=study.id,
        site_id=site.id if site else None,
        event_types=canonical_json(body.event_types),
        created_by=actor.account_id,
    )
    secret = _new_secret(keyring, row) if webhook else None
    session.add(row)
    session.flush()
    remember(session, actor, audit.created("subscription:created", row, row.id))
    return row, secret


def _new_secret(keyring: Keyring, row: Subscription) -> str:
    secret = new_secret()
    row.sealed = seal(keyring.derived("webhook-secret"), secret, str(row.id).encode())
    return written_secret(secret)


def amend(session: Session, actor: Actor, seen: Seen, subscription_id: UUID, body: SubscriptionAmend) -> Subscription:
    """Change the event types, disable or enable. Raises NotFound, VersionStale."""
    row = visible_row(session, actor, Subscription, subscription_id, lock=True)
    changes: dict[str, Any] = {}
    if body.event_types is not None and canonical_json(body.event_types) != row.event_types:
        changes["event_types"] = canonical_json(body.event_types)
    if body.disabled is not None and body.disabled != (row.disabled_at is not None):
        changes["disabled_at"] = now() if body.disabled else None
    seen.require_current(row.id, row.version, ["disabled" if c == "disabled_at" else c for c in changes])
    if changes:
        _change(session, actor, row, "subscription:amended", changes, body.reason)
    return row


def renew_secret(
    session: Session, actor: Actor, keyring: Keyring, subscription_id: UUID, reason: str
) -> tuple[Subscription, str]:
    """A new secret, which signs from now on. What the receiver refuses until it knows the secret is tried again.

    Raises NotFound, SubscriptionHasNoSecret.
    """
    row = visible_row(session, actor, Subscription, subscription_id, lock=True)
    if row.kind != SubscriptionKind.webhook:
        raise SubscriptionHasNoSecret
    secret = _new_secret(keyring, row)
    _change(session, actor, row, "subscription:secret-renewed", {}, reason)
    return row, secret


def _change(
    session: Session, actor: Actor, row: Subscription, action: str, changes: Mapping[str, Any], reason: str
) -> None:
    before = audit.snapshot(row)
    for name, value in changes.items():
        setattr(row, name, value)
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    remember(session, actor, audit.changed(action, row, row.id, row.version, before, reason))


def send_test(session: Session, actor: Actor, subscription_id: UUID) -> DeliveryRead:
    """A message that says nothing but that it arrived. Raises NotFound, SubscriptionDisabled."""
    row = visible_row(session, actor, Subscription, subscription_id)
    if row.disabled_at is not None:
        raise SubscriptionDisabled
    delivery = outbox.send_test(session, row)
    remember(session, actor, audit.Event("subscription:tested", "subscription", str(row.id), row.version, []))
    return _delivery(session, delivery)


def replay(session: Session, actor: Actor, delivery_id: UUID, reason: str) -> DeliveryRead:
    """Send a message that is over again, under its old id. Raises NotFound, DeliveryPending, SubscriptionDisabled."""
    row = visible_row(session, actor, Delivery, delivery_id, lock=True)
    if row.state == DeliveryState.pending:
        raise DeliveryPending
    if session.get_one(Subscription, row.subscription_id).disabled_at is not None:
        raise SubscriptionDisabled
    again = {"attempts": 0, "next_attempt_at": now(), "delivered_at": None, "last_error": None, "claimed_until": None}
    return _put(session, actor, row, "delivery:replayed", {"state": DeliveryState.pending, **again}, reason)


def dismiss(session: Session, actor: Actor, delivery_id: UUID, reason: str) -> DeliveryRead:
    """Nobody is asked about a dead message any more. Raises NotFound, DeliveryNotDead."""
    row = visible_row(session, actor, Delivery, delivery_id, lock=True)
    if row.state != DeliveryState.dead:
        raise DeliveryNotDead
    return _put(session, actor, row, "delivery:dismissed", {"state": DeliveryState.dismissed}, reason)


def _put(
    session: Session, actor: Actor, row: Delivery, action: str, changes: Mapping[str, Any], reason: str
) -> DeliveryRead:
    before = audit.snapshot(row)
    for name, value in changes.items():
        setattr(row, name, value)
    session.flush()
    remember(session, actor, audit.changed(action, row, row.id, 1, before, reason))
    return _delivery(session, row)


def rows() -> Rows:
    """Subscriptions with the codes of study and site; narrow it with `visible`."""
    codes: Any = (col(Study.code).label("study"), col(Site.code).label("site"))
    joined = sa.select(*columns(Subscription), *codes).join(Study, col(Study.id) == col(Subscription.study_id))
    return joined.outerjoin(Site, col(Site.id) == col(Subscription.site_id))


def subscription_read(session: Session, row: Subscription) -> SubscriptionRead:
    site = session.get_one(Site, row.site_id).code if row.site_id is not None else None
    return read({**values(row), "study": session.get_one(Study, row.study_id).code, "site": site})


def read(fields: Mapping[str, Any]) -> SubscriptionRead:
    return SubscriptionRead.of_row(
        fields,
        event_types=from_json(fields["event_types"]),
        disabled=fields["disabled_at"] is not None,
    )


def delivery_rows() -> Rows:
    """Deliveries with the type of their event; narrow it with `visible`, and read it within every site."""
    wanted = sa.select(*columns(Delivery), col(Notification.type).label("type"))
    return wanted.join(Notification, col(Notification.id) == col(Delivery.notification_id))


def _delivery(session: Session, row: Delivery) -> DeliveryRead:
    kept = sa.select(col(Notification.type)).where(col(Notification.id) == row.notification_id)
    with within(session, every_site(session)):
        return delivery_read({**values(row), "type": session.execute(kept).scalar_one()})


def delivery_read(fields: Mapping[str, Any]) -> DeliveryRead:
    return DeliveryRead.of_row(
        fields,
        subscription=fields["subscription_id"],
        next_attempt_at=fields["next_attempt_at"] if fields["state"] == DeliveryState.pending else None,
    )
