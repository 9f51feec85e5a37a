"""Treatments that a participant had before the study."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request, Response

from app.access import Actor, requires
from app.database import ReadSession, WriteSession
from app.models.identifiers import Pid
from app.models.treatment import TreatmentAmend, TreatmentCreate, TreatmentList, TreatmentRead
from app.models.voided import RecordVoiding
from app.permissions import Permission
from app.pid import display
from app.services.participation import treatments
from app.web.conditional import IfMatch, etag
from app.web.once import Made, OnceIfKeyed, OncePerKey, amended
from app.web.route import Router

router = Router(prefix="/v1/participants/{pid}", tags=["participants"])
Reader = Annotated[Actor, Depends(requires(Permission.participant_read))]
Writer = Annotated[Actor, Depends(requires(Permission.participant_write))]


@router.get("/treatments")
def list_treatments(pid: Pid, actor: Reader, session: ReadSession) -> TreatmentList:
    """Earlier treatments, and how many adequate ones failed in this episode."""
    return treatments.of(session, actor, pid)


@router.post("/treatments", status_code=201, response_model=TreatmentRead)
def add_treatment(pid: Pid, body: TreatmentCreate, actor: Writer, once: OncePerKey, session: WriteSession) -> Response:
    """Record an earlier treatment."""
    return once.create(session, actor, body, lambda: _made_treatment(pid, *treatments.add(session, actor, pid, body)))


def _made_treatment(pid: str, read: TreatmentRead, site_id: int) -> Made:
    return Made(read, f"/v1/participants/{display(pid)}/treatments/{read.id}", (read.id, read.version), site_id)


@router.get("/treatments/{treatment_id}")
def read_treatment(
    pid: Pid, treatment_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession
) -> TreatmentRead:
    """One earlier treatment."""
    read = treatments.read(session, actor, pid, treatment_id)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    return read


@router.patch("/treatments/{treatment_id}", response_model=TreatmentRead)
def amend_treatment(
    pid: Pid,
    treatment_id: UUID,
    body: TreatmentAmend,
    actor: Writer,
    seen: IfMatch,
    once: OnceIfKeyed,
    session: WriteSession,
) -> Response:
    """Correct an earlier treatment, with the reason."""

    def make() -> Made:
        return _made_treatment(pid, *treatments.amend(session, actor, seen, pid, treatment_id, body))

    return amended(once, seen, session, actor, body, make)


@router.post("/treatments/{treatment_id}/voiding", status_code=201, response_model=TreatmentRead)
def void_treatment(
    pid: Pid,
    treatment_id: UUID,
    body: RecordVoiding,
    actor: Writer,
    seen: IfMatch,
    once: OncePerKey,
    session: WriteSession,
) -> Response:
    """Let an earlier treatment that was entered in error count no more, with the reason. It can still be read."""

    def make() -> Made:
        return _made_treatment(pid, *treatments.void(session, actor, seen, pid, treatment_id, body))

    return once.create(session, actor, body, make)
