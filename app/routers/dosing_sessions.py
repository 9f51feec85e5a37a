"""Dosing sessions. Doses, vital signs and corrections all answer with the whole session and its ETag."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from sqlmodel import col

from app.access import Actor, narrowed, requires, visible
from app.database import ReadSession, WriteSession
from app.models.dosing_session import DosingSession
from app.models.dosing_shapes import (
    DoseAmend,
    DoseCreate,
    DosingSessionAmend,
    DosingSessionClose,
    DosingSessionCreate,
    DosingSessionDetail,
    DosingSessionFilter,
    DosingSessionList,
    VitalsAmend,
    VitalsCreate,
)
from app.models.visit import Visit
from app.models.voided import RecordVoiding, counts
from app.pagination import Page
from app.permissions import Permission
from app.services import codes_asked
from app.services.dosing import doses, dosing_reads, dosing_sessions, vital_readings
from app.services.quality import voided_records
from app.web.conditional import IfMatch, etag
from app.web.once import Made, OnceIfKeyed, OncePerKey, amended
from app.web.route import Router

router = Router(prefix="/v1/dosing-sessions", tags=["dosing sessions"])
Reader = Annotated[Actor, Depends(requires(Permission.dosing_session_read))]
Writer = Annotated[Actor, Depends(requires(Permission.dosing_session_write))]


def _made(read: DosingSessionDetail, site_id: int) -> Made:
    return Made(read, f"/v1/dosing-sessions/{read.id}", (read.id, read.version), site_id)


@router.post("", status_code=201, response_model=DosingSessionDetail)
def start_dosing_session(body: DosingSessionCreate, actor: Writer, once: OncePerKey, session: WriteSession) -> Response:
    """Start the session of a dosing visit. 409 names every rule of the protocol that does not hold."""
    return once.create(session, actor, body, lambda: _made(*dosing_sessions.start(session, actor, body)))


@router.get("")
def list_dosing_sessions(
    query: Annotated[DosingSessionFilter, Query()],
    actor: Reader,
    request: Request,
    response: Response,
    session: ReadSession,
) -> DosingSessionList:
    """Dosing sessions at your sites, newest first."""
    codes_asked.require_defined(session, actor, query, "visit_code")
    at = col(DosingSession.site_id).in_(actor.sites_at(query.study, query.site))
    asked = ~counts(DosingSession) if query.voided else counts(DosingSession)
    statement = narrowed(
        visible(dosing_reads.rows(), actor).where(at, asked),
        (DosingSession.pid, query.participant),
        (DosingSession.state, query.state),
        (Visit.visit_code, query.visit_code),
    )
    page = Page(request, response, actor, query)
    rows, after = page.read(session, statement, DosingSession.created_at, DosingSession.id)
    return DosingSessionList(items=[dosing_reads.read(row, actor) for row in rows], next=after)


@router.get("/{session_id}")
def read_dosing_session(
    session_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession
) -> DosingSessionDetail:
    """One session with its doses and vital signs, those still to be measured, and what is missing for closing it."""
    read = dosing_reads.detail(session, actor, session_id)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    return read


@router.patch("/{session_id}", response_model=DosingSessionDetail)
def amend_dosing_session(
    session_id: UUID, body: DosingSessionAmend, actor: Writer, seen: IfMatch, once: OnceIfKeyed, session: WriteSession
) -> Response:
    """Correct a session, open or closed, with the reason."""
    return amended(
        once, seen, session, actor, body, lambda: _made(*dosing_sessions.amend(session, actor, seen, session_id, body))
    )


@router.post("/{session_id}/doses", status_code=201, response_model=DosingSessionDetail)
def record_dose(session_id: UUID, body: DoseCreate, actor: Writer, once: OncePerKey, session: WriteSession) -> Response:
    """Record a dose, given or not. A deviation needs its reason; refused while an open safety signal holds dosing."""
    return once.create(session, actor, body, lambda: _made(*doses.record_dose(session, actor, session_id, body)))


@router.patch("/{session_id}/doses/{dose_id}", response_model=DosingSessionDetail)
def amend_dose(
    session_id: UUID,
    dose_id: UUID,
    body: DoseAmend,
    actor: Writer,
    seen: IfMatch,
    once: OnceIfKeyed,
    session: WriteSession,
) -> Response:
    """Correct a dose, with the reason, against the ETag of the session."""

    def make() -> Made:
        return _made(*doses.amend_dose(session, actor, seen, session_id, dose_id, body))

    return amended(once, seen, session, actor, body, make)


@router.post("/{session_id}/vitals", status_code=201, response_model=DosingSessionDetail)
def record_vitals(
    session_id: UUID, body: VitalsCreate, actor: Writer, once: OncePerKey, session: WriteSession
) -> Response:
    """Record vital signs. Values beyond a warning limit are flagged, those beyond a hard limit refused."""
    return once.create(
        session, actor, body, lambda: _made(*vital_readings.record_vitals(session, actor, session_id, body))
    )


@router.patch("/{session_id}/vitals/{reading_id}", response_model=DosingSessionDetail)
def amend_vitals(
    session_id: UUID,
    reading_id: UUID,
    body: VitalsAmend,
    actor: Writer,
    seen: IfMatch,
    once: OnceIfKeyed,
    session: WriteSession,
) -> Response:
    """Correct vital signs, with the reason, against the ETag of the session."""

    def make() -> Made:
        return _made(*vital_readings.amend_vitals(session, actor, seen, session_id, reading_id, body))

    return amended(once, seen, session, actor, body, make)


@router.post("/{session_id}/vitals/{reading_id}/voiding", status_code=201, response_model=DosingSessionDetail)
def void_vitals(
    session_id: UUID,
    reading_id: UUID,
    body: RecordVoiding,
    actor: Writer,
    seen: IfMatch,
    once: OncePerKey,
    session: WriteSession,
) -> Response:
    """Let vital signs that were entered in error count no more, with the reason, against the ETag of the session."""

    def make() -> Made:
        return _made(*voided_records.void_reading(session, actor, seen, session_id, reading_id, body))

    return once.create(session, actor, body, make)


@router.post("/{session_id}/close", status_code=201, response_model=DosingSessionDetail)
def close_dosing_session(
    session_id: UUID, body: DosingSessionClose, actor: Writer, once: OncePerKey, session: WriteSession
) -> Response:
    """Close a session. 409 names every item that the discharge checklist lacks."""
    return once.create(session, actor, body, lambda: _made(*dosing_sessions.close(session, actor, session_id, body)))


@router.post("/{session_id}/voiding", status_code=201, response_model=DosingSessionDetail)
def void_dosing_session(
    session_id: UUID, body: RecordVoiding, actor: Writer, seen: IfMatch, once: OncePerKey, session: WriteSession
) -> Response:
    """Let a session that was entered in error count no more, with its doses and vital signs and the reason. It can
    still be read, and is not changed again."""

    def make() -> Made:
        return _made(*voided_records.void_dosing_session(session, actor, seen, session_id, body))

    return once.create(session, actor, body, make)
