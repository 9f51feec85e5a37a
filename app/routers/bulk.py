"""Many records in one request: NDJSON in, one result for each line out, by the rules of the single post."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic_core import to_json

from app.access import Actor, requires
from app.errors import BodyTooLarge, RegistryError
from app.models.adverse_event_shapes import AdverseEventCreate
from app.models.base import Filter
from app.models.outcome import OutcomeCreate
from app.models.participant import ParticipantCreate
from app.models.verification import VerificationCreate
from app.models.visit import VisitCreate
from app.permissions import Permission
from app.routers import adverse_events, outcomes, participants, verifications, visits
from app.services import bulk
from app.services.bulk import Noun, Upload
from app.settings import Settings
from app.web.lines import NDJSON, Line, batches
from app.web.route import Router

router = Router(prefix="/v1", tags=["bulk"])


class TooManyLines(RegistryError):
    """The request has more lines than allowed (REGISTRY_MAX_BULK_LINES): this one and all after it were not tried."""

    status = BodyTooLarge.status
    title = BodyTooLarge.title


class BulkQuery(Filter):
    atomic: bool = False
    """Store all lines or none. Together they may be no larger than a single body."""

    dry_run: bool = False
    """Check every line, store none."""


NOUNS = {
    Permission.participant_write: Noun(
        "/v1/participants", ParticipantCreate, participants.recorder, stores_itself=True
    ),
    Permission.visit_write: Noun("/v1/visits", VisitCreate, visits.recorder),
    Permission.outcome_write: Noun("/v1/outcomes", OutcomeCreate, outcomes.recorder),
    Permission.adverse_event_write: Noun("/v1/adverse-events", AdverseEventCreate, adverse_events.recorder),
    Permission.verification_write: Noun("/v1/verifications", VerificationCreate, verifications.recorder),
}


async def _upload(request: Request, permission: Permission, query: BulkQuery) -> Response:
    upload, settings = Upload(request, NOUNS[permission], dry_run=query.dry_run), request.app.state.settings
    sent = batches(request, bulk.BATCH, settings.max_body_bytes, settings.body_seconds)
    if query.atomic:
        results, stored = await run_in_threadpool(upload.store_all, await _all_of(sent, settings))
    else:
        results, stored = await _in_turn(upload, sent, request, permission), True
    whole = all("problem" not in result for result in results)
    status = 422 if not stored else 200 if whole else 207
    headers = {"Retry-After": "1"} if upload.broken else {}
    return Response(b"".join(map(_written, results)), status, headers, media_type=NDJSON)


async def _all_of(sent: AsyncIterator[list[Line]], settings: Settings) -> list[Line]:
    """All lines, which together are no larger than a body. Raises BodyTooLarge."""
    lines: list[Line] = []
    held = 0
    async for batch in sent:
        lines += batch
        held += sum(len(line.raw or b"") for line in batch)
        if len(lines) > settings.max_bulk_lines or held > settings.max_body_bytes:
            raise BodyTooLarge(headers={"Connection": "close"})
    return lines


async def _in_turn(
    upload: Upload, sent: AsyncIterator[list[Line]], request: Request, permission: Permission
) -> list[dict[str, Any]]:
    """The results of one batch after another, each stored before the next is read."""
    results: list[dict[str, Any]] = []
    async for batch in sent:
        await requires(permission)(request)  # again: a grant may have ended since
        room = request.app.state.settings.max_bulk_lines - len(results)
        results += await run_in_threadpool(upload.store, batch[:room])
        if len(batch) > room:
            results.append(upload.refused(batch[room], TooManyLines()))
        if upload.broken or len(batch) > room:
            break
    return results


def _written(result: dict[str, Any]) -> bytes:
    return to_json(result) + b"\n"


_RESULT = {
    "title": "LineResult",
    "description": "What became of one line",
    "type": "object",
    "required": ["line", "result"],
    "properties": {
        "line": {"type": "integer"},
        "result": {"enum": ["created", "replayed", "valid", "invalid", "conflict", "blocked"], "type": "string"},
        "status": {"type": "integer"},
        "location": {"type": "string"},
        "etag": {"type": ["string", "null"]},
        "problem": {"$ref": "#/components/schemas/Problem"},
    },
}


_ANSWERS = {
    200: "Each line was stored, or replayed; with dry_run: each line is valid",
    207: "Some lines were refused; each line's result says what became of it",
    422: "With atomic: a line was refused, and none is stored",
}
"""In words of our own: Python's name of 422 depends on its version."""


def _body(noun: Noun) -> dict[str, Any]:
    """Body and answer of the route for the description, as the body, which is read line by line, is not declared."""
    record = {"$ref": f"#/components/schemas/{noun.shape.__name__}"}
    line = {
        "title": f"{noun.shape.__name__.removesuffix('Create')}Line",
        "type": "object",
        "required": ["key", "record"],
        "properties": {"key": {"type": "string", "description": "The record's Idempotency-Key"}, "record": record},
    }
    content = {NDJSON: {"schema": line}, "application/json": {"schema": {"type": "array", "items": line}}}
    return {"x-stream": True, "requestBody": {"required": True, "content": content}}


def _endpoint(permission: Permission) -> Callable[..., Awaitable[Response]]:
    """The bulk route of one kind of record."""

    async def upload(
        request: Request,
        query: Annotated[BulkQuery, Query()],
        _actor: Annotated[Actor, Depends(requires(permission))],
    ) -> Response:
        """Many records, one a line or in one array, each with an Idempotency-Key as `key`; one result for each.

        Where one is refused, the others are stored all the same (unless `atomic`). Sending all of them again is safe.
        """
        return await _upload(request, permission, query)

    return upload


for _permission, _noun in NOUNS.items():
    _answers = {
        code: {"description": text, "content": {NDJSON: {"schema": _RESULT}}} for code, text in _ANSWERS.items()
    }
    router.add_api_route(
        f"{_noun.path.removeprefix('/v1')}/bulk",
        _endpoint(_permission),
        methods=["POST"],
        name=f"upload_{_noun.path.removeprefix('/v1/').replace('-', '_')}",
        responses=_answers,  # type: ignore[arg-type]
        openapi_extra=_body(_noun),
        response_class=Response,
    )
