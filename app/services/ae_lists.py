"""Lists of adverse events: which are asked for, in which order, and all of them as CSV."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Date, case, func, literal, or_, select, true
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from app.access import Actor, Rows, visible
from app.database import Database
from app.models.adverse_event import AdverseEvent, AeOutcome
from app.models.adverse_event_shapes import AdverseEventFilter, AdverseEventRead, AdverseEventSort
from app.models.among import among
from app.models.base import now, table_of
from app.models.safety_report import SaeReport
from app.services import adverse_events
from app.services.csv_lines import blocks, line_of
from app.services.monitoring import unreviewed_by
from app.services.sae_clocks import overdue

LONG_AGO = date(1, 1, 1)
_ONSET = func.coalesce(AdverseEvent.onset_latest, literal(LONG_AGO, Date)).label("onset_order")
"""An unknown onset comes last."""

AT_LAST = datetime(9999, 1, 1, tzinfo=UTC)
_REPORTS, _EVENTS = table_of(SaeReport), table_of(AdverseEvent)
_SENT = (
    select(_REPORTS.c.number)
    .where(_REPORTS.c.site_id == _EVENTS.c.site_id, _REPORTS.c.adverse_event_id == _EVENTS.c.id)
    .correlate(_EVENTS)
)
"""The reports of an event."""

_DUE = func.coalesce(case((~_SENT.exists(), _EVENTS.c.due_at)), literal(AT_LAST, _EVENTS.c.due_at.type)).label(
    "due_order"
)
"""When the first report is due. Last comes what waits for none: it was sent, or only another clock has run out."""

_KEYS: dict[AdverseEventSort, Any] = {
    AdverseEventSort.due: _DUE,
    AdverseEventSort.onset: _ONSET,
    AdverseEventSort.reported: AdverseEvent.created_at,
    AdverseEventSort.updated: AdverseEvent.updated_at,
}


class Asked(NamedTuple):
    key: Any
    """The column that the list is ordered by."""

    ascending: bool
    where: list[ColumnElement[bool]]

    def of(self, rows: Rows) -> Rows:
        """Rows with what they are ordered by."""
        return rows.add_columns(self.key, col(AdverseEvent.id))


def asked(session: Session, actor: Actor, query: AdverseEventFilter) -> Asked:
    """Which events, in which order. They are still to be narrowed to sites."""
    conditions = _conditions(actor, query)
    if query.overdue is not None:
        sites = actor.sites_at(query.study, query.site)
        late = among(AdverseEvent.id, "overdue", sorted({one.event_id for one in overdue(session, sites, now())}))
        conditions.append(late if query.overdue else ~late)
    by_due = query.sort is AdverseEventSort.due
    if by_due and not query.overdue:
        conditions.append(col(AdverseEvent.due_at).is_not(None))
    return Asked(_KEYS[query.sort], by_due, conditions)


def _conditions(actor: Actor, query: AdverseEventFilter) -> list[ColumnElement[bool]]:
    ae = AdverseEvent
    plain: list[tuple[Any, Any]] = [
        (ae.pid, query.participant),
        (ae.serious, query.serious),
        (ae.severity, query.severity),
        (ae.outcome, query.outcome),
        (ae.special_interest, query.aesi),
        (ae.soc, query.soc),
    ]
    conditions = [col(column) == value for column, value in plain if value is not None]
    if query.outcome is AeOutcome.fatal:
        conditions.append(col(ae.serious) == true())  # as every death is, and serious ones have an index
    if query.relatedness is not None:
        conditions.append(
            or_(col(ae.relatedness_drug) == query.relatedness, col(ae.relatedness_therapy) == query.relatedness)
        )
    if query.term is not None:
        term = func.lower(query.term)
        conditions.append(or_(func.lower(ae.term) == term, func.lower(ae.pt) == term))
    if query.onset_from is not None:
        conditions.append(col(ae.onset_latest) >= query.onset_from)
    if query.onset_to is not None:
        conditions.append(col(ae.onset_earliest) <= query.onset_to)
    if query.updated_since is not None:
        conditions.append(col(ae.updated_at) >= query.updated_since)
    if query.unreviewed is not None:
        conditions.append(unreviewed_by(actor) if query.unreviewed else ~unreviewed_by(actor))
    if query.possible_duplicate is not None:
        conditions.append(_has_twin() if query.possible_duplicate else ~_has_twin())
    return conditions


def _has_twin() -> ColumnElement[bool]:
    """Same participant, same onset as it was given, and one name whatever its case: the verbatim term, for an entry is
    often coded before its double, or the preferred (else verbatim) one."""
    twin: Any = aliased(AdverseEvent)
    ae = AdverseEvent
    return (
        select(twin.id)
        .where(
            col(twin.site_id) == col(ae.site_id),
            col(twin.pid) == col(ae.pid),
            col(twin.id) != col(ae.id),
            or_(func.lower(twin.term) == func.lower(ae.term), _named(twin) == _named(ae)),
            col(twin.onset).is_not_distinct_from(col(ae.onset)),
        )
        .correlate(ae)
        .exists()
    )


def _named(event: Any) -> ColumnElement[str]:
    return func.lower(func.coalesce(event.pt, event.term))


COLUMNS = tuple(AdverseEventRead.model_fields)
_TYPED = frozenset({"term", "pt", "soc", "codings", "criteria", "findings"})
"""Cells that hold what somebody typed, or lists: written as JSON, so that no text is a spreadsheet formula."""


def csv_lines(database: Database, actor: Actor, query: AdverseEventFilter, wanted: Asked) -> Iterator[str]:
    """Every event that was asked for, in its order, with a head line."""
    yield line_of([COLUMNS])
    at = col(AdverseEvent.site_id).in_(actor.sites_at(query.study, query.site))
    own = visible(wanted.of(adverse_events.rows()), actor).where(*wanted.where, at)
    for rows in blocks(database, actor.clinical_sites, own, (wanted.key, AdverseEvent.id), wanted.ascending):
        reads = [adverse_events.read(row, actor).model_dump(mode="json") for row in rows]
        yield line_of([[_cell(name, read[name]) for name in COLUMNS] for read in reads])


def _cell(name: str, value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if name in _TYPED else value
