"""Safety signals: visible at once to the site and its monitors, reviewed by the site."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from sqlalchemy import ColumnElement, and_, not_
from sqlmodel import col

from app.access import Actor, found, narrowed, requires, visible
from app.database import ReadSession, WriteSession
from app.models.base import now
from app.models.safety_signal import (
    SafetySignal,
    SafetySignalFilter,
    SafetySignalList,
    SafetySignalRead,
    SignalReview,
    SignalState,
)
from app.pagination import Page
from app.permissions import Permission
from app.services import codes_asked
from app.services.safety import safety_signals
from app.web.conditional import etag
from app.web.once import Made, OncePerKey
from app.web.route import Router

router = Router(prefix="/v1/safety-signals", tags=["safety signals"])
Reader = Annotated[Actor, Depends(requires(Permission.safety_signal_read))]
Reviewer = Annotated[Actor, Depends(requires(Permission.safety_signal_review))]


@router.get("")
def list_safety_signals(
    query: Annotated[SafetySignalFilter, Query()],
    actor: Reader,
    request: Request,
    response: Response,
    session: ReadSession,
) -> SafetySignalList:
    """Safety signals at your sites, newest first. Overdue: open after its time."""
    codes_asked.require_defined(session, actor, query, "rule")
    at = col(SafetySignal.site_id).in_(actor.sites_at(query.study, query.site))
    statement = narrowed(
        visible(safety_signals.rows(), actor).where(at, *_overdue(query.overdue)),
        (SafetySignal.pid, query.participant),
        (SafetySignal.state, query.state),
        (SafetySignal.rule, query.rule),
    )
    page = Page(request, response, actor, query)
    rows, after = page.read(session, statement, SafetySignal.raised_at, SafetySignal.id)
    return SafetySignalList(items=[safety_signals.read(row, actor) for row in rows], next=after)


def _overdue(asked: bool | None) -> list[ColumnElement[bool]]:
    late = and_(col(SafetySignal.state) == SignalState.open, col(SafetySignal.due_at) < now())
    return [] if asked is None else [late if asked else not_(late)]


@router.get("/{signal_id}")
def read_safety_signal(
    signal_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession
) -> SafetySignalRead:
    """One safety signal, and its review once there is one."""
    statement = visible(safety_signals.rows().where(col(SafetySignal.id) == signal_id), actor)
    read = safety_signals.read(found(session.execute(statement).first()), actor)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    return read


@router.post("/{signal_id}/review", status_code=201, response_model=SafetySignalRead)
def review_safety_signal(
    signal_id: UUID, body: SignalReview, actor: Reviewer, once: OncePerKey, session: WriteSession
) -> Response:
    """A clinician's decision and assessment, once. It ends the hold on dosing."""
    return once.create(session, actor, body, lambda: _made(*safety_signals.review(session, actor, signal_id, body)))


def _made(read: SafetySignalRead, site_id: int) -> Made:
    return Made(read, f"/v1/safety-signals/{read.id}", (read.id, read.version), site_id)
