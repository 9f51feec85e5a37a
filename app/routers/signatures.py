"""Electronic signatures of visits and of participants' records."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from sqlmodel import col

from app.access import Actor, narrowed, requires, visible
from app.database import ReadSession, WriteSession
from app.models.signature import (
    ContentQuery,
    ContentRead,
    Signature,
    SignatureCreate,
    SignatureFilter,
    SignatureList,
    SignatureRead,
)
from app.pagination import Page
from app.permissions import Permission
from app.routers.auth import client_address, sign_in
from app.services.quality import signatures
from app.services.quality.signed_content import Subject
from app.web.route import Router

router = Router(prefix="/v1/signatures", tags=["signatures"])
Reader = Annotated[Actor, Depends(requires(Permission.signature_read))]
Signer = Annotated[Actor, Depends(requires(Permission.signature_write))]


@router.post("", status_code=201)
def sign(
    body: SignatureCreate, actor: Signer, request: Request, response: Response, session: WriteSession
) -> SignatureRead:
    """Sign a visit or a participant's record, giving the password once more."""
    read = signatures.Signing(sign_in(request), actor, client_address(request)).sign(session, body)
    response.headers["Location"] = f"/v1/signatures/{read.id}"
    return read


@router.get("")
def list_signatures(
    query: Annotated[SignatureFilter, Query()],
    actor: Reader,
    request: Request,
    response: Response,
    session: ReadSession,
) -> SignatureList:
    """Signatures at your sites, newest first, each with its state."""
    statement = narrowed(
        visible(signatures.rows(), actor).where(col(Signature.site_id).in_(actor.sites_at(query.study, query.site))),
        (Signature.pid, query.participant),
        (Signature.visit_id, query.visit),
    )
    rows, after = Page(request, response, actor, query).read(session, statement, Signature.signed_at, Signature.id)
    items = [one for one in signatures.read_all(session, actor, rows) if query.state in (None, one.state)]
    return SignatureList(items=items, next=after)


@router.get("/content")
def read_signable_content(query: Annotated[ContentQuery, Query()], actor: Reader, session: ReadSession) -> ContentRead:
    """What a signature would cover now: show it to the signer, and send its hash with the signature."""
    return signatures.content(session, actor, Subject(query.participant, query.visit))


@router.get("/{signature_id}")
def read_signature(signature_id: UUID, actor: Reader, session: ReadSession) -> SignatureRead:
    """One signature and its state."""
    return signatures.read_one(session, actor, signature_id)
