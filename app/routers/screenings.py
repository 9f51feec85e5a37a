"""Screenings of a participant: answers to the eligibility criteria."""

from typing import Annotated

from fastapi import Depends, Response

from app.access import Actor, requires
from app.database import ReadSession, WriteSession
from app.models.identifiers import Pid
from app.models.screening import EligibilityAnswers, ScreeningCreate, ScreeningList, ScreeningRead
from app.models.voided import RecordVoiding
from app.permissions import Permission
from app.pid import display
from app.services.participation import screenings, voided_screenings
from app.services.participation.participants import visible_person
from app.web.conditional import IfMatch
from app.web.once import Made, OncePerKey
from app.web.route import Router

router = Router(prefix="/v1/participants/{pid}", tags=["participants"])
Reader = Annotated[Actor, Depends(requires(Permission.participant_read))]
Writer = Annotated[Actor, Depends(requires(Permission.participant_write))]


def _made(pid: str, screened: tuple[ScreeningRead, int]) -> Made:
    read, site_id = screened
    return Made(read, f"/v1/participants/{display(pid)}/screenings", site_id=site_id)


@router.get("/screenings")
def list_screenings(pid: Pid, actor: Reader, session: ReadSession) -> ScreeningList:
    """Every screening episode with its answers, oldest first."""
    return ScreeningList(items=screenings.read_all(session, visible_person(session, actor, pid)))


@router.post("/screenings", status_code=201, response_model=ScreeningRead)
def screen_again(pid: Pid, body: ScreeningCreate, actor: Writer, once: OncePerKey, session: WriteSession) -> Response:
    """A further screening of somebody who failed one."""
    return once.create(session, actor, body, lambda: _made(pid, screenings.again(session, actor, pid, body)))


@router.post("/screenings/{number}/voiding", status_code=201, response_model=ScreeningRead)
def void_screening(
    pid: Pid,
    number: int,
    body: RecordVoiding,
    actor: Writer,
    seen: IfMatch,
    once: OncePerKey,
    session: WriteSession,
) -> Response:
    """Let a further screening that was begun for the wrong participant count no more, with the reason. The participant
    is as before it. `If-Match` is the participant's ETag."""

    def make() -> Made:
        return _made(pid, voided_screenings.void_screening(session, actor, seen, pid, number, body))

    return once.create(session, actor, body, make)


@router.post("/eligibility", status_code=201, response_model=ScreeningRead)
def answer_criteria(
    pid: Pid, body: EligibilityAnswers, actor: Writer, once: OncePerKey, session: WriteSession
) -> Response:
    """Complete or correct the answers of the present screening."""
    return once.create(session, actor, body, lambda: _made(pid, screenings.answer(session, actor, pid, body)))
