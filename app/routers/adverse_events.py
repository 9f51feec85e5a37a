"""Adverse events: reported by sites, queried by monitors."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import ColumnElement, func, or_
from sqlmodel import col

from app.access import Actor, Permission, found, requires, visible
from app.database import ReadSession, WriteSession
from app.models.adverse_event import AdverseEvent
from app.models.adverse_event_shapes import (
    AdverseEventAmend,
    AdverseEventCreate,
    AdverseEventFilter,
    AdverseEventList,
    AdverseEventRead,
)
from app.models.audit import HistoryList
from app.models.base import now
from app.pagination import Page
from app.services import adverse_events
from app.services.history import history_of
from app.web.conditional import IfMatch, etag
from app.web.once import Made, OncePerKey
from app.web.route import StrictRoute

router = APIRouter(prefix="/v1/adverse-events", tags=["adverse events"], route_class=StrictRoute)
Reader = Annotated[Actor, Depends(requires(Permission.adverse_event_read))]
Writer = Annotated[Actor, Depends(requires(Permission.adverse_event_write))]


@router.post("", status_code=201, response_model=AdverseEventRead)
def report_adverse_event(
    body: AdverseEventCreate, actor: Writer, once: OncePerKey, request: Request, session: WriteSession
) -> Response:
    """Report an event. Seriousness follows from the criteria; contradictions that cannot be true are refused."""
    return once.create(
        session, actor, body, lambda: _made(request, *adverse_events.report_adverse_event(session, actor, body))
    )


def _made(request: Request, read: AdverseEventRead, site_id: int) -> Made:
    return Made(read, f"/v1/adverse-events/{read.id}", etag(request.app.state.keyring, read.id, read.version), site_id)


@router.get("")
def list_adverse_events(
    query: Annotated[AdverseEventFilter, Query()],
    actor: Reader,
    request: Request,
    response: Response,
    session: ReadSession,
) -> AdverseEventList:
    """Adverse events at your sites, newest first; every filter narrows, all together."""
    at = col(AdverseEvent.site_id).in_(actor.sites_at(query.study, query.site))
    statement = visible(adverse_events.rows(), actor).where(at, *_asked(query))
    page = Page(request, response, actor, query)
    rows, after = page.read(session, statement, AdverseEvent.created_at, AdverseEvent.id)
    return AdverseEventList(items=[adverse_events.read(row, actor) for row in rows], next=after)


def _asked(query: AdverseEventFilter) -> list[ColumnElement[bool]]:
    ae = AdverseEvent
    plain: list[tuple[Any, Any]] = [
        (ae.pid, query.participant),
        (ae.serious, query.serious),
        (ae.severity, query.severity),
        (ae.outcome, query.outcome),
        (ae.special_interest, query.aesi),
        (ae.soc, query.soc),
    ]
    conditions = [col(column) == value for column, value in plain if value is not None]
    if query.relatedness is not None:
        conditions.append(
            or_(col(ae.relatedness_drug) == query.relatedness, col(ae.relatedness_therapy) == query.relatedness)
        )
    if query.term is not None:
        term = query.term.lower()
        conditions.append(or_(func.lower(ae.term) == term, func.lower(ae.pt) == term))
    if query.onset_from is not None:
        conditions.append(col(ae.onset_latest) >= query.onset_from)
    if query.onset_to is not None:
        conditions.append(col(ae.onset_earliest) <= query.onset_to)
    if query.updated_since is not None:
        conditions.append(col(ae.updated_at) >= query.updated_since)
    if query.overdue is not None:
        late = col(ae.due_at) < now()
        conditions.append(late if query.overdue else or_(col(ae.due_at).is_(None), ~late))
    return conditions


@router.get("/{event_id}")
def read_adverse_event(
    event_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession
) -> AdverseEventRead:
    statement = visible(adverse_events.rows().where(col(AdverseEvent.id) == event_id), actor)
    read = adverse_events.read(found(session.execute(statement).first()), actor)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    return read


@router.get("/{event_id}/history")
def read_history(event_id: UUID, actor: Reader, session: ReadSession) -> HistoryList:
    """Each field's old, new, who, when and why, oldest first."""
    statement = visible(adverse_events.rows().where(col(AdverseEvent.id) == event_id), actor)
    event = found(session.execute(statement).first())
    return HistoryList(items=history_of(session, event.site_id, "adverse_event", event.id))


@router.patch("/{event_id}")
def amend_adverse_event(
    event_id: UUID,
    body: AdverseEventAmend,
    seen: IfMatch,
    actor: Writer,
    request: Request,
    response: Response,
    session: WriteSession,
) -> AdverseEventRead:
    """Correct an event, with the reason."""
    read = adverse_events.amend_adverse_event(session, actor, request.app.state.keyring, seen, event_id, body)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    return read
