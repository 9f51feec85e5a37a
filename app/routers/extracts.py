"""Extracts and the codebook, which are all that analysts can use."""

from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Path, Query, Request, Response
from starlette.background import BackgroundTask

from app.access import Actor, narrowed, requires, visible
from app.database import ReadSession, WriteSession
from app.models.extract import (
    ApprovalCreate,
    CodebookFormat,
    CodebookQuery,
    CodebookRead,
    Extract,
    ExtractCreate,
    ExtractFilter,
    ExtractList,
    ExtractRead,
    ExtractStatus,
    RevocationCreate,
)
from app.pagination import Page
from app.permissions import Permission
from app.privacy.bundle import MEDIA_TYPES, codebook_csv
from app.privacy.codebook import codebook
from app.privacy.profile import PROFILES
from app.services.extracts import chunks, extract_ends, extracts
from app.services.studies import study_asked, study_by_code
from app.web.conditional import etag
from app.web.once import Made, OncePerKey
from app.web.ranges import part_of
from app.web.route import Router

router = Router(prefix="/v1", tags=["extracts"])
CodebookReader = Annotated[Actor, Depends(requires(Permission.codebook_read))]
Reader = Annotated[Actor, Depends(requires(Permission.extract_read))]
Requester = Annotated[Actor, Depends(requires(Permission.extract_request))]
Approver = Annotated[Actor, Depends(requires(Permission.extract_approve))]
Recipient = Annotated[Actor, Depends(requires(Permission.extract_download))]


@router.get(
    "/codebook",
    response_model=CodebookRead,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def read_codebook(_actor: CodebookReader, query: Annotated[CodebookQuery, Query()]) -> Any:
    """What extracts contain: every file and column with its unit, codes, source and how it was de-identified. With
    `format=csv` as the file that comes with extracts."""
    profile = PROFILES[query.profile]
    columns = codebook(profile)
    if query.format is CodebookFormat.csv:
        headers = {"Content-Disposition": f'attachment; filename="codebook-{profile.name}.csv"'}
        return Response(codebook_csv(columns), media_type=MEDIA_TYPES["csv"], headers=headers)
    return CodebookRead(profile=profile.name, profile_version=profile.version, columns=columns)


@router.get("/extracts")
def list_extracts(
    query: Annotated[ExtractFilter, Query()], actor: Reader, request: Request, response: Response, session: ReadSession
) -> ExtractList:
    """Your own extracts; for custodians those of their studies. Newest first."""
    statement = narrowed(
        visible(extracts.rows(), actor),
        (Extract.study_id, study_asked(session, actor, query.study)),
        (Extract.status, query.status),
    )
    statement = extracts.by_withdrawals(session, actor, statement, query.withdrawn_since)
    rows, after = Page(request, response, actor, query).read(session, statement, Extract.created_at, Extract.id)
    return ExtractList(items=extracts.read_all(session, actor, rows), next=after)


@router.post("/extracts", status_code=202, response_model=ExtractRead)
def request_extract(body: ExtractCreate, actor: Requester, once: OncePerKey, session: WriteSession) -> Response:
    """Ask for a de-identified extract of a study. Its files are made after a custodian has approved it."""

    def asked() -> Made:
        return _made(extracts.request_extract(session, actor, body))

    return once.create(session, actor, body, asked, 202, seen=lambda: study_by_code(session, actor, body.study))


def _made(read: ExtractRead) -> Made:
    return Made(read, f"/v1/extracts/{read.id}", (read.id, read.version))


@router.get("/extracts/{extract_id}")
def read_extract(
    extract_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession
) -> ExtractRead:
    """One extract and its state; once it is ready, with its files."""
    read = extracts.read_one(session, actor, extract_id)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    if read.status is ExtractStatus.building:
        response.headers["Retry-After"] = "2"
    return read


@router.post("/extracts/{extract_id}/approval", status_code=201, response_model=ExtractRead)
def decide_on_extract(
    extract_id: UUID, body: ApprovalCreate, actor: Approver, once: OncePerKey, request: Request, session: WriteSession
) -> Response:
    """Approve or refuse an extract that somebody else asked for. After an approval the extract is `building`, and
    `ready` when its files are there."""
    days = request.app.state.settings.extract_days

    def decided() -> Made:
        return _made(extracts.decide(session, actor, extract_id, body, days))

    answer = once.create(session, actor, body, decided, seen=lambda: extracts.read_one(session, actor, extract_id))
    answer.background = BackgroundTask(request.app.state.builder.wake)  # after the commit
    return answer


@router.post("/extracts/{extract_id}/revocation", status_code=201, response_model=ExtractRead)
def revoke_extract(
    extract_id: UUID, body: RevocationCreate, actor: Approver, once: OncePerKey, session: WriteSession
) -> Response:
    """Revoke an extract. Its files are deleted, or no longer built."""

    def revoked() -> Made:
        extract_ends.revoke(session, actor, extract_id, body.reason)
        return _made(extracts.read_one(session, actor, extract_id))

    return once.create(session, actor, body, revoked, seen=lambda: extracts.read_one(session, actor, extract_id))


_KINDS = [kind.partition(";")[0] for kind in MEDIA_TYPES.values()]
_FILE: dict[str, Any] = {
    "content": {kind: {"schema": {} if kind == "application/json" else {"type": "string"}} for kind in _KINDS}
}


@router.get("/extracts/{extract_id}/files/{name}", response_class=Response, responses={200: _FILE, 206: _FILE})
def download_file(
    extract_id: UUID,
    name: Annotated[str, Path(pattern=r"^[A-Za-z0-9_]{1,40}\.(csv|json|md|ndjson|parquet|txt|zip)$")],
    actor: Recipient,
    request: Request,
    session: WriteSession,
) -> Response:
    """One file of your own extract, or a part of it (`Range`). Each download is in the audit trail."""
    file = extracts.download(session, actor, extract_id, name, sent="headers_only" not in request.scope)
    headers = {"Content-Disposition": f'attachment; filename="{file.name}"'}
    stored = chunks.file_of(request.app.state.keyring, extract_id, file.build, file.name, file.sealed_key)
    first, read = partial(chunks.part_at, session, stored), partial(chunks.read, request.app.state.database, stored)
    return part_of(request, first, read, file.bytes, file.sha256, file.media_type, headers)
