"""Participants: enrol, find again, list, change status."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, Query, Request, Response
from sqlmodel import Session

from app.access import Actor, requires
from app.database import ReadSession, Turn, WriteSession, in_turn
from app.models.audit import HistoryList
from app.models.identifiers import Pid
from app.models.outcome_summary import ResponseFilter, ResponseList
from app.models.participant import (
    Participant,
    ParticipantAmend,
    ParticipantCreate,
    ParticipantFilter,
    ParticipantList,
    ParticipantLookup,
    ParticipantRead,
    ProtocolMove,
    StatusChange,
)
from app.models.voided import RecordVoiding
from app.pagination import Listed, Page
from app.permissions import Permission
from app.pid import display
from app.services.assessments import outcome_summary
from app.services.participation import enrolment, participants, status_changes, voided_participants
from app.services.participation.participants import visible_person
from app.services.trail.history import history_of
from app.site_lists import narrowing
from app.web.conditional import IfMatch, etag
from app.web.group_commit import Record
from app.web.once import Made, OnceIfKeyed, OncePerKey, amended
from app.web.route import Router
from app.writing import Writes

router = Router(prefix="/v1/participants", tags=["participants"])
Reader = Annotated[Actor, Depends(requires(Permission.participant_read))]
OutcomeReader = Annotated[Actor, Depends(requires(Permission.outcome_read))]
Writer = Annotated[Actor, Depends(requires(Permission.participant_write))]
Finder = Annotated[Actor, Depends(requires(Permission.participant_lookup))]


@router.post("", status_code=201, response_model=ParticipantRead)
def enrol(
    body: ParticipantCreate, actor: Writer, once: OncePerKey, request: Request, session: WriteSession
) -> Response:
    """Register a person; the answer carries the new pid. The site's own label goes into the vault."""
    return once.create(session, actor, body, lambda: recorder(request, session, actor, [body])(actor, body))


def recorder(request: Request, session: Session, actor: Actor, bodies: Sequence[ParticipantCreate]) -> Record:
    """The function that enrols one body. The participant is stored at once, the rest with the answer."""
    if len(bodies) > 1:  # of two that bring the same labels in another order each would hold what the other waits for
        named = {(one.study, one.site) for one in bodies}
        in_turn(session, Turn.enrolments, {site_id for site_id, place in actor.places.items() if place in named})
    return lambda by, body: _made(*enrolment.enrol(session, by, request.app.state.keyring, body))


def _made(read: ParticipantRead, site_id: int, writes: Writes | None = None) -> Made:
    place = f"/v1/participants/{display(read.pid)}"
    return Made(read, place, (read.pid, read.version), site_id, writes or Writes())


@router.get("", response_model=ParticipantList)
def list_participants(
    query: Annotated[ParticipantFilter, Query()],
    actor: Reader,
    request: Request,
    response: Response,
    session: ReadSession,
) -> Listed:
    """Participants of your sites, newest first."""
    page, by = Page(request, response, actor, query), narrowing(participants.FILTERS, query)
    return page.as_json(session, participants.listed(), Participant.created_at, Participant.pid, by=by)


@router.post("/lookup")
def find_participant(
    body: ParticipantLookup, actor: Finder, request: Request, session: WriteSession
) -> ParticipantRead:
    """Find a participant by the site's own label, which is never in a URL. Each look into the vault is remembered."""
    return participants.find_by_label(session, actor, request.app.state.keyring, body)


@router.get("/{pid}")
def read_participant(
    pid: Pid, actor: Reader, request: Request, response: Response, session: ReadSession
) -> ParticipantRead:
    """One participant."""
    read = participants.read_one(session, actor, pid)
    response.headers["ETag"] = etag(request.app.state.keyring, read.pid, read.version)
    return read


@router.get("/{pid}/response")
def read_response(
    pid: Pid, query: Annotated[ResponseFilter, Query()], actor: OutcomeReader, session: ReadSession
) -> ResponseList:
    """Every score against its baseline: change, response, remission and band, by the participant's protocol version."""
    items, symbols, version = outcome_summary.response_of(session, actor, pid, query.instrument)
    return ResponseList(participant=symbols, protocol_version=version, items=items)


@router.patch("/{pid}", response_model=ParticipantRead)
def amend_participant(
    pid: Pid,
    body: ParticipantAmend,
    actor: Writer,
    seen: IfMatch,
    once: OnceIfKeyed,
    request: Request,
    session: WriteSession,
) -> Response:
    """Correct what was entered at enrolment, with the reason."""

    def make() -> Made:
        return _made(*enrolment.amend_participant(session, actor, request.app.state.keyring, seen, pid, body))

    return amended(once, seen, session, actor, body, make)


@router.post("/{pid}/voiding", status_code=201, response_model=ParticipantRead)
def void_participant(
    pid: Pid,
    body: RecordVoiding,
    actor: Writer,
    seen: IfMatch,
    once: OncePerKey,
    request: Request,
    session: WriteSession,
) -> Response:
    """Let somebody who was enrolled twice, or does not exist, count no more, with the reason, and erase the site's
    label for good. Whatever was recorded after the enrolment is voided first."""
    journal = request.app.state.erasures

    def make() -> Made:
        return _made(*voided_participants.void_participant(session, actor, journal, seen, pid, body))

    return once.create(session, actor, body, make)


@router.post("/{pid}/status", status_code=201, response_model=ParticipantRead)
def change_status(pid: Pid, body: StatusChange, actor: Writer, once: OncePerKey, session: WriteSession) -> Response:
    """Move a participant along the status model, with the effective day and the reason."""
    return once.create(session, actor, body, lambda: _made(*status_changes.change_status(session, actor, pid, body)))


@router.get("/{pid}/history")
def read_participant_history(pid: Pid, actor: Reader, session: ReadSession) -> HistoryList:
    """Every change of a field or of the status, oldest first: old and new value, who, when and why."""
    person = visible_person(session, actor, pid)
    return HistoryList(items=history_of(session, person.site_id, "participant", person.row.pid))


@router.post("/{pid}/protocol-version", response_model=ParticipantRead)
def move_to_protocol_version(
    pid: Pid, body: ProtocolMove, actor: Writer, once: OncePerKey, session: WriteSession
) -> Response:
    """Move a participant to another protocol version. Visits recorded before keep the windows of the old one."""
    return once.create(session, actor, body, lambda: _made(*participants.move(session, actor, pid, body)), status=200)
