"""The outbox: notifications and their deliveries are stored in the transaction of the event, so that subscribers hear
of it exactly if it was committed. `registry deliver` sends them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from sqlmodel import Session, col, or_, select

from app.database import within
from app.models.among import among
from app.models.base import from_json, new_row, now, table_of
from app.models.notification import Delivery, EventType, Notification, SubjectType, Subscription
from app.models.study import Site
from app.services.safety.sae_clocks import OverdueClock, overdue
from app.services.studies import every_site
from app.writing import Writes, store, upsert

_NOTIFICATIONS = table_of(Notification)
_MANY = 500


def notify(
    session: Session,
    event: EventType,
    site_id: int | None,
    study_id: int,
    subject_type: SubjectType,
    subject_id: UUID,
    due_at: datetime | None = None,
) -> None:
    """Notify all subscribers. Call it in the transaction of the event, before the audit entry.

    With `due_at` there is one notification for that due time, from whichever worker comes first.
    """
    session.flush()
    noted = {"type": event, "site_id": site_id, "study_id": study_id, "subject_type": subject_type}
    row = new_row(Notification, {**noted, "subject_id": subject_id, "due_at": due_at})
    statement = upsert(session, _NOTIFICATIONS).values(row).on_conflict_do_nothing()
    if session.scalar(statement.returning(_NOTIFICATIONS.c.id)) is None:
        return
    if deliveries := _deliveries(row["id"], _subscribed(session, event, site_id, study_id)):
        session.execute(insert(table_of(Delivery)), deliveries)


def notify_of(session: Session, event: EventType, site_id: int, subject_type: SubjectType, subject_id: UUID) -> None:
    """`notify` of an event at one site."""
    writes = Writes()
    add_notifications(session, writes, event, site_id, subject_type, [subject_id])
    store(session, writes)


def add_notifications(
    session: Session,
    writes: Writes,
    event: EventType,
    site_id: int,
    subject_type: SubjectType,
    subjects: Sequence[UUID],
) -> None:
    """Add a notification of each subject, with its deliveries, to the rows that are going to be stored."""
    study_id = session.get_one(Site, site_id).study_id
    subscribed = _subscribed(session, event, site_id, study_id)
    noted = {"type": event, "site_id": site_id, "study_id": study_id, "subject_type": subject_type}
    for subject_id in subjects:
        row = new_row(Notification, {**noted, "subject_id": subject_id})
        writes.add(Notification, row)
        writes.add(Delivery, *_deliveries(row["id"], subscribed))


def _subscribed(session: Session, event: EventType, site_id: int | None, study_id: int) -> list[UUID]:
    """The subscriptions to an event. Disabled ones too: their deliveries wait."""
    subscribed = select(Subscription.id, Subscription.event_types).where(
        Subscription.study_id == study_id,
        or_(col(Subscription.site_id).is_(None), col(Subscription.site_id) == site_id),
    )
    return [row.id for row in session.execute(subscribed) if event in from_json(row.event_types)]


def send_test(session: Session, subscription: Subscription) -> Delivery:
    """A test message for one subscription."""
    notification = Notification(
        type=EventType.subscription_test,
        study_id=subscription.study_id,
        subject_type=SubjectType.subscription,
        subject_id=subscription.id,
    )
    session.add(notification)
    session.flush()
    delivery = Delivery(**_deliveries(notification.id, [subscription.id])[0])
    session.add(delivery)
    session.flush()
    return delivery


def _deliveries(notified: UUID, subscriptions: Sequence[UUID]) -> list[dict[str, Any]]:
    at = now()
    due = {"notification_id": notified, "next_attempt_at": at, "created_at": at}
    return [new_row(Delivery, {"subscription_id": one, **due}) for one in subscriptions]


def not_notified(session: Session, at: datetime) -> list[OverdueClock]:
    """Reporting deadlines that have passed without a notification so far, the oldest first; at most _MANY."""
    sites = every_site(session)
    with within(session, sites):
        late = overdue(session, sites, at)
        note = _NOTIFICATIONS.c
        notified = select(note.subject_id, note.due_at).where(
            note.type == EventType.adverse_event_overdue,
            among(note.subject_id, "events", [one.event_id for one in late]),
        )
        known = {(row.subject_id, row.due_at) for row in session.execute(notified)}
    return sorted((one for one in late if one[1:] not in known), key=lambda one: one.due_at)[:_MANY]


def notify_overdue(session: Session, late: Sequence[OverdueClock]) -> None:
    """Notify of each passed deadline once, even if several workers do it."""
    sites = sorted({one.site_id for one in late})
    with within(session, sites):
        where = select(Site.id, Site.study_id).where(col(Site.id).in_(sites))
        studies = {row.id: row.study_id for row in session.execute(where)}
        for site_id, event_id, due_at in late:
            event, kind = EventType.adverse_event_overdue, SubjectType.adverse_event
            notify(session, event, site_id, studies[site_id], kind, event_id, due_at)
