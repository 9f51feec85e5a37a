"""The outbox: an event and its messages are rows of the transaction that made it happen, so that what is stored is told
and what was rolled back is not. `registry deliver` sends them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import insert
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, or_, select

from app.database import within
from app.models.adverse_event import AdverseEvent
from app.models.audit import REGISTRY_CHAIN
from app.models.base import from_json, new_row, now, table_of
from app.models.notification import Delivery, EventType, Notification, SubjectType, Subscription
from app.models.safety_report import SaeReport
from app.models.study import Site
from app.writing import Writes, store

_MANY = 500


def tell(
    session: Session,
    event: EventType,
    site_id: int | None,
    study_id: int,
    subject_type: SubjectType,
    subject_id: UUID,
    due_at: datetime | None = None,
) -> None:
    """Tell everybody who subscribed. Call it in the transaction of the event, before the audit entry.

    With `due_at` the event is told once for that due time, by whichever worker comes first.
    """
    notified = _noted(session, event, site_id, study_id, subject_type, subject_id, due_at)
    if notified is None:
        return
    send(session, notified, _subscribed(session, event, site_id, study_id))


def tell_at(session: Session, event: EventType, site_id: int, subject_type: SubjectType, subject_id: UUID) -> None:
    """`tell` of something at one site."""
    writes = Writes()
    note(session, writes, event, site_id, subject_type, [subject_id])
    store(session, writes)


def note(
    session: Session,
    writes: Writes,
    event: EventType,
    site_id: int,
    subject_type: SubjectType,
    subjects: Sequence[UUID],
) -> None:
    """Have it told of each subject, with what is going to be stored."""
    study_id = session.get_one(Site, site_id).study_id
    subscribed = _subscribed(session, event, site_id, study_id)
    noted = {"type": event, "site_id": site_id, "study_id": study_id, "subject_type": subject_type}
    for subject_id in subjects:
        row = new_row(Notification, {**noted, "subject_id": subject_id})
        writes.add(Notification, row)
        writes.add(Delivery, *_deliveries(row["id"], subscribed))


def _subscribed(session: Session, event: EventType, site_id: int | None, study_id: int) -> list[UUID]:
    enabled = select(Subscription.id, Subscription.event_types).where(
        Subscription.study_id == study_id,
        col(Subscription.disabled_at).is_(None),
        or_(col(Subscription.site_id).is_(None), col(Subscription.site_id) == site_id),
    )
    return [row.id for row in session.execute(enabled) if event in from_json(row.event_types)]


def tell_one(session: Session, subscription: Subscription) -> Delivery:
    """A test message for one subscription."""
    event, kind = EventType.subscription_test, SubjectType.subscription
    notified = _noted(session, event, None, subscription.study_id, kind, subscription.id, None)
    assert notified is not None
    (delivery_id,) = send(session, notified, [subscription.id])
    return session.get_one(Delivery, delivery_id)


def _noted(
    session: Session,
    event: EventType,
    site_id: int | None,
    study_id: int,
    subject_type: SubjectType,
    subject_id: UUID,
    due_at: datetime | None,
) -> UUID | None:
    """The new notification's id; None when this due time was told already."""
    session.flush()
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table_of(Notification)).values(
        id=uuid4(),
        type=event,
        site_id=site_id,
        study_id=study_id,
        subject_type=subject_type,
        subject_id=subject_id,
        due_at=due_at,
        occurred_at=now(),
    )
    notified: UUID | None = session.scalar(statement.on_conflict_do_nothing().returning(table_of(Notification).c.id))
    return notified


def send(session: Session, notified: UUID, subscriptions: Sequence[UUID]) -> list[UUID]:
    """Make the deliveries of a notification, due at once."""
    rows = _deliveries(notified, subscriptions)
    if rows:
        session.execute(insert(table_of(Delivery)), rows)
    return [row["id"] for row in rows]


def _deliveries(notified: UUID, subscriptions: Sequence[UUID]) -> list[dict[str, Any]]:
    at = now()
    due = {"notification_id": notified, "next_attempt_at": at, "created_at": at}
    return [new_row(Delivery, {"subscription_id": one, **due}) for one in subscriptions]


def every_site(session: Session) -> list[int]:
    """For `within`: the worker has no actor, and what it sends says nothing about a row."""
    return [site_id for site_id in session.exec(select(Site.id)) if site_id is not None]


def every_chain(session: Session) -> list[int]:
    """The same for whoever reads the trail: the registry's own chain belongs to no site."""
    return [REGISTRY_CHAIN, *every_site(session)]


def tell_overdue(session: Session, at: datetime) -> int:
    """Tell of each serious event whose due time has passed without a report, once for each due time. How many."""
    told = select(Notification.id).where(
        Notification.site_id == AdverseEvent.site_id,
        Notification.type == EventType.adverse_event_overdue,
        Notification.subject_id == AdverseEvent.id,
        Notification.due_at == AdverseEvent.due_at,
    )
    sent = select(SaeReport.number).where(
        SaeReport.site_id == AdverseEvent.site_id, SaeReport.adverse_event_id == AdverseEvent.id
    )
    late = (
        select(AdverseEvent.id, AdverseEvent.site_id, AdverseEvent.due_at, Site.study_id)
        .join(Site, col(Site.id) == AdverseEvent.site_id)
        .where(col(AdverseEvent.due_at) < at, ~told.exists(), ~sent.exists())
        .order_by(col(AdverseEvent.due_at))
        .limit(_MANY)
    )
    with within(session, every_site(session)):
        rows = session.execute(late).all()
        for row in rows:
            event, kind = EventType.adverse_event_overdue, SubjectType.adverse_event
            tell(session, event, row.site_id, row.study_id, kind, row.id, row.due_at)
    return len(rows)
