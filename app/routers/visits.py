"""Visits."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from sqlmodel import Session

from app.access import Actor, requires
from app.database import ReadSession, WriteSession
from app.models.visit import Visit, VisitAmend, VisitCreate, VisitDetail, VisitFilter, VisitList
from app.models.voided import RecordVoiding
from app.pagination import Listed, Page
from app.permissions import Permission
from app.services import codes_asked
from app.services.assessments import visits
from app.services.assessments.visit_windows import beside_windows
from app.services.quality import voided_records
from app.site_lists import narrowing
from app.web.conditional import IfMatch, etag
from app.web.group_commit import Record, SharedWrite
from app.web.once import Made, OnceIfKeyed, OncePerKey, amended
from app.web.route import Router
from app.writing import Writes

router = Router(prefix="/v1/visits", tags=["visits"])
Reader = Annotated[Actor, Depends(requires(Permission.visit_read))]
Writer = Annotated[Actor, Depends(requires(Permission.visit_write))]


@router.post("", status_code=201, response_model=VisitDetail)
async def record_visit(
    body: VisitCreate, actor: Writer, once: OncePerKey, request: Request, shared: SharedWrite
) -> Response:
    """Record a visit with its outcomes, all or nothing. Answers only after everything is stored."""
    return await shared.create(request, actor, once, body, recorder)


def recorder(_: Request, session: Session, actor: Actor, bodies: Sequence[VisitCreate]) -> Record:
    """The function that records one body, with the stored data of all these bodies read before."""
    people = visits.people_of(session, actor, bodies)
    return lambda by, body: _made(*visits.record_visit(session, by, people, body))


def _made(read: VisitDetail, site_id: int, writes: Writes | None = None) -> Made:
    return Made(read, f"/v1/visits/{read.id}", (read.id, read.version), site_id, writes or Writes())


@router.get("", response_model=VisitList)
def list_visits(
    query: Annotated[VisitFilter, Query()], actor: Reader, request: Request, response: Response, session: ReadSession
) -> Listed | VisitList:
    """Visits at your sites, newest first."""
    codes_asked.require_defined(session, actor, query, "visit_code")
    page, keys = Page(request, response, actor, query), (Visit.created_at, Visit.id)
    by = narrowing(visits.FILTERS, query)
    if query.include is None:
        return page.as_json(session, visits.listed(), *keys, by=by)
    rows, after = page.of_sites(session, visits.rows(), *keys, by=by)
    return VisitList(items=beside_windows(session, actor, rows), next=after)


@router.get("/{visit_id}")
def read_visit(
    visit_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession
) -> VisitDetail:
    """One visit with its window and outcomes."""
    read = visits.detail(session, actor, visit_id)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    return read


@router.patch("/{visit_id}", response_model=VisitDetail)
def amend_visit(
    visit_id: UUID, body: VisitAmend, actor: Writer, seen: IfMatch, once: OnceIfKeyed, session: WriteSession
) -> Response:
    """Correct a visit, with the reason."""
    return amended(
        once, seen, session, actor, body, lambda: _made(*visits.amend_visit(session, actor, seen, visit_id, body))
    )


@router.post("/{visit_id}/voiding", status_code=201, response_model=VisitDetail)
def void_visit(
    visit_id: UUID, body: RecordVoiding, actor: Writer, seen: IfMatch, once: OncePerKey, session: WriteSession
) -> Response:
    """Let a visit that was entered in error count no more, with the reason, and its outcomes and therapy session with
    it. It can still be read, and is not changed again."""
    return once.create(
        session, actor, body, lambda: _made(*voided_records.void_visit(session, actor, seen, visit_id, body))
    )
