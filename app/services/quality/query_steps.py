"""What happens to a data query, by people and by rules alike: a message, a change of state, an audit event."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlmodel import Session

from app import audit
from app.models.base import new_row, now
from app.models.data_query import DataQuery, DataQueryMessage, MessageKind, QueryState
from app.models.notification import EventType, SubjectType
from app.services.notifications.outbox import add_notifications, notify_of
from app.writing import Writes

_ENDED = frozenset({QueryState.closed, QueryState.cancelled})
_TOLD: Mapping[MessageKind, EventType] = {
    MessageKind.answered: EventType.data_query_answered,
    MessageKind.reopened: EventType.data_query_opened,
}


def opened(session: Session, writes: Writes, queries: Sequence[Mapping[str, Any]]) -> None:
    """What each question says first, told to whoever subscribed, and remembered. The rows of DataQuery are stored
    already, or with these writes."""
    at_site: dict[int, list[UUID]] = defaultdict(list)
    for query in queries:
        said = {"site_id": query["site_id"], "query_id": query["id"], "number": 1, "kind": MessageKind.opened}
        said |= {"author": query["opened_by"], "at": query["opened_at"], "text": query["text"]}
        writes.add(DataQueryMessage, new_row(DataQueryMessage, said))
        event = audit.recorded("data-query:opened", DataQuery, query, query["id"])
        writes.remember(query["opened_by"] or audit.SYSTEM, query["site_id"], event)
        at_site[query["site_id"]].append(query["id"])
    for site_id, ids in at_site.items():
        add_notifications(session, writes, EventType.data_query_opened, site_id, SubjectType.data_query, ids)


def step(
    session: Session,
    row: DataQuery,
    before: Mapping[str, Any],
    state: QueryState,
    said: tuple[MessageKind, str],
    author: UUID | None,
) -> audit.Event:
    """Move a query, held for update, to a state, with what was said; `before` is its snapshot."""
    kind, text = said
    at = now()
    if row.state == QueryState.closed:
        row.open_since = at
    if kind is MessageKind.answered:
        row.answered_at = at
    row.state, row.closed_at = state, at if state in _ENDED else None
    row.version, row.updated_at = row.version + 1, at
    _say(session, row, kind, text, author)
    if kind in _TOLD:
        notify_of(session, _TOLD[kind], row.site_id, SubjectType.data_query, row.id)
    event = audit.changed(f"data-query:{kind}", row, row.id, row.version, before, None)
    return replace(event, changes=[*event.changes, {"field": f"messages.{row.version}", "old": None, "new": text}])


def _say(session: Session, row: DataQuery, kind: MessageKind, text: str, author: UUID | None) -> None:
    session.add(
        DataQueryMessage(
            site_id=row.site_id,
            query_id=row.id,
            number=row.version,
            kind=kind,
            author=author,
            at=row.updated_at,
            text=text,
        )
    )
    session.flush()
