"""Reports, reviews and clocks of adverse events."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Response

from app.access import Actor, found, requires
from app.database import ReadSession, WriteSession
from app.models.account import ReasonGiven
from app.models.base import now
from app.models.monitoring import ClockList, ClockRead
from app.models.safety_report import (
    AeReviewCreate,
    AeReviewList,
    AeReviewRead,
    SaeReportCreate,
    SaeReportList,
    SaeReportRead,
)
from app.permissions import Permission
from app.services.safety import ae_reviews, sae_clocks, sae_reports
from app.services.safety.adverse_events import row_of
from app.web.once import Made, OncePerKey
from app.web.route import Router

router = Router(prefix="/v1/adverse-events/{event_id}", tags=["adverse events"])
Reader = Annotated[Actor, Depends(requires(Permission.adverse_event_read))]
Writer = Annotated[Actor, Depends(requires(Permission.adverse_event_write))]
Reviewer = Annotated[Actor, Depends(requires(Permission.adverse_event_review))]


def _reported(read: SaeReportRead, site_id: int) -> Made:
    return Made(read, f"/v1/adverse-events/{read.adverse_event}/reports/{read.number}", site_id=site_id)


def _reviewed(read: AeReviewRead, site_id: int) -> Made:
    return Made(read, f"/v1/adverse-events/{read.adverse_event}/reviews", site_id=site_id)


@router.post("/reports", status_code=201, response_model=SaeReportRead)
def report_serious_event(
    event_id: UUID, body: SaeReportCreate, actor: Writer, once: OncePerKey, session: WriteSession
) -> Response:
    """Report a serious event to the sponsor, as it is stored now, or take back that it ever was (`nullification`)."""
    return once.create(session, actor, body, lambda: _reported(*sae_reports.report(session, actor, event_id, body)))


@router.get("/reports")
def list_reports(event_id: UUID, actor: Reader, session: ReadSession) -> SaeReportList:
    """All reports of an event, oldest first."""
    event = row_of(session, actor, event_id)
    return SaeReportList(items=[sae_reports.read(row) for row in sae_reports.reports_of(session, event)])


@router.get("/reports/{number}")
def read_report(event_id: UUID, number: int, actor: Reader, session: ReadSession) -> SaeReportRead:
    """One report, as it was sent."""
    reports = sae_reports.reports_of(session, row_of(session, actor, event_id))
    return sae_reports.read(found(next((row for row in reports if row.number == number), None)))


@router.post("/reviews", status_code=201, response_model=AeReviewRead)
def review_event(
    event_id: UUID, body: AeReviewCreate, actor: Reviewer, once: OncePerKey, session: WriteSession
) -> Response:
    """Acknowledge an event, assess it, ask for information, or say that the authority was informed."""
    return once.create(session, actor, body, lambda: _reviewed(*ae_reviews.review(session, actor, event_id, body)))


@router.get("/reviews")
def list_reviews(event_id: UUID, actor: Reader, session: ReadSession) -> AeReviewList:
    """All reviews of an event, oldest first, also those that were withdrawn."""
    return AeReviewList(items=ae_reviews.read_all(session, row_of(session, actor, event_id)))


@router.post("/reviews/{number}/withdrawal", status_code=201, response_model=AeReviewRead)
def withdraw_review(
    event_id: UUID, number: int, body: ReasonGiven, actor: Reviewer, once: OncePerKey, session: WriteSession
) -> Response:
    """Withdraw a review that was recorded in error, with the reason."""
    return once.create(
        session, actor, body, lambda: _reviewed(*ae_reviews.withdraw(session, actor, event_id, number, body))
    )


@router.get("/clocks")
def list_clocks(event_id: UUID, actor: Reader, session: ReadSession) -> ClockList:
    """What is due for this event, by when, and when it was met. Nothing is due for one that was voided, nor to an
    authority for one that was nullified."""
    event = row_of(session, actor, event_id)
    at, running = now(), [event] if event.voided_at is None else []
    return ClockList(
        as_of=at,
        items=[
            ClockRead(**clock._asdict(), state=clock.state(at))
            for clock in sae_clocks.clocks_of(session, running).get(event.id, ())
        ],
    )
