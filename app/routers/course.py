"""A participant's course beside visits: schedule, consent, screening, protocol version, earlier treatments."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel

from app.access import Actor, requires
from app.database import ReadSession, WriteSession
from app.models.audit import HistoryList
from app.models.consent import ConsentCreate, ConsentState, VoidingCreate, WithdrawalCreate
from app.models.identifiers import Pid
from app.models.participant import ParticipantRead, ProtocolMove
from app.models.schedule import DueList, DueQuery, ScheduleRead
from app.models.screening import EligibilityAnswers, ScreeningCreate, ScreeningList, ScreeningRead
from app.models.treatment import TreatmentAmend, TreatmentCreate, TreatmentList, TreatmentRead
from app.permissions import Permission
from app.pid import display
from app.services import consents, participants, schedules, screenings, treatments, voiding
from app.services.history import history_of
from app.services.participants import visible_person
from app.web.conditional import IfMatch, etag
from app.web.once import Made, OnceIfKeyed, OncePerKey, amended
from app.web.route import Router

router = Router(prefix="/v1/participants/{pid}", tags=["participants"])
of_study = Router(prefix="/v1/studies/{study}", tags=["participants"])
Reader = Annotated[Actor, Depends(requires(Permission.participant_read))]
Writer = Annotated[Actor, Depends(requires(Permission.participant_write))]


def _made(pid: str, below: str, made: tuple[BaseModel, int]) -> Made:
    read, site_id = made
    return Made(read, f"/v1/participants/{display(pid)}/{below}", site_id=site_id)


@router.get("/schedule")
def read_schedule(pid: Pid, actor: Reader, session: ReadSession) -> ScheduleRead:
    """Every planned visit: its window where that is known, its state today, and which instruments are missing."""
    return schedules.schedule(session, actor, pid)


@of_study.get("/due")
def list_due(study: str, query: Annotated[DueQuery, Query()], actor: Reader, session: ReadSession) -> DueList:
    """What is due or overdue today at your sites, or whose window meets `from` to `to`."""
    return schedules.due(session, actor, study, query)


@router.get("/history")
def read_participant_history(pid: Pid, actor: Reader, session: ReadSession) -> HistoryList:
    """Every change of a field or of the status, oldest first: old and new value, who, when and why."""
    person = visible_person(session, actor, pid)
    return HistoryList(items=history_of(session, person.site_id, "participant", person.row.pid))


@router.get("/consents")
def read_consents(pid: Pid, actor: Reader, session: ReadSession) -> ConsentState:
    """Consents given and withdrawn, and what the participant agrees to today."""
    return consents.state(session, visible_person(session, actor, pid))


@router.post("/consents", status_code=201, response_model=ConsentState)
def give_consent(pid: Pid, body: ConsentCreate, actor: Writer, once: OncePerKey, session: WriteSession) -> Response:
    """Record a further consent, such as one after an amendment."""
    return once.create(session, actor, body, lambda: _made(pid, "consents", consents.give(session, actor, pid, body)))


@router.post("/withdrawals", status_code=201, response_model=ConsentState)
def withdraw_consent(
    pid: Pid, body: WithdrawalCreate, actor: Writer, once: OncePerKey, request: Request, session: WriteSession
) -> Response:
    """Record which consent a participant withdraws. `identity` erases the site's label for good."""
    journal = request.app.state.erasures

    def withdrawn() -> Made:
        return _made(pid, "consents", consents.withdraw(session, actor, journal, pid, body))

    return once.create(session, actor, body, withdrawn)


@router.post("/withdrawals/{number}/voiding", status_code=201, response_model=ConsentState)
def void_withdrawal(
    pid: Pid, number: int, body: VoidingCreate, actor: Writer, once: OncePerKey, session: WriteSession
) -> Response:
    """Void a withdrawal that the site recorded in error, with the reason; one of `identity` cannot be voided."""
    return once.create(
        session, actor, body, lambda: _made(pid, "consents", voiding.void(session, actor, pid, number, body))
    )


@router.get("/screenings")
def list_screenings(pid: Pid, actor: Reader, session: ReadSession) -> ScreeningList:
    """Every screening episode with its answers, oldest first."""
    return ScreeningList(items=screenings.read_all(session, visible_person(session, actor, pid)))


@router.post("/screenings", status_code=201, response_model=ScreeningRead)
def screen_again(pid: Pid, body: ScreeningCreate, actor: Writer, once: OncePerKey, session: WriteSession) -> Response:
    """A further screening of somebody who failed one."""
    return once.create(
        session, actor, body, lambda: _made(pid, "screenings", screenings.again(session, actor, pid, body))
    )


@router.post("/eligibility", status_code=201, response_model=ScreeningRead)
def answer_criteria(
    pid: Pid, body: EligibilityAnswers, actor: Writer, once: OncePerKey, session: WriteSession
) -> Response:
    """Complete or correct the answers of the present screening."""
    return once.create(
        session, actor, body, lambda: _made(pid, "screenings", screenings.answer(session, actor, pid, body))
    )


@router.post("/protocol-version", response_model=ParticipantRead)
def move_to_protocol_version(
    pid: Pid, body: ProtocolMove, actor: Writer, once: OncePerKey, request: Request, session: WriteSession
) -> Response:
    """Move a participant to another protocol version. Visits recorded before keep the windows of the old one."""

    def moved() -> Made:
        read, site_id = participants.move(session, actor, pid, body)
        tag = etag(request.app.state.keyring, read.pid, read.version)
        return Made(read, f"/v1/participants/{display(read.pid)}", tag, site_id)

    return once.create(session, actor, body, moved, status=200)


@router.get("/treatments")
def list_treatments(pid: Pid, actor: Reader, session: ReadSession) -> TreatmentList:
    """Earlier treatments, and how many adequate ones failed in this episode."""
    return treatments.of(session, actor, pid)


@router.post("/treatments", status_code=201, response_model=TreatmentRead)
def add_treatment(
    pid: Pid, body: TreatmentCreate, actor: Writer, once: OncePerKey, request: Request, session: WriteSession
) -> Response:
    """Record an earlier treatment."""
    return once.create(
        session, actor, body, lambda: _made_treatment(request, pid, *treatments.add(session, actor, pid, body))
    )


def _made_treatment(request: Request, pid: str, read: TreatmentRead, site_id: int) -> Made:
    tag = etag(request.app.state.keyring, read.id, read.version)
    return Made(read, f"/v1/participants/{display(pid)}/treatments/{read.id}", tag, site_id)


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
    request: Request,
    session: WriteSession,
) -> Response:
    """Correct an earlier treatment, with the reason."""

    def make() -> Made:
        keyring = request.app.state.keyring
        read, site_id = treatments.amend(session, actor, keyring, seen, pid, treatment_id, body)
        return _made_treatment(request, pid, read, site_id)

    return amended(once, session, actor, body, make)
