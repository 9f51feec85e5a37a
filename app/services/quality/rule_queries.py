"""Data queries that rules raise and close, in the transaction of the write that gives the reason.

There is one query for each rule, record and detail found. It opens again if the reason had ended and came back; one
that a monitor closed or cancelled stays so while the reason lasts.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from sqlmodel import Session, col, select

from app import audit
from app.models.adverse_event import AdverseEvent
from app.models.base import from_json, new_row, now, table_of
from app.models.data_query import (
    PENDING,
    DataQuery,
    MessageKind,
    QueryOrigin,
    QueryState,
    SubjectType,
)
from app.models.dosing_session import DosingSession
from app.models.outcome import Outcome
from app.models.participant import Participant
from app.models.visit import Visit
from app.services.quality.query_steps import opened, step
from app.writing import Writes, store, upsert

_QUERIES = table_of(DataQuery)
_TYPES: Mapping[type, SubjectType] = {
    AdverseEvent: SubjectType.adverse_event,
    Participant: SubjectType.participant,
    Visit: SubjectType.visit,
}
_AT_ONCE = 500
VITALS_MISSING = "vitals_missing"
"""A rule of `rules_over_time` about a dosing session. It is no finding of a dose or reading, so a write of these does
not close its query."""


class Doubt(NamedTuple):
    """What a rule found in one record, or found missing."""

    rule: str
    message: str
    pid: str
    subject_type: SubjectType
    subject_id: UUID | None = None
    visit_code: str | None = None
    occurrence: int | None = None
    field: str | None = None
    detail: str | None = None
    """Distinguishes two results of the same rule in one record."""

    @property
    def key(self) -> str:
        """The key of the data query: the same for the same reason on the same record, whenever it is found."""
        record = (self.subject_id,) if self.subject_id else (self.pid, self.visit_code, self.occurrence)
        return ":".join(str(part) for part in (self.rule, *record, self.detail) if part is not None)


def doubts_of(subject: SubjectType, pid: str, subject_id: UUID | None, findings: Iterable[Any]) -> list[Doubt]:
    """The findings stored with a record, as doubts."""
    return [
        Doubt(finding["code"], finding["message"], pid, subject, subject_id, field=finding["field"])
        for finding in findings
    ]


def doubts_of_session(pid: str, session_id: UUID, parts: Iterable[tuple[str, UUID, Iterable[Any]]]) -> list[Doubt]:
    """The findings of a dosing session as doubts. Each of `parts` is a list (`/doses` or `/vitals`), an id in it and
    the findings there."""
    return [
        Doubt(
            finding["code"],
            finding["message"],
            pid,
            SubjectType.dosing_session,
            session_id,
            field=f"{place}/{part}{finding['field']}",
            detail=f"{part}{finding['field']}",
        )
        for place, part, findings in parts
        for finding in findings
    ]


class Turned(NamedTuple):
    """The reasons that are new, and the keys of those that have ended."""

    came: list[Doubt]
    gone: set[str]


class Judged(NamedTuple):
    """Records judged again: the audit events of those whose findings changed, and what turned for data queries."""

    events: list[audit.Event]
    turned: list[Turned]


NOTHING = Judged([], [])


def together(*judged: Judged) -> Judged:
    return Judged([event for one in judged for event in one.events], [turn for one in judged for turn in one.turned])


def gone_with(session: Session, row: AdverseEvent | DosingSession | Outcome | Participant | Visit) -> Turned:
    """A voided record: all reasons on it have ended, with a participant also those on visits that were missing."""
    holding = select(DataQuery.rule_key).where(
        DataQuery.site_id == row.site_id, DataQuery.pid == row.pid, _QUERIES.c.rule_holds
    )
    if not isinstance(row, Participant):
        holding = holding.where(DataQuery.subject_id == row.id)
    return Turned([], {key for key in session.exec(holding) if key is not None})


def turned_in_session(session: Session, row: DosingSession, parts: Iterable[tuple[str, UUID, Iterable[Any]]]) -> Turned:
    """How the findings of all doses and vital signs of a dosing session differ from the data queries on it."""
    has = doubts_of_session(row.pid, row.id, parts)
    holding = select(DataQuery.rule_key).where(
        DataQuery.site_id == row.site_id,
        DataQuery.subject_type == SubjectType.dosing_session,
        DataQuery.subject_id == row.id,
        DataQuery.rule != VITALS_MISSING,
        _QUERIES.c.rule_holds,
    )
    had = {key for key in session.exec(holding) if key is not None}
    return Turned([doubt for doubt in has if doubt.key not in had], had - {doubt.key for doubt in has})


def turned(
    subject: SubjectType, pid: str, subject_id: UUID | None, before: Iterable[Any], after: Iterable[Any]
) -> Turned:
    """How a record's findings changed: which are new and which have ended."""
    had = {doubt.key for doubt in doubts_of(subject, pid, subject_id, before)}
    has = doubts_of(subject, pid, subject_id, after)
    return Turned([doubt for doubt in has if doubt.key not in had], had - {doubt.key for doubt in has})


def follow(
    session: Session, row: AdverseEvent | Participant | Visit, before: Sequence[Any] = (), *others: Turned
) -> None:
    """Raise and close queries after a record's findings changed; `before` are its earlier findings, `others` changes of
    other records by the same write. Without a change it makes no query. Call it just before the record's own audit
    entry: data queries are always locked before the head of the audit chain, so none may be waited for while the head
    is locked."""
    subject_id = None if isinstance(row, Participant) else row.id
    own = turned(_TYPES[type(row)], row.pid, subject_id, before, from_json(row.findings))
    settle_all(session, row.site_id, own, *others)


def settle_all(session: Session, site_id: int, *turns: Turned) -> int:
    """`settle` for several changes together, so that all data queries are locked before the head of the audit chain."""
    return settle(session, site_id, *merged(turns))


def merged(turns: Sequence[Turned]) -> Turned:
    return Turned([doubt for one in turns for doubt in one.came], {key for one in turns for key in one.gone})


def raise_for_new(
    session: Session, writes: Writes, model: type[AdverseEvent | Participant | Visit], row: Mapping[str, Any]
) -> None:
    """Add the queries about a new record to the rows stored with it. There cannot be earlier ones."""
    doubts = doubts_of(_TYPES[model], row["pid"], row.get("id"), from_json(row["findings"]))
    queries = [_query(row["site_id"], doubt) for doubt in doubts]
    writes.add(DataQuery, *queries)
    opened(session, writes, queries)


def _query(site_id: int, doubt: Doubt) -> dict[str, Any]:
    asked = {name: value for name, value in doubt._asdict().items() if name not in {"message", "detail"}}
    by_rule = {"origin": QueryOrigin.rule, "rule_key": doubt.key, "rule_holds": True}
    instants = dict.fromkeys(("opened_at", "open_since", "updated_at"), now())
    return new_row(DataQuery, {"site_id": site_id, "text": doubt.message, **by_rule, **asked, **instants})


def settle(
    session: Session,
    site_id: int,
    came: Iterable[Doubt],
    gone: Collection[str],
    read: Mapping[str, int] | None = None,
) -> int:
    """Raise queries for new reasons and close those of reasons that ended; gives the number of queries that changed. It
    is idempotent.

    A caller that compared records and queries without locking them gives in `read` the version of each query by its
    key: a query that changed since is left as it is."""
    writes = Writes()
    settled(session, writes, site_id, came, gone, read)
    if writes.told:
        store(session, writes)
    return len(writes.told[site_id])


def settled(
    session: Session,
    writes: Writes,
    site_id: int,
    came: Iterable[Doubt],
    gone: Collection[str],
    read: Mapping[str, int] | None = None,
) -> None:
    """The same for a request that collects its writes: the audit events are added to them."""
    found = {doubt.key: doubt for doubt in came}
    asked = sorted({*found, *gone})
    for start in range(0, len(asked), _AT_ONCE):
        keys = asked[start : start + _AT_ONCE]
        known = {str(row.rule_key): row for row in _held(session, site_id, keys)}
        new = [_query(site_id, found[key]) for key in keys if key in found and key not in known]
        opened(session, writes, _raised(session, new))
        for key, row in known.items():
            if row.rule_holds != (key in found) and (read is None or read.get(key) == row.version):
                writes.remember(audit.SYSTEM, site_id, _turned(session, row, found.get(key)))


def _held(session: Session, site_id: int, keys: Sequence[str]) -> Sequence[DataQuery]:
    """Lock the data queries with these keys, always in the same order, so that two writers cannot deadlock."""
    statement = select(DataQuery).where(DataQuery.site_id == site_id, col(DataQuery.rule_key).in_(keys))
    return session.exec(statement.order_by(col(DataQuery.rule_key)).with_for_update()).all()


def _raised(session: Session, new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Store the new queries; gives those that no other worker has stored meanwhile."""
    if not new:
        return []
    insert = upsert(session, _QUERIES).on_conflict_do_nothing().returning(_QUERIES.c.id)
    stored = set(session.execute(insert, new).scalars())
    return [query for query in new if query["id"] in stored]


def _turned(session: Session, row: DataQuery, doubt: Doubt | None) -> audit.Event:
    before, state = audit.snapshot(row), QueryState(row.state)
    row.rule_holds = doubt is not None
    if doubt is None and state in PENDING:
        return step(session, row, before, QueryState.closed, (MessageKind.closed, "The reason is gone."), None)
    if doubt is not None and state is QueryState.closed:
        return step(session, row, before, QueryState.open, (MessageKind.reopened, doubt.message), None)
    session.flush()
    action = "data-query:reason-came" if doubt else "data-query:reason-gone"
    return audit.changed(action, row, row.id, row.version, before, None)
