"""What the registry is compared with: bare endpoints as floors, and the same work in idiomatic SQLModel.

They are served like the registry, over the same database. The idiomatic endpoints are written as most code is: a
session with its defaults, model objects for every row, `response_model`.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from sqlalchemy import Engine
from sqlmodel import Session, col, create_engine, select

from app import audit
from app.access import Actor, _claims, requires
from app.main import create_app
from app.models.adverse_event import CRITERIA, AdverseEvent
from app.models.adverse_event_shapes import AdverseEventList, AdverseEventRead, SeriousnessCriteria
from app.models.audit import AuditChain, AuditEntry
from app.models.base import canonical_json, now
from app.models.idempotency import IdempotencyRecord
from app.models.participant import Participant
from app.models.visit import Visit, VisitCreate, VisitRead
from app.permissions import Permission
from app.web.route import StrictRoute

router = APIRouter(prefix="/floor", route_class=StrictRoute)
idiomatic = APIRouter(prefix="/floor/idiomatic")
"""With FastAPI's own route class, as most code has it."""

Signed = Annotated[Actor, Depends(requires(Permission.me_read))]
Checked = Depends(_claims)
Author = Annotated[Actor, Depends(requires(Permission.visit_write))]


def create_floor() -> FastAPI:
    """The registry's own application with the floors added: same settings, same handlers, same frame."""
    app = create_app()
    app.state.plain_engine = _plain_engine(app)
    app.include_router(router)
    app.include_router(idiomatic)
    return app


def _plain_engine(app: FastAPI) -> Engine:
    """On SQLite the registry's engine (a second writer would only fight it), else one as the tables' owner, whom no
    row-level security holds, with a connection for each client: SQLAlchemy's default of five would open and close the
    others all the time."""
    database = app.state.database
    if database.is_sqlite:
        writing: Engine = database._writing
        return writing
    settings = app.state.settings
    return create_engine(settings.owner_database_url or settings.database_url, pool_size=16)


def _plain_session(request: Request) -> Iterator[Session]:
    with Session(request.app.state.plain_engine) as session:
        yield session


Plain = Annotated[Session, Depends(_plain_session, scope="function")]


@router.get("/bare")
async def bare() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/token", dependencies=[Checked])
async def token() -> dict[str, str]:
    """The bare endpoint with the signature checked, nothing looked up."""
    return {"status": "ok"}


@router.get("/actor")
def actor(signed: Signed) -> dict[str, str]:
    """The bare endpoint behind the registry's whole sign-in: token, account, grants."""
    return {"status": str(signed.permission)}


@router.post("/validated", status_code=201, dependencies=[Checked])
def validated(body: VisitCreate) -> dict[str, str]:
    """A visit, token checked and validated, and not stored."""
    return {"visit_code": body.visit_code}


@idiomatic.post("/visits", status_code=201, response_model=VisitRead)
def idiomatic_visit(body: VisitCreate, author: Author, request: Request, session: Plain) -> dict[str, Any]:
    """A visit, its audit entry, chain head and idempotency record as four model objects and one commit."""
    person = session.exec(
        select(Participant).where(Participant.pid == body.participant, col(Participant.site_id).in_(author.site_ids))
    ).one()
    visit = Visit(
        site_id=person.site_id,
        pid=person.pid,
        created_by=author.account_id,
        **body.model_dump(include={"visit_code", "occurrence", "occurred_on", "status"}),
    )
    session.add(visit)
    session.flush()
    _idiomatic_audit(session, author, visit)
    session.add(
        IdempotencyRecord(
            account_id=author.account_id,
            key_digest=request.headers["idempotency-key"].replace("-", ""),
            request_digest="",
            status=201,
            body=visit.model_dump_json(),
        )
    )
    session.commit()
    session.refresh(visit)
    shown = {name: getattr(visit, name) for name in VisitRead.model_fields if hasattr(visit, name)}
    return shown | {"participant": visit.pid, "study": "bench", "site": "bench", "findings": []}


def _idiomatic_audit(session: Session, author: Actor, visit: Visit) -> None:
    chain = session.get(AuditChain, visit.site_id, with_for_update=True)
    if chain is None:
        chain = AuditChain(site_id=visit.site_id, hash=audit.GENESIS)
        session.add(chain)
        session.flush()
    event = audit.created("visit:recorded", visit, visit.id)
    entry: dict[str, Any] = {
        "site_id": visit.site_id,
        "seq": chain.seq + 1,
        "at": now(),
        "actor": str(author.account_id),
        "action": event.action,
        "subject_type": event.subject_type,
        "subject_id": event.subject_id,
        "subject_version": 1,
        "changes": canonical_json(event.changes),
        "reason": None,
        "request_id": None,
        "previous_hash": chain.hash,
    }
    session.add(AuditEntry(**entry, hash=audit.entry_hash(entry)))
    session.flush()  # before the head moves: the database lets it move to an entry only
    chain.seq, chain.hash = chain.seq + 1, audit.entry_hash(entry)


@idiomatic.get("/adverse-events")
def idiomatic_events(author: Author, session: Plain) -> AdverseEventList:
    """A page of 50 serious events of one site as model objects."""
    statement = select(AdverseEvent).where(AdverseEvent.site_id == min(author.site_ids), col(AdverseEvent.serious))
    page = session.exec(statement.order_by(col(AdverseEvent.created_at).desc(), col(AdverseEvent.id).desc()).limit(50))
    return AdverseEventList(items=[_read(event) for event in page], next=None)


_COLUMNS = AdverseEventRead.model_fields.keys() & AdverseEvent.model_fields.keys() - {"codings", "findings"}


def _read(event: AdverseEvent) -> AdverseEventRead:
    return AdverseEventRead(
        participant=event.pid,
        study="bench",
        site="bench",
        codings=[],
        findings=[],
        reported_at=None,  # one join less than the measured route makes
        criteria=SeriousnessCriteria(**{name: getattr(event, name) for name in CRITERIA}),
        **{name: getattr(event, name) for name in _COLUMNS},
    )
