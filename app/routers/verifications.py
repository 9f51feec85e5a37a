"""Source data verification, and how far it has come."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from sqlmodel import Session, col

from app.access import Actor, narrowed, requires, visible
from app.database import ReadSession, WriteSession
from app.models.account import ReasonGiven
from app.models.verification import (
    CoverageFilter,
    CoverageRead,
    PendingFilter,
    PendingList,
    Verification,
    VerificationCreate,
    VerificationFilter,
    VerificationList,
    VerificationRead,
)
from app.pagination import Page
from app.permissions import Permission
from app.services.quality import verification_pending, verifications
from app.services.quality.verification_coverage import coverage
from app.web.group_commit import Record
from app.web.once import Made, OncePerKey
from app.web.route import Router
from app.writing import Writes

router = Router(prefix="/v1", tags=["verifications"])
Reader = Annotated[Actor, Depends(requires(Permission.verification_read))]
Verifier = Annotated[Actor, Depends(requires(Permission.verification_write))]


@router.post("/verifications", status_code=201, response_model=VerificationRead)
def record_verification(
    body: VerificationCreate, actor: Verifier, once: OncePerKey, request: Request, session: WriteSession
) -> Response:
    """Record that you compared a record, at the version you saw, with its source, and whether the two agree."""
    return once.create(session, actor, body, lambda: recorder(request, session, actor, [body])(actor, body))


def recorder(_: Request, session: Session, actor: Actor, bodies: Sequence[VerificationCreate]) -> Record:
    """The function that records one body, with the stored data of all these bodies read before."""
    about = verifications.subjects(session, actor, bodies)
    return lambda by, body: _made(*verifications.record(by, about, body))


def _made(read: VerificationRead, site_id: int, writes: Writes | None = None) -> Made:
    return Made(read, f"/v1/verifications/{read.id}", site_id=site_id, writes=writes or Writes())


@router.get("/verifications")
def list_verifications(
    query: Annotated[VerificationFilter, Query()],
    actor: Reader,
    request: Request,
    response: Response,
    session: ReadSession,
) -> VerificationList:
    """Verifications at your sites with their state, newest first."""
    statement = narrowed(
        visible(verifications.rows(), actor).where(
            col(Verification.site_id).in_(actor.sites_at(query.study, query.site))
        ),
        (Verification.pid, query.participant),
        (Verification.subject_type, query.subject_type),
        (verifications.STATE, query.state),
    )
    page = Page(request, response, actor, query)
    rows, after = page.read(session, statement, Verification.verified_at, Verification.id)
    return VerificationList(items=[verifications.read(row, actor) for row in rows], next=after)


@router.get("/verifications/{verification_id}")
def read_verification(verification_id: UUID, actor: Reader, session: ReadSession) -> VerificationRead:
    """One verification and its state."""
    return verifications.read_one(session, actor, verification_id)


@router.post("/verifications/{verification_id}/withdrawal", status_code=201, response_model=VerificationRead)
def withdraw_verification(
    verification_id: UUID, body: ReasonGiven, actor: Verifier, once: OncePerKey, session: WriteSession
) -> Response:
    """Withdraw a verification, with the reason."""
    return once.create(
        session, actor, body, lambda: _made(*verifications.withdraw(session, actor, verification_id, body))
    )


@router.get("/monitoring/verification/pending")
def list_pending_verifications(
    query: Annotated[PendingFilter, Query()],
    actor: Reader,
    request: Request,
    response: Response,
    session: ReadSession,
) -> PendingList:
    """Records that the protocol's plan covers and that nobody has verified as they are now, participant by participant.

    Where there is a `next`, go on, however few records the page holds.
    """
    plans = verification_pending.plans_of(session, actor, query)
    statement = verification_pending.rows(actor, query, plans)
    listed = statement.selected_columns
    page = Page(request, response, actor, query)
    rows, after = page.read(session, statement, listed.pid, listed.subject_type, listed.subject, ascending=True)
    return PendingList(items=list(verification_pending.read(session, actor, plans, rows)), next=after)


@router.get("/monitoring/verification")
def read_coverage(query: Annotated[CoverageFilter, Query()], actor: Reader, session: ReadSession) -> CoverageRead:
    """By site: how many participants the protocol's plan samples, and how many of their records are verified."""
    return coverage(session, actor, query.study)
