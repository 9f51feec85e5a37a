"""Adverse events: reported by sites, queried by monitors."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from sqlmodel import Session

from app.access import Actor, requires
from app.database import ReadSession, WriteSession
from app.models.adverse_event import AdverseEvent
from app.models.adverse_event_shapes import (
    AdverseEventAmend,
    AdverseEventCreate,
    AdverseEventDetail,
    AdverseEventFilter,
    AdverseEventFormat,
    AdverseEventList,
    AdverseEventRead,
)
from app.models.audit import HistoryList
from app.models.voided import RecordVoiding
from app.pagination import Page
from app.permissions import Permission
from app.services.dosing.exposure import exposures
from app.services.participation.participant_facts import participant_facts
from app.services.quality import voided_records
from app.services.safety import adverse_events, ae_lists
from app.services.trail.history import history_of
from app.web.conditional import IfMatch, etag
from app.web.group_commit import Record, SharedWrite
from app.web.once import Made, OnceIfKeyed, OncePerKey, amended
from app.web.route import Router
from app.writing import Writes

router = Router(prefix="/v1/adverse-events", tags=["adverse events"])
Reader = Annotated[Actor, Depends(requires(Permission.adverse_event_read))]
Writer = Annotated[Actor, Depends(requires(Permission.adverse_event_write))]


@router.post("", status_code=201, response_model=AdverseEventRead)
async def report_adverse_event(
    body: AdverseEventCreate, actor: Writer, once: OncePerKey, request: Request, shared: SharedWrite
) -> Response:
    """Report an event. It is serious where a criterion is met; what contradicts itself is refused."""
    return await shared.create(request, actor, once, body, recorder)


def recorder(_: Request, session: Session, actor: Actor, bodies: Sequence[AdverseEventCreate]) -> Record:
    """The function that records one body, with the stored data of all these bodies read before."""
    people = participant_facts(session, actor, {body.participant for body in bodies})
    return lambda by, body: _made(*adverse_events.report_adverse_event(session, by, people, body))


def _made(read: AdverseEventRead, site_id: int, writes: Writes | None = None) -> Made:
    return Made(read, f"/v1/adverse-events/{read.id}", (read.id, read.version), site_id, writes or Writes())


@router.get(
    "",
    response_model=AdverseEventList,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def list_adverse_events(
    query: Annotated[AdverseEventFilter, Query()],
    actor: Reader,
    request: Request,
    response: Response,
    session: ReadSession,
) -> Any:
    """Adverse events at your sites that meet all filters. With `format=csv` all of them at once."""
    wanted = ae_lists.asked(session, actor, query)
    if query.format is AdverseEventFormat.csv:
        seen = exposures(session, wanted.sites)
        lines = ae_lists.csv_lines(request.app.state.database, actor, wanted, seen)
        headers = {"Content-Disposition": 'attachment; filename="adverse-events.csv"'}
        return StreamingResponse(lines, media_type="text/csv; charset=utf-8", headers=headers)
    page, keys = Page(request, response, actor, query), (wanted.key, AdverseEvent.id)
    if query.include is None:
        return page.as_json(session, adverse_events.listed(wanted.key), *keys, by=wanted.by, ascending=wanted.ascending)
    rows, after = page.of_sites(
        session, adverse_events.ordered(wanted.key), *keys, by=wanted.by, ascending=wanted.ascending
    )
    return AdverseEventList(items=ae_lists.beside_doses(session, actor, rows), next=after)


@router.get("/{event_id}")
def read_adverse_event(
    event_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession
) -> AdverseEventDetail:
    """One event, with its timing relative to the doses."""
    read = adverse_events.detail(session, actor, event_id)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    return read


@router.get("/{event_id}/history")
def read_history(event_id: UUID, actor: Reader, session: ReadSession) -> HistoryList:
    """Every change of a field, oldest first: old and new value, who, when and why."""
    event = adverse_events.row_of(session, actor, event_id)
    return HistoryList(items=history_of(session, event.site_id, "adverse_event", event.id))


@router.patch("/{event_id}", response_model=AdverseEventRead)
def amend_adverse_event(
    event_id: UUID, body: AdverseEventAmend, actor: Writer, seen: IfMatch, once: OnceIfKeyed, session: WriteSession
) -> Response:
    """Correct an event, with the reason."""

    def make() -> Made:
        return _made(*adverse_events.amend_adverse_event(session, actor, seen, event_id, body))

    return amended(once, seen, session, actor, body, make)


@router.post("/{event_id}/voiding", status_code=201, response_model=AdverseEventRead)
def void_adverse_event(
    event_id: UUID, body: RecordVoiding, actor: Writer, seen: IfMatch, once: OncePerKey, session: WriteSession
) -> Response:
    """Let an event that was entered in error count no more, with the reason. It can still be read, and is not changed
    again."""
    return once.create(
        session, actor, body, lambda: _made(*voided_records.void_adverse_event(session, actor, seen, event_id, body))
    )
