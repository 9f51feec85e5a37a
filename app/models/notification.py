"""Notifications: who is told of which events (subscriptions), what happened (notifications), and the state of each
message (deliveries). No identifier of a participant and no clinical detail is stored here."""

import re
from datetime import datetime
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from pydantic import AfterValidator, Strict, StringConstraints, model_validator
from pydantic import Field as Bounded
from pydantic_core import PydanticCustomError
from sqlalchemy import Column, Index, String, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from app.models.base import Answer, Code, Cursor, Filter, InstantShown, Limit, QueryBool, Reason, Shape, now, one_of
from app.models.contradiction import contradiction


class EventType(StrEnum):
    """Kinds of events that subscriptions send messages about."""

    adverse_event_alert = "adverse_event.alert"
    adverse_event_overdue = "adverse_event.overdue"
    adverse_event_serious = "adverse_event.serious"
    data_query_answered = "data_query.answered"
    data_query_opened = "data_query.opened"
    extract_consent_withdrawn = "extract.consent_withdrawn"
    extract_ready = "extract.ready"
    safety_signal_raised = "safety_signal.raised"
    subscription_test = "subscription.test"
    """Sent to one subscription, on an admin's request."""


class SubjectType(StrEnum):
    """What an event is about, by the path at which readers find it."""

    adverse_event = "adverse-events"
    data_query = "data-queries"
    extract = "extracts"
    safety_signal = "safety-signals"
    subscription = "subscriptions"


class SubscriptionKind(StrEnum):
    email = "email"
    webhook = "webhook"


class DeliveryState(StrEnum):
    pending = "pending"
    delivered = "delivered"
    dead = "dead"
    """Every attempt failed; an admin may replay or dismiss it."""

    dismissed = "dismissed"
    """It was dead, and an admin says that nobody needs it any more."""


class Subscription(SQLModel, table=True):
    """A receiver outside the registry. While it is disabled, its deliveries wait. It is never deleted, as deliveries
    refer to it."""

    __table_args__ = (one_of("kind", SubscriptionKind), Index("ix_subscription_study_id", "study_id"))

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    kind: SubscriptionKind = Field(sa_type=String(16))
    address: str = Field(max_length=500)
    """A URL or a mail address. It never changes: somebody else is another subscription."""

    study_id: int = Field(foreign_key="study.id")
    site_id: int | None = Field(default=None, foreign_key="site.id")
    """None: every site of the study, and what belongs to no site."""

    event_types: str = Field(sa_column=Column(Text, nullable=False))
    """Canonical JSON list."""

    sealed: str | None = Field(default=None, max_length=200)
    """The secret that signs webhooks, AES-256-GCM, bound to the subscription."""

    version: int = 1
    disabled_at: datetime | None = None
    created_by: UUID = Field(foreign_key="account.id")
    created_at: datetime = Field(default_factory=now)
    updated_at: datetime = Field(default_factory=now)


class Notification(SQLModel, table=True):
    """One event, written in the transaction that made it happen."""

    __table_args__ = (
        one_of("type", EventType),
        one_of("subject_type", SubjectType),
        UniqueConstraint("site_id", "type", "subject_id", "due_at"),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    type: EventType = Field(sa_type=String(32))
    study_id: int = Field(foreign_key="study.id")
    site_id: int | None = Field(default=None, foreign_key="site.id")
    subject_type: SubjectType = Field(sa_type=String(32))
    subject_id: UUID
    due_at: datetime | None = None
    """The due time that has passed, of an overdue event: each due time is notified once."""

    occurred_at: datetime = Field(default_factory=now)


class Delivery(SQLModel, table=True):
    """One notification for one subscription. Its id goes along, so that a receiver knows a repeated message."""

    __table_args__ = (
        one_of("state", DeliveryState),
        UniqueConstraint("notification_id", "subscription_id"),
        Index("ix_delivery_due", "state", "next_attempt_at"),
        Index("ix_delivery_page", "created_at", "id"),
    )

    id: UUID = Field(default_factory=uuid4, primary_key=True)
    notification_id: UUID = Field(foreign_key="notification.id")
    subscription_id: UUID = Field(foreign_key="subscription.id", index=True)
    state: DeliveryState = Field(default=DeliveryState.pending, sa_type=String(16))
    attempts: int = 0
    """Begun attempts since the event or the last replay."""

    next_attempt_at: datetime = Field(default_factory=now)
    claimed_until: datetime | None = None
    """Until then it is a worker's; later the worker is taken for dead and another may try."""

    last_error: str | None = Field(default=None, max_length=64)
    """The kind of the last failure, never what the other side said."""

    created_at: datetime = Field(default_factory=now)
    delivered_at: datetime | None = None


_MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_{|}~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,188}[A-Za-z0-9])?", re.ASCII)
_SUBSCRIBABLE = frozenset(EventType) - {EventType.subscription_test}


def _subscribable(types: list[EventType]) -> list[EventType]:
    if not set(types) <= _SUBSCRIBABLE:
        raise PydanticCustomError("not_subscribable", "Tests are sent on request only")
    return sorted(set(types))


Address = Annotated[str, StringConstraints(min_length=3, max_length=500, pattern=r"^[\x21-\x7e]+$")]
EventTypes = Annotated[
    list[Annotated[EventType, Strict(False)]], Bounded(min_length=1, max_length=20), AfterValidator(_subscribable)
]


def is_web_address(text: str) -> bool:
    """Whether a text is an http or https address of a host, without a name and password in it."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(host) and "@" not in parts.netloc and not parts.fragment


class SubscriptionCreate(Shape):
    kind: Annotated[SubscriptionKind, Strict(False)]
    address: Address
    study: Code
    site: Code | None = None
    event_types: EventTypes

    @model_validator(mode="after")
    def _address_fits_kind(self) -> "SubscriptionCreate":
        webhook = self.kind is SubscriptionKind.webhook
        if not (is_web_address(self.address) if webhook else _MAIL.fullmatch(self.address)):
            raise contradiction("address_unusable", "The address is none of this kind", "address")
        return self


class SubscriptionAmend(Shape):
    """A change of a subscription: only the fields sent change."""

    reason: Reason
    disabled: bool | None = None
    event_types: EventTypes | None = None


class SubscriptionRead(Answer):
    id: UUID
    kind: SubscriptionKind
    address: str
    study: str
    site: str | None
    event_types: list[EventType]
    disabled: bool
    version: int
    created_at: InstantShown
    updated_at: InstantShown


class SubscriptionWithSecret(SubscriptionRead):
    """The one answer that ever shows this secret (webhooks only)."""

    secret: str | None


class SubscriptionList(Answer):
    items: list[SubscriptionRead]
    next: str | None


class SubscriptionFilter(Filter):
    study: Code | None = None
    disabled: QueryBool | None = None
    limit: Limit = 50
    cursor: Cursor = None


class DeliveryRead(Answer):
    """What became of a message. Not what it was about: who runs the registry sees no clinical row."""

    id: UUID
    subscription: UUID
    type: EventType
    state: DeliveryState
    attempts: int
    next_attempt_at: InstantShown | None
    last_error: str | None
    created_at: InstantShown
    delivered_at: InstantShown | None


class DeliveryList(Answer):
    items: list[DeliveryRead]
    next: str | None


class DeliveryFilter(Filter):
    state: DeliveryState | None = None
    subscription: UUID | None = None
    limit: Limit = 50
    cursor: Cursor = None
