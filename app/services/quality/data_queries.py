"""Data queries of people: raised by monitors, answered by sites, closed by monitors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Place, Rows, visible, visible_row
from app.errors import Conflict, Fault, Invalid, NotFound, RegistryError
from app.models.base import columns, fields_of, values
from app.models.data_query import (
    MESSAGE_OF,
    QUERY_TRANSITIONS,
    DataQuery,
    DataQueryMessage,
    QueryAction,
    QueryOrigin,
    QueryState,
)
from app.models.data_query_shapes import (
    DataQueryAnswer,
    DataQueryClosure,
    DataQueryCreate,
    DataQueryDetail,
    DataQueryRead,
    MessageRead,
)
from app.models.participant import Participant
from app.services.quality.query_steps import opened, step
from app.services.quality.query_subjects import About, asked_about
from app.services.trail.history import names_of
from app.writing import Writes, store


class QueryTransitionImpossible(Conflict):
    """The data query is in a state that does not allow this; see errors."""


class DataQueriesRefused(Invalid):
    """Some of the data queries are refused, so none was stored; see errors."""


def raise_query(session: Session, actor: Actor, asked: DataQueryCreate) -> tuple[DataQueryDetail, int]:
    """Ask about a record; also gives the site's key. Raises NotFound, VisitUnknown, VisitNotMissing, FieldUnknown."""
    row = _stored(session, actor, asked, asked_about(session, actor, asked))
    _ask(session, [row])
    return _detail(session, actor, row), row.site_id


def raise_queries(session: Session, actor: Actor, asked: Sequence[DataQueryCreate]) -> list[DataQueryRead]:
    """Ask about many records, all or nothing. Raises NotFound when one of them does not exist for the actor, and
    else DataQueriesRefused, with every fault under the place of its query."""
    about, refused = _checked(session, actor, asked)
    if refused:
        faults = [fault for index, error in refused.items() for fault in _at(index, error)]
        absent = any(isinstance(error, NotFound) for error in refused.values())
        raise (NotFound if absent else DataQueriesRefused)(*faults)
    rows = [_stored(session, actor, *one) for one in zip(asked, about, strict=True)]
    _ask(session, rows)
    return [_read(values(row), actor.places[row.site_id]) for row in rows]


def require_seen(session: Session, actor: Actor, asked: Sequence[DataQueryCreate]) -> None:
    """Raises NotFound when somebody who is asked about does not exist for the actor."""
    people = {one.participant for one in asked}
    statement = visible(select(Participant.pid).where(col(Participant.pid).in_(people)), actor)
    if set(session.exec(statement)) != people:
        raise NotFound


def _checked(
    session: Session, actor: Actor, asked: Sequence[DataQueryCreate]
) -> tuple[list[About], dict[int, RegistryError]]:
    about: list[About] = []
    refused: dict[int, RegistryError] = {}
    for index, one in enumerate(asked):
        try:
            about.append(asked_about(session, actor, one))
        except RegistryError as error:
            refused[index] = error
    return about, refused


def _at(index: int, error: RegistryError) -> Iterable[Fault]:
    """The faults of one of many, under its place."""
    faults = error.faults or [Fault("", error.code(), error.detail())]
    return [Fault(f"/{index}{fault.pointer}", fault.code, fault.message) for fault in faults]


def _stored(session: Session, actor: Actor, asked: DataQueryCreate, about: About) -> DataQuery:
    row = DataQuery(
        site_id=about.site_id,
        pid=asked.participant,
        subject_id=asked.subject,
        origin=QueryOrigin.monitor,
        opened_by=actor.account_id,
        field=about.field,
        **asked.model_dump(include={"subject_type", "visit_code", "occurrence", "text"}),
    )
    row.open_since = row.updated_at = row.opened_at
    session.add(row)
    session.flush()
    return row


def _ask(session: Session, rows: Iterable[DataQuery]) -> None:
    writes = Writes()
    opened(session, writes, [values(row) for row in rows])
    store(session, writes)


def answer_query(session: Session, actor: Actor, query_id: UUID, body: DataQueryAnswer) -> tuple[DataQueryDetail, int]:
    """Answer an open query, as its site; also gives the site's key. Raises NotFound, QueryTransitionImpossible."""
    return _moved(session, actor, query_id, QueryAction.answer, body.text)


def decide_query(session: Session, actor: Actor, query_id: UUID, body: DataQueryClosure) -> tuple[DataQueryDetail, int]:
    """Close, re-open or cancel; also gives the site's key. Raises NotFound, QueryTransitionImpossible."""
    return _moved(session, actor, query_id, QueryAction(body.decision), body.reason)


def _moved(
    session: Session, actor: Actor, query_id: UUID, action: QueryAction, text: str
) -> tuple[DataQueryDetail, int]:
    row = visible_row(session, actor, DataQuery, query_id, lock=True)
    state = QueryState(row.state)
    to = QUERY_TRANSITIONS[state].get(action)
    if to is None:
        pointer = "" if action is QueryAction.answer else "/decision"
        message = f"A data query that is {state} has no transition: {action}"
        raise QueryTransitionImpossible(Fault(pointer, "impossible", message), state=state, action=action)
    event = step(session, row, audit.snapshot(row), to, (MESSAGE_OF[action], text), actor.account_id)
    audit.append(session, actor.account_id, row.site_id, [event])
    return _detail(session, actor, row), row.site_id


def detail(session: Session, actor: Actor, query_id: UUID) -> DataQueryDetail:
    """One query with all that was said. Raises NotFound."""
    return _detail(session, actor, visible_row(session, actor, DataQuery, query_id))


def _detail(session: Session, actor: Actor, row: DataQuery) -> DataQueryDetail:
    said = select(DataQueryMessage).where(DataQueryMessage.site_id == row.site_id, DataQueryMessage.query_id == row.id)
    messages = session.exec(said.order_by(col(DataQueryMessage.number))).all()
    names = names_of(session, {str(message.author) for message in messages if message.author})
    shown = [MessageRead.of_row(values(message), author_name=names.get(str(message.author))) for message in messages]
    fields = values(row)
    return DataQueryDetail.of_row(fields, **_made(fields, actor.places[row.site_id]), messages=shown)


def rows() -> Rows:
    """Data queries; narrow it with `visible`."""
    return sa.select(*columns(DataQuery))


def read(row: Row[Any], actor: Actor) -> DataQueryRead:
    return _read(fields_of(row), actor.places[row.site_id])


def _read(values: Mapping[str, Any], place: Place) -> DataQueryRead:
    return DataQueryRead.of_row(values, **_made(values, place))


def _made(values: Mapping[str, Any], place: Place) -> dict[str, Any]:
    return {
        "participant": values["pid"],
        "study": place.study,
        "site": place.site,
        "subject": values["subject_id"],
    }
