"""Blocks of pids for apps that enrol without a network."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from sqlmodel import col

from app.access import Actor, narrowed, requires, visible
from app.database import ReadSession, WriteSession
from app.models.pid_reservation import (
    ClosureCreate,
    PidReservation,
    ReservationCreate,
    ReservationFilter,
    ReservationList,
    ReservationRead,
)
from app.pagination import Page
from app.permissions import Permission
from app.services.participation import pid_reservations
from app.web.once import Made, OncePerKey
from app.web.route import Router

router = Router(prefix="/v1/pid-reservations", tags=["participants"])
Writer = Annotated[Actor, Depends(requires(Permission.participant_write))]


@router.post("", status_code=201, response_model=ReservationRead)
def reserve_pids(
    body: ReservationCreate, actor: Writer, once: OncePerKey, request: Request, session: WriteSession
) -> Response:
    """Reserve a block of pids for a site. No other site gets them, and one participant can be enrolled under each."""
    most = request.app.state.settings.reserved_pids_per_site
    return once.create(session, actor, body, lambda: _made(*pid_reservations.reserve(session, actor, body, most)))


def _made(read: ReservationRead, site_id: int) -> Made:
    return Made(read, f"/v1/pid-reservations/{read.id}", site_id=site_id)


@router.get("")
def list_pid_reservations(
    query: Annotated[ReservationFilter, Query()],
    actor: Writer,
    request: Request,
    response: Response,
    session: ReadSession,
) -> ReservationList:
    """Blocks of your sites, newest first, each with its pids that are not used yet."""
    statement = narrowed(
        visible(pid_reservations.rows(), actor).where(
            col(PidReservation.site_id).in_(actor.sites_at(query.study, query.site))
        ),
        (PidReservation.device, query.device),
        (col(PidReservation.closed_at).is_(None), query.open),
    )
    page = Page(request, response, actor, query)
    rows, after = page.read(session, statement, PidReservation.created_at, PidReservation.id)
    return ReservationList(items=pid_reservations.read_all(session, actor, rows), next=after)


@router.get("/{reservation_id}")
def read_pid_reservation(reservation_id: UUID, actor: Writer, session: ReadSession) -> ReservationRead:
    """One block."""
    return pid_reservations.read_one(session, actor, reservation_id)


@router.post("/{reservation_id}/closure", status_code=201, response_model=ReservationRead)
def close_pid_reservation(
    reservation_id: UUID, body: ClosureCreate, actor: Writer, once: OncePerKey, session: WriteSession
) -> Response:
    """Close a block, as when a tablet is lost. A person whose pid is on a printed label can still be enrolled."""
    return once.create(
        session, actor, body, lambda: _made(*pid_reservations.close(session, actor, reservation_id, body))
    )
