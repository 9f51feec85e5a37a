"""Freezes and locks of clinical data."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from sqlmodel import col

from app.access import Actor, narrowed, requires, visible
from app.database import ReadSession, WriteSession
from app.models.data_lock import DataLock, LiftingCreate, LockCreate, LockFilter, LockList, LockRead
from app.pagination import Page
from app.permissions import Permission
from app.services import codes_asked, locks
from app.web.once import Made, OncePerKey
from app.web.route import Router

router = Router(prefix="/v1/locks", tags=["locks"])
Reader = Annotated[Actor, Depends(requires(Permission.lock_read))]
Locker = Annotated[Actor, Depends(requires(Permission.lock_write))]


@router.post("", status_code=201, response_model=LockRead)
def set_lock(body: LockCreate, actor: Locker, once: OncePerKey, session: WriteSession) -> Response:
    """Freeze or lock a visit, a participant, a site's visits of one code, a site, or a whole study."""
    return once.create(session, actor, body, lambda: _made(*locks.set_lock(session, actor, body)))


def _made(read: LockRead, site_id: int) -> Made:
    return Made(read, f"/v1/locks/{read.id}", site_id=site_id)


@router.get("")
def list_locks(
    query: Annotated[LockFilter, Query()], actor: Reader, request: Request, response: Response, session: ReadSession
) -> LockList:
    """Freezes and locks at your sites, newest first, also those that were lifted."""
    codes_asked.require_defined(session, actor, query, "visit_code")
    statement = narrowed(
        visible(locks.rows(), actor).where(col(DataLock.site_id).in_(actor.sites_at(query.study, query.site))),
        (DataLock.pid, query.participant),
        (DataLock.visit_id, query.visit),
        (DataLock.visit_code, query.visit_code),
        (DataLock.kind, query.kind),
        (DataLock.scope, query.scope),
        (col(DataLock.lifted_at).is_(None), query.in_force),
    )
    rows, after = Page(request, response, actor, query).read(session, statement, DataLock.set_at, DataLock.id)
    return LockList(items=[locks.read(row, actor) for row in rows], next=after)


@router.get("/{lock_id}")
def read_lock(lock_id: UUID, actor: Reader, session: ReadSession) -> LockRead:
    """One freeze or lock."""
    return locks.read_one(session, actor, lock_id)


@router.post("/{lock_id}/lifting", status_code=201, response_model=LockRead)
def lift_lock(lock_id: UUID, body: LiftingCreate, actor: Locker, once: OncePerKey, session: WriteSession) -> Response:
    """Lift a freeze or lock, with the reason. The data can be changed again."""
    return once.create(session, actor, body, lambda: _made(*locks.lift(session, actor, lock_id, body)))
