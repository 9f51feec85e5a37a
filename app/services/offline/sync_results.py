"""The results of acts, as apps get them."""

import json
from typing import Literal
from uuid import UUID

from app.errors import RegistryError
from app.models.sync import Operation, SyncItem, SyncOperation, SyncResult, SyncState, Unreadable
from app.services.offline.sync import SyncCourier
from app.services.offline.sync_shelf import OperationMalformed, address, is_name
from app.web.problems import document, fault_of, result_of


def result(row: SyncOperation, before: SyncState | None, courier: SyncCourier) -> SyncResult:
    """What became of an act, given the state that it had before the call."""
    problem = json.loads(row.problem) if row.problem and row.state == SyncState.refused else None
    wait = courier.waits.get(row.id) if row.state == SyncState.waiting else None
    lacking = courier.lacking.get(row.id, set())
    kind: Literal["created", "replayed", "conflict", "invalid", "blocked", "discarded"]
    if row.state == SyncState.stored:
        kind = "replayed" if row.id in courier.replayed or before == SyncState.stored else "created"
    elif row.state == SyncState.discarded:
        kind = "discarded"
    else:
        kind = result_of(problem["status"]) if problem else "blocked"
    return SyncResult(
        id=row.id,
        result=kind,
        waits_for=sorted(UUID(name[1:]) for name in lacking if is_name(name)),
        waits_for_pids=sorted(pid for pid in lacking if not is_name(pid)),
        location=row.location and address(row.location),
        etag=row.etag,
        problem=wait.problem if wait else problem,
        retry_after=wait.retry_after if wait else None,
    )


def unreadable(place: int, one: Unreadable) -> OperationMalformed:
    """Why an operation that cannot be read is not kept."""
    at = ("body", "operations", place)
    return OperationMalformed(*(fault_of({**fault, "loc": (*at, *fault["loc"])}) for fault in one.faults))


def not_kept(one: Operation | Unreadable, why: RegistryError) -> SyncResult:
    """The result of an operation that only its app has."""
    problem = document(why, "/v1/sync")
    kind = result_of(why.status)
    return SyncResult(
        id=one.id, result=kind, waits_for=[], waits_for_pids=[], location=None, etag=None, problem=problem
    )


def item(row: SyncOperation, one: Operation | None) -> SyncItem:
    return SyncItem(
        id=row.id,
        state=row.state,
        method=one.method if one else None,
        path=one.path if one else None,
        body=one.body if one else None,
        location=row.location and address(row.location),
        problem=json.loads(row.problem) if row.problem else None,
        created_at=row.created_at,
    )
