"""Reviews of adverse events by monitors, on behalf of the sponsor."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, exists
from sqlmodel import Session, select

from app import audit
from app.access import Actor, found, visible_row
from app.errors import Conflict, Fault, Invalid
from app.models.account import ReasonGiven
from app.models.adverse_event import SUSPECTED, AdverseEvent
from app.models.base import now, table_of, values
from app.models.safety_report import (
    STANDS,
    AeReview,
    AeReviewCreate,
    AeReviewRead,
    AeReviewWithdrawal,
    ReviewKind,
    SaeReport,
)
from app.protocol.clocks import local_day
from app.services.safety.nullifications import require_not_nullified
from app.services.safety.sae_clocks import first_aware
from app.services.studies import zone_of
from app.services.unlocked import require_not_voided


class InformedTooEarly(Invalid):
    """The authority cannot have been informed before the event began, nor before the site was aware of it."""


class DueInPast(Invalid):
    """The time by which the information is due has already passed."""


class ReviewWithdrawn(Conflict):
    """This review was withdrawn already."""


class EventMoved(Conflict):
    """The event has changed since the version that you reviewed; read it again."""


def review(session: Session, actor: Actor, event_id: UUID, body: AeReviewCreate) -> tuple[AeReviewRead, int]:
    """Review an event as it is; also gives the site's key. One that was voided is acknowledged, and no more; of one
    that was nullified an authority is told too. Raises NotFound, RecordVoided, EventNullified, EventMoved,
    InformedTooEarly, DueInPast."""
    event = visible_row(session, actor, AdverseEvent, event_id, lock=True)
    if body.kind is not ReviewKind.acknowledged:
        require_not_voided(event)
    if body.kind in {ReviewKind.assessment, ReviewKind.information_request}:
        require_not_nullified(session, event)
    if event.version != body.version:
        raise EventMoved
    at = now()
    if body.informed_at is not None:
        _require_known(session, event, body.informed_at)
    if body.due_at and body.due_at < at:
        raise DueInPast(Fault("/due_at", "in_past", "Lies in the past"))
    row = AeReview(
        site_id=event.site_id,
        adverse_event_id=event.id,
        number=len(reviews_of(session, event)) + 1,
        event_version=event.version,
        susar=_susar(event, body),
        reviewed_by=actor.account_id,
        reviewed_at=at,
        **body.model_dump(exclude={"version"}),
    )
    session.add(row)
    session.flush()
    made = audit.created("adverse-event:reviewed", row, f"{event.id}/{row.number}")
    audit.append(session, actor.account_id, row.site_id, [made])
    return read(row), row.site_id


def withdraw(
    session: Session, actor: Actor, event_id: UUID, number: int, body: ReasonGiven
) -> tuple[AeReviewRead, int]:
    """Take back a review that was recorded in error; also gives the site's key. Not the notice to an authority once the
    event is voided, as it may have allowed that. Raises NotFound, ReviewWithdrawn, RecordVoided."""
    event = visible_row(session, actor, AdverseEvent, event_id, lock=True)
    row, withdrawn = found(next((one for one in reviews_of(session, event) if one[0].number == number), None))
    if withdrawn is not None:
        raise ReviewWithdrawn
    if row.kind == ReviewKind.authority_informed:
        require_not_voided(event)
    withdrawal = AeReviewWithdrawal(
        site_id=row.site_id,
        adverse_event_id=row.adverse_event_id,
        number=row.number,
        reason=body.reason,
        withdrawn_by=actor.account_id,
        withdrawn_at=now(),
    )
    session.add(withdrawal)
    session.flush()
    entry = audit.created("adverse-event:review-withdrawn", withdrawal, f"{event.id}/{number}", reason=body.reason)
    audit.append(session, actor.account_id, row.site_id, [entry])
    return read(row, withdrawal), row.site_id


def _require_known(session: Session, event: AdverseEvent, informed_at: datetime) -> None:
    """A sponsor may have been told by telephone before the written report (ICH E6(R2), 4.11.1), but not before the
    site knew."""
    began, aware_at = event.onset_earliest, first_aware(session, event)
    if began and local_day(informed_at, zone_of(session, event.site_id)) < began:
        raise InformedTooEarly(Fault("/informed_at", "before_onset", "Lies before the onset of the event"))
    if aware_at and informed_at < aware_at:
        raise InformedTooEarly(
            Fault("/informed_at", "before_awareness", "Lies before the site's awareness of the event")
        )


def _susar(event: AdverseEvent, body: AeReviewCreate) -> bool | None:
    """Suspected by the site or by the sponsor, unexpected and serious (ICH E2A, sections II.A to II.C and III.A.1).
    None: nobody assessed."""
    if body.kind is not ReviewKind.assessment:
        return None
    suspected = not SUSPECTED.isdisjoint({event.relatedness_drug, body.relatedness_drug})
    return event.serious and body.expected is False and suspected


def reviews_of(session: Session, event: Any) -> list[tuple[AeReview, AeReviewWithdrawal | None]]:
    """Oldest first, each with how it was withdrawn. The caller has checked that the event exists for the actor."""
    review, withdrawal = table_of(AeReview).c, table_of(AeReviewWithdrawal).c
    same = (withdrawal[name] == review[name] for name in ("site_id", "adverse_event_id", "number"))
    theirs = select(AeReview, AeReviewWithdrawal).outerjoin(AeReviewWithdrawal, and_(*same))
    theirs = theirs.where(review.site_id == event.site_id, review.adverse_event_id == event.id)
    return [(row, withdrawn) for row, withdrawn in session.exec(theirs.order_by(review.number))]


def read_all(session: Session, event: Any) -> list[AeReviewRead]:
    """All of an event, oldest first. The caller has checked that it exists for the actor."""
    unanswered = {row.number for row in open_requests(session, event)} if event.voided_at else set()
    return [
        read(row, withdrawn, event if row.number in unanswered else None)
        for row, withdrawn in reviews_of(session, event)
    ]


def open_requests(session: Session, event: Any) -> list[AeReview]:
    """The requests for information that no report has answered. Voiding the event closes them: who asked is not left
    with a question about what never was."""
    request, report = table_of(AeReview).c, table_of(SaeReport).c
    answered = exists().where(
        report.site_id == request.site_id,
        report.adverse_event_id == request.adverse_event_id,
        report.submitted_at >= request.reviewed_at,
    )
    theirs = select(AeReview).where(
        request.site_id == event.site_id,
        request.adverse_event_id == event.id,
        request.kind == ReviewKind.information_request,
        STANDS,
        ~answered,
    )
    return list(session.exec(theirs.order_by(request.number)))


def closed(row: AeReview, event: AdverseEvent) -> audit.Event:
    """What is remembered of a request whose event was voided."""
    action, closing = "adverse-event:request-closed", {"closed_at": audit.plain(event.voided_at)}
    return audit.event(action, "ae_review", f"{event.id}/{row.number}", 1, {}, closing, event.voiding_reason)


def read(row: AeReview, withdrawal: AeReviewWithdrawal | None = None, voided: Any = None) -> AeReviewRead:
    """`voided` is the event whose voiding closed the request."""
    return AeReviewRead.of_row(
        values(row),
        adverse_event=row.adverse_event_id,
        withdrawn_by=withdrawal and withdrawal.withdrawn_by,
        withdrawn_at=withdrawal and withdrawal.withdrawn_at,
        withdrawal_reason=withdrawal and withdrawal.reason,
        closed_at=voided and voided.voided_at,
        closing_reason=voided and voided.voiding_reason,
    )
