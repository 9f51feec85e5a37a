"""Data queries: questions of monitors and rules about records, answered by the sites."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from sqlmodel import col

from app.access import Actor, narrowed, requires, visible
from app.database import ReadSession, WriteSession
from app.models.base import now
from app.models.data_query import PENDING, DataQuery
from app.models.data_query_shapes import (
    DataQueriesRaised,
    DataQueryAnswer,
    DataQueryBulk,
    DataQueryClosure,
    DataQueryCreate,
    DataQueryDetail,
    DataQueryFilter,
    DataQueryList,
)
from app.pagination import Page
from app.permissions import Permission
from app.services.quality import data_queries
from app.web.conditional import etag
from app.web.once import Made, OncePerKey
from app.web.route import Router

router = Router(prefix="/v1/data-queries", tags=["data queries"])
Reader = Annotated[Actor, Depends(requires(Permission.data_query_read))]
Raiser = Annotated[Actor, Depends(requires(Permission.data_query_raise))]
Answerer = Annotated[Actor, Depends(requires(Permission.data_query_answer))]


@router.post("", status_code=201, response_model=DataQueryDetail)
def raise_data_query(body: DataQueryCreate, actor: Raiser, once: OncePerKey, session: WriteSession) -> Response:
    """Ask a site about a record, one of its fields, or a missing visit."""
    return once.create(session, actor, body, lambda: _made(*data_queries.raise_query(session, actor, body)))


@router.post("/bulk", status_code=201, response_model=DataQueriesRaised)
def raise_data_queries(body: DataQueryBulk, actor: Raiser, once: OncePerKey, session: WriteSession) -> Response:
    """Ask up to 200 questions at once, all or nothing."""

    def make() -> Made:
        raised = DataQueriesRaised(items=data_queries.raise_queries(session, actor, body.root))
        return Made(raised, "/v1/data-queries")

    return once.create(session, actor, body, make, seen=lambda: data_queries.require_seen(session, actor, body.root))


def _made(read: DataQueryDetail, site_id: int) -> Made:
    return Made(read, f"/v1/data-queries/{read.id}", (read.id, read.version), site_id)


@router.get("")
def list_data_queries(
    query: Annotated[DataQueryFilter, Query()],
    actor: Reader,
    request: Request,
    response: Response,
    session: ReadSession,
) -> DataQueryList:
    """Data queries at your sites, newest first."""
    statement = narrowed(
        visible(data_queries.rows(), actor).where(col(DataQuery.site_id).in_(actor.sites_at(query.study, query.site))),
        (DataQuery.pid, query.participant),
        (DataQuery.state, query.state),
        (DataQuery.origin, query.origin),
        (DataQuery.rule, query.rule),
        (DataQuery.subject_type, query.subject_type),
        (DataQuery.subject_id, query.subject),
    )
    if query.older_than_days is not None:
        since = now() - timedelta(days=query.older_than_days)
        statement = statement.where(col(DataQuery.state).in_(sorted(PENDING)), col(DataQuery.open_since) < since)
    rows, after = Page(request, response, actor, query).read(session, statement, DataQuery.opened_at, DataQuery.id)
    return DataQueryList(items=[data_queries.read(row, actor) for row in rows], next=after)


@router.get("/{query_id}")
def read_data_query(
    query_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession
) -> DataQueryDetail:
    """One data query with all that was said on it."""
    read = data_queries.detail(session, actor, query_id)
    response.headers["ETag"] = etag(request.app.state.keyring, read.id, read.version)
    return read


@router.post("/{query_id}/answers", status_code=201, response_model=DataQueryDetail)
def answer_data_query(
    query_id: UUID, body: DataQueryAnswer, actor: Answerer, once: OncePerKey, session: WriteSession
) -> Response:
    """Answer an open data query. Correct the record itself by its own route."""
    return once.create(session, actor, body, lambda: _made(*data_queries.answer_query(session, actor, query_id, body)))


@router.post("/{query_id}/closure", status_code=201, response_model=DataQueryDetail)
def decide_data_query(
    query_id: UUID, body: DataQueryClosure, actor: Raiser, once: OncePerKey, session: WriteSession
) -> Response:
    """Close an answered data query, open it again, or cancel it."""
    return once.create(session, actor, body, lambda: _made(*data_queries.decide_query(session, actor, query_id, body)))
