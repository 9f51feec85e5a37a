"""Break-glass: reading the site's own label of a participant, with a reason and a second person's approval."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response

from app.access import Actor, narrowed, requires, visible
from app.database import ReadSession, WriteSession
from app.models.label_disclosure import (
    DisclosureCreate,
    DisclosureDecision,
    DisclosureFilter,
    DisclosureList,
    DisclosureRead,
    LabelDisclosure,
    LabelRead,
)
from app.pagination import Page
from app.permissions import Permission
from app.services.participation import label_disclosures
from app.services.studies import study_asked
from app.web.conditional import etag
from app.web.once import Made, OncePerKey
from app.web.route import Router

router = Router(prefix="/v1/label-disclosures", tags=["label disclosures"])
Reader = Annotated[Actor, Depends(requires(Permission.label_read))]
Opener = Annotated[Actor, Depends(requires(Permission.label_open))]
Approver = Annotated[Actor, Depends(requires(Permission.label_approve))]


@router.get("")
def list_label_disclosures(
    query: Annotated[DisclosureFilter, Query()],
    actor: Reader,
    request: Request,
    response: Response,
    session: ReadSession,
) -> DisclosureList:
    """Your own requests; for custodians those of their studies. Newest first."""
    asked = (
        (LabelDisclosure.study_id, study_asked(session, actor, query.study)),
        (LabelDisclosure.status, query.status),
    )
    statement = narrowed(visible(label_disclosures.rows(), actor), *asked)
    page = Page(request, response, actor, query)
    rows, after = page.read(session, statement, LabelDisclosure.created_at, LabelDisclosure.id)
    return DisclosureList(items=label_disclosures.read_all(rows), next=after)


@router.post("", status_code=201, response_model=DisclosureRead)
def ask_for_label(body: DisclosureCreate, actor: Opener, once: OncePerKey, session: WriteSession) -> Response:
    """Ask to read the label under which a site knows a participant. A custodian who is somebody else decides."""

    def asked() -> Made:
        return _made(label_disclosures.ask(session, actor, body))

    def seen() -> int:
        return label_disclosures.site_in_reach(session, actor, body.participant)

    return once.create(session, actor, body, asked, seen=seen)


@router.get("/{disclosure_id}")
def read_label_disclosure(
    disclosure_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession
) -> DisclosureRead:
    """One request and its state. The label itself is only in the answer to its reading."""
    read = label_disclosures.read_one(session, actor, disclosure_id)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    return read


@router.post("/{disclosure_id}/decision", status_code=201, response_model=DisclosureRead)
def decide_on_label_disclosure(
    disclosure_id: UUID, body: DisclosureDecision, actor: Approver, once: OncePerKey, session: WriteSession
) -> Response:
    """Approve or refuse. An approval is good for one reading within 24 hours."""

    def decided() -> Made:
        return _made(label_disclosures.decide(session, actor, disclosure_id, body))

    def seen() -> DisclosureRead:
        return label_disclosures.read_one(session, actor, disclosure_id)

    return once.create(session, actor, body, decided, seen=seen)


@router.post("/{disclosure_id}/reading")
def open_label(disclosure_id: UUID, actor: Opener, request: Request, session: WriteSession) -> LabelRead:
    """Read the label. Only the person who asked can, and only once. The answer is not kept for a retry, as the label
    stays in the vault alone: if it got lost on the way, ask for a new disclosure."""
    return label_disclosures.open_label(session, actor, request.app.state.keyring, disclosure_id)


def _made(read: DisclosureRead) -> Made:
    return Made(read, f"/v1/label-disclosures/{read.id}", (read.id, read.version))
