"""Consents of a participant, and their withdrawals."""

from typing import Annotated

from fastapi import Depends, Request, Response

from app.access import Actor, requires
from app.database import ReadSession, WriteSession
from app.models.base import Code
from app.models.consent import ConsentCreate, ConsentState, VoidingCreate, WithdrawalCreate
from app.models.identifiers import Pid
from app.models.voided import RecordVoiding
from app.permissions import Permission
from app.pid import display
from app.services.participation import consents, voided_consents
from app.services.participation.participants import visible_person
from app.web.conditional import IfMatch
from app.web.once import Made, OncePerKey
from app.web.route import Router

router = Router(prefix="/v1/participants/{pid}", tags=["participants"])
Reader = Annotated[Actor, Depends(requires(Permission.participant_read))]
Writer = Annotated[Actor, Depends(requires(Permission.participant_write))]


def _made(pid: str, given: tuple[ConsentState, int]) -> Made:
    read, site_id = given
    return Made(read, f"/v1/participants/{display(pid)}/consents", site_id=site_id)


@router.get("/consents")
def read_consents(pid: Pid, actor: Reader, session: ReadSession) -> ConsentState:
    """Consents given and withdrawn, and what the participant agrees to today."""
    return consents.state(session, visible_person(session, actor, pid))


@router.post("/consents", status_code=201, response_model=ConsentState)
def give_consent(pid: Pid, body: ConsentCreate, actor: Writer, once: OncePerKey, session: WriteSession) -> Response:
    """Record a further consent, such as one after an amendment."""
    return once.create(session, actor, body, lambda: _made(pid, consents.give(session, actor, pid, body)))


@router.post("/consents/{version}/{number}/voiding", status_code=201, response_model=ConsentState)
def void_consent(
    pid: Pid,
    version: Code,
    number: int,
    body: RecordVoiding,
    actor: Writer,
    seen: IfMatch,
    once: OncePerKey,
    session: WriteSession,
) -> Response:
    """Let a consent that the site recorded in error, such as one of somebody else, count no more, with the reason.
    `If-Match` is the participant's ETag."""

    def make() -> Made:
        return _made(pid, voided_consents.void_consent(session, actor, seen, pid, version, number, body))

    return once.create(session, actor, body, make)


@router.post("/withdrawals", status_code=201, response_model=ConsentState)
def withdraw_consent(
    pid: Pid, body: WithdrawalCreate, actor: Writer, once: OncePerKey, request: Request, session: WriteSession
) -> Response:
    """Record which consent a participant withdraws. `identity` erases the site's label for good."""
    journal = request.app.state.erasures
    return once.create(session, actor, body, lambda: _made(pid, consents.withdraw(session, actor, journal, pid, body)))


@router.post("/withdrawals/{number}/voiding", status_code=201, response_model=ConsentState)
def void_withdrawal(
    pid: Pid, number: int, body: VoidingCreate, actor: Writer, once: OncePerKey, session: WriteSession
) -> Response:
    """Void a withdrawal that the site recorded in error, with the reason; one of `identity` cannot be voided."""
    return once.create(
        session, actor, body, lambda: _made(pid, voided_consents.void_withdrawal(session, actor, pid, number, body))
    )
