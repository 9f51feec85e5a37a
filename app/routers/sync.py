"""Sync for apps that were offline: in any order and any batches; what is refused is kept until somebody decides."""

from collections.abc import Mapping, Sequence
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool

from app.access import Actor, narrowed, requires, visible
from app.database import ReadSession
from app.models.sync import (
    Operation,
    SyncCreate,
    SyncFilter,
    SyncList,
    SyncOperation,
    SyncRead,
    SyncResolution,
    SyncResult,
    SyncState,
    Unreadable,
)
from app.pagination import Page
from app.permissions import Permission
from app.services.offline import sync, sync_results
from app.services.offline.sync import SyncCourier
from app.services.offline.sync_shelf import Shelf
from app.web.route import Router

router = Router(prefix="/v1/sync", tags=["sync"])
User = Annotated[Actor, Depends(requires(Permission.sync_use))]


@router.post("", response_model=SyncRead)
async def deliver(body: SyncCreate, actor: User, request: Request) -> Response:
    """Store all operations, then carry out each as the request that it describes, those that others refer to first.

    An operation that cannot be read, or whose id was used for another act, is not stored; the others are. Nothing new
    is while the account has 10,000 refused ones.
    """
    courier = SyncCourier(request, actor)
    readable = {place: one for place, one in enumerate(body.operations) if isinstance(one, Operation)}
    before, not_kept = await run_in_threadpool(courier.shelf.keep, readable)
    asked: list[UUID | SyncResult] = []
    for place, one in enumerate(body.operations):
        if isinstance(one, Unreadable):
            asked.append(sync_results.not_kept(one, sync_results.unreadable(place, one)))
        else:
            asked.append(sync_results.not_kept(one, not_kept[place]) if place in not_kept else one.id)
    return await _results(courier, before, asked)


async def _results(
    courier: SyncCourier, before: Mapping[UUID, SyncState | None], asked: Sequence[UUID | SyncResult]
) -> Response:
    """The results of the operations that were asked for, in that order, then those of others that were tried."""
    settled = await run_in_threadpool(courier.settle)
    await courier.deliver(before)
    await courier.bound(before)
    shown = [*asked, *(one for one in dict.fromkeys([*settled, *courier.tried]) if one not in before)]
    rows = await run_in_threadpool(courier.shelf.rows, {one for one in shown if isinstance(one, UUID)})
    results = [
        sync_results.result(rows[one], before.get(one), courier) if isinstance(one, UUID) else one for one in shown
    ]
    return Response(SyncRead(results=results).model_dump_json(), media_type="application/json")


@router.get("")
def list_operations(
    query: Annotated[SyncFilter, Query()], actor: User, request: Request, response: Response, session: ReadSession
) -> SyncList:
    """Your operations, newest first. Those that wait or were refused have what you sent."""
    shelf = Shelf(request.app.state.database, request.app.state.keyring, actor.account_id)
    sync.settle(request, actor, shelf)  # before the session takes a connection
    statement = narrowed(visible(sync.rows(), actor), (SyncOperation.state, query.state))
    rows, after = Page(request, response, actor, query).read(
        session, statement, SyncOperation.created_at, SyncOperation.id
    )
    kept = [SyncOperation(**row._asdict()) for row in rows]
    return SyncList(items=[sync_results.item(row, shelf.opened(row)) for row in kept], next=after)


@router.post("/{operation_id}/resolution", response_model=SyncRead)
async def resolve_operation(operation_id: UUID, body: SyncResolution, actor: User, request: Request) -> Response:
    """Send an operation that waits or was refused once more, changed or not; or discard it."""
    courier = SyncCourier(request, actor)

    def decided() -> None:
        courier.settle()
        with request.app.state.database.write(request) as session:
            sync.resolve(session, courier.shelf, actor, operation_id, body)

    await run_in_threadpool(decided)
    return await _results(courier, {operation_id: SyncState.refused}, [operation_id])
