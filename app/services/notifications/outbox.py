"""The outbox: notifications and their deliveries are stored in the transaction of the event, so that subscribers hear
of it exactly if it was committed. `registry deliver` sends them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import insert
from sqlmodel import Session, col, or_, select

from app.database import within
from app.models.among import among
from app.models.audit import REGISTRY_CHAIN
from app.models.base import from_json, new_row, now, table_of
from app.models.notification import Delivery, EventType, Notification, SubjectType, Subscription
from app.models.study import Site
from app.services.safety.sae_clocks import OverdueClock, overdue
from app.writing import Writes, store, upsert

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
    """Notify all subscribers. Call it in the transaction of the event, before the audit entry.

    With `due_at` there is one notification for that due time, from whichever worker comes first.
    """
    notified = _noted(session, event, site_id, study_id, subject_type, subject_id, due_at)
    if notified is None:
        return
    send(session, notified, _subscribed(session, event, site_id, study_id))


def tell_at(session: Session, event: EventType, site_id: int, subject_type: SubjectType, subject_id: UUID) -> None:
    """`tell` for an event at one site."""
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
    """Store a notification and give its id; None if there is one for this due time already."""
    session.flush()
    statement = upsert(session, table_of(Notification)).values(
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
    """All sites, for `within`: the worker has no actor, and its messages contain no data of a row."""
    return [site_id for site_id in session.exec(select(Site.id)) if site_id is not None]


def every_chain(session: Session) -> list[int]:
    """All sites and the registry's own chain, which belongs to none: for reading the whole audit trail."""
    return [REGISTRY_CHAIN, *every_site(session)]


def not_notified(session: Session, at: datetime) -> list[OverdueClock]:
    """Reporting deadlines that have passed without a notification so far, the oldest first; at most _MANY."""
    sites = every_site(session)
    with within(session, sites):
        late = overdue(session, sites, at)
        note = table_of(Notification).c
        notified = select(note.subject_id, note.due_at).where(
            note.type == EventType.adverse_event_overdue,
            among(note.subject_id, "events", [one.event_id for one in late]),
        )
        known = {(row.subject_id, row.due_at) for row in session.execute(notified)}
    return sorted((one for one in late if one[1:] not in known), key=lambda one: one.due_at)[:_MANY]


def tell_overdue(session: Session, late: Sequence[OverdueClock]) -> None:
    """Notify of each passed deadline once, even if several workers do it."""
    sites = sorted({one.site_id for one in late})
    with within(session, sites):
        where = select(Site.id, Site.study_id).where(col(Site.id).in_(sites))
        studies = {row.id: row.study_id for row in session.execute(where)}
        for site_id, event_id, due_at in late:
            event, kind = EventType.adverse_event_overdue, SubjectType.adverse_event
            tell(session, event, site_id, studies[site_id], kind, event_id, due_at)
