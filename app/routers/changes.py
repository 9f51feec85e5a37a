"""The change feed: read, waited for, or kept open as server-sent events."""

import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Annotated, Any

from fastapi import Depends, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import Receive, Scope, Send

from app.access import Actor, requires
from app.errors import RegistryError
from app.models.change import ChangeFilter, ChangeList
from app.permissions import Permission
from app.services.trail.changes import NewChanges, Places, after
from app.services.trail.waiting import Waiting
from app.web.route import Router

router = Router(prefix="/v1/changes", tags=["changes"])
known = requires(Permission.change_read)
Reader = Annotated[Actor, Depends(known)]
EVENTS = "text/event-stream"
ANEW_SECONDS, BEAT_SECONDS = 5.0, 15.0
"""Between two looks of somebody who waits in vain; between two signs of life, which keep proxies from closing the
stream."""


class Stream(StreamingResponse):
    """Server-sent events, which are counted as open while they are sent, and no longer if the client leaves."""

    def __init__(self, counted: AbstractContextManager[None], events: AsyncIterator[bytes]) -> None:
        headers = {"X-Accel-Buffering": "no"}  # nginx would hold events back until it has a page of them
        super().__init__(events, headers=headers, media_type=EVENTS)
        self._counted = counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._counted:
            await super().__call__(scope, receive, send)


@router.get("", response_model=ChangeList, responses={200: {"content": {EVENTS: {"schema": {"type": "string"}}}}})
async def list_changes(
    query: Annotated[ChangeFilter, Query()],
    actor: Reader,
    request: Request,
    last_event: Annotated[str | None, Header(alias="Last-Event-ID", max_length=4000)] = None,
) -> Any:
    """Every committed change at your sites, once and in order. With `Accept: text/event-stream` the stream stays open;
    each event's id is a place to go on from."""
    actor.sites_at(query.study, query.site)  # refuses now, as an open stream can refuse nothing
    places = Places(request.app.state.keyring, actor, query)
    counted = request.app.state.waiting.one_more(actor.account_id)
    if EVENTS in request.headers.get("accept", ""):
        # A browser that reconnects repeats the address, so its header counts first.
        place = places.read(last_event or query.after)
        return Stream(counted, _events(request, query, places, place))
    with counted:
        found = await _awaited(request, query, places.read(query.after))
    items = [change for _, change in found.changes]
    answer = ChangeList(items=items, next=places.written(found.place), more=found.more)
    return Response(answer.model_dump_json(), media_type="application/json")


async def _awaited(request: Request, query: ChangeFilter, place: dict[int, int]) -> NewChanges:
    waiting: Waiting = request.app.state.waiting
    until = time.monotonic() + query.wait
    while True:
        found, sites = await _look(request, query, place)
        left = until - time.monotonic()
        if found.changes or found.more or left <= 0 or waiting.over or await request.is_disconnected():
            return found
        place = found.place
        await waiting.moved(sites, place, min(left, ANEW_SECONDS))


async def _look(request: Request, query: ChangeFilter, place: dict[int, int]) -> tuple[NewChanges, list[int]]:
    """The changes after this place, and the sites that were searched. Each look loads the actor again, so that an
    expired token or a revoked grant ends the waiting too. No connection is held between two looks."""
    actor = await known(request)

    def look() -> NewChanges:
        with request.app.state.database.read(request) as session:
            return after(session, actor, query, place)

    return await run_in_threadpool(look), actor.sites_at(query.study, query.site)


async def _events(request: Request, query: ChangeFilter, places: Places, place: dict[int, int]) -> AsyncIterator[bytes]:
    waiting: Waiting = request.app.state.waiting
    beat = time.monotonic()
    yield b"retry: 3000\n\n"
    while not waiting.over:
        try:
            found, sites = await _look(request, query, place)
        except (RegistryError, SQLAlchemyError):  # the client learns the reason when it connects again
            return
        behind = dict(place)
        for site_id, change in found.changes:
            behind[site_id] = change.seq
            yield f"id: {places.written(behind)}\nevent: change\ndata: {change.model_dump_json()}\n\n".encode()
        place = found.place
        if found.changes:
            beat = time.monotonic()
        elif time.monotonic() - beat >= BEAT_SECONDS:
            beat = time.monotonic()
            yield b": still here\n\n"
        if not found.more:
            await waiting.moved(sites, place, ANEW_SECONDS)
