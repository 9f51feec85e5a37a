"""Outcomes."""

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from sqlmodel import Session

from app.access import Actor, requires
from app.database import ReadSession, WriteSession
from app.models.outcome import Outcome, OutcomeAmend, OutcomeCreate, OutcomeFilter, OutcomeList, OutcomeRead, Rescoring
from app.models.outcome_summary import OutcomeSummary, OutcomeSummaryQuery
from app.models.voided import RecordVoiding
from app.pagination import Page
from app.permissions import Permission
from app.services import codes_asked
from app.services.assessments import outcome_corrections, outcome_reads, outcome_summary, outcomes
from app.services.quality import voided_records
from app.site_lists import narrowing
from app.web.conditional import IfMatch, etag
from app.web.group_commit import Record, SharedWrite
from app.web.once import Made, OnceIfKeyed, OncePerKey, amended
from app.web.route import Router
from app.writing import Writes

router = Router(prefix="/v1/outcomes", tags=["outcomes"])
Reader = Annotated[Actor, Depends(requires(Permission.outcome_read))]
Writer = Annotated[Actor, Depends(requires(Permission.outcome_write))]


@router.post("", status_code=201, response_model=OutcomeRead)
async def record_outcome(
    body: OutcomeCreate, actor: Writer, once: OncePerKey, request: Request, shared: SharedWrite
) -> Response:
    """Record one administration of an instrument at a visit; the answer carries the server's scores."""
    return await shared.create(request, actor, once, body, recorder)


def recorder(_: Request, session: Session, actor: Actor, bodies: Sequence[OutcomeCreate]) -> Record:
    """The function that records one body, with the stored data of all these bodies read before."""
    facts = outcomes.outcome_facts(session, actor, bodies)
    return lambda by, body: _made(*outcomes.record_outcome(session, by, facts, body))


def _made(read: OutcomeRead, site_id: int, writes: Writes | None = None) -> Made:
    return Made(read, f"/v1/outcomes/{read.id}", (read.id, read.version), site_id, writes or Writes())


@router.get("")
def list_outcomes(
    query: Annotated[OutcomeFilter, Query()], actor: Reader, request: Request, response: Response, session: ReadSession
) -> OutcomeList:
    """Outcomes at your sites, newest first."""
    codes_asked.require_defined(session, actor, query, "visit_code")
    codes_asked.require_instrument(query.instrument)
    page, by = Page(request, response, actor, query), narrowing(outcome_reads.FILTERS, query)
    rows, after = page.of_sites(session, outcome_reads.rows(), Outcome.created_at, Outcome.id, by=by)
    return OutcomeList(items=outcome_reads.read_all(session, actor, rows), next=after)


@router.get("/summary")
def summarise_outcomes(
    query: Annotated[OutcomeSummaryQuery, Query()], actor: Reader, session: ReadSession
) -> OutcomeSummary:
    """One score by visit: n, mean, spread and interval, and the change from baseline."""
    return outcome_summary.summary(session, actor, query)


@router.get("/{outcome_id}")
def read_outcome(
    outcome_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession
) -> OutcomeRead:
    """One outcome with its items and scores."""
    read = outcome_reads.read_one(session, actor, outcome_id)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    return read


@router.post("/{outcome_id}/rescoring")
def rescore_outcome(
    outcome_id: UUID, body: Rescoring, actor: Writer, request: Request, response: Response, session: WriteSession
) -> OutcomeRead:
    """Score the stored items by the newest rules. Doing it again changes nothing."""
    read = outcome_corrections.rescore(session, actor, outcome_id, body)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    return read


@router.patch("/{outcome_id}", response_model=OutcomeRead)
def amend_outcome(
    outcome_id: UUID, body: OutcomeAmend, actor: Writer, seen: IfMatch, once: OnceIfKeyed, session: WriteSession
) -> Response:
    """Correct items, with the reason; the scores are computed again."""

    def make() -> Made:
        return _made(*outcome_corrections.amend_outcome(session, actor, seen, outcome_id, body))

    return amended(once, seen, session, actor, body, make)


@router.post("/{outcome_id}/voiding", status_code=201, response_model=OutcomeRead)
def void_outcome(
    outcome_id: UUID, body: RecordVoiding, actor: Writer, seen: IfMatch, once: OncePerKey, session: WriteSession
) -> Response:
    """Let an outcome that was entered in error count no more, with the reason. It can still be read, and is not changed
    again."""
    return once.create(
        session, actor, body, lambda: _made(*voided_records.void_outcome(session, actor, seen, outcome_id, body))
    )
