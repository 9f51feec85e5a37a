"""Lists of adverse events: which are asked for, in which order, and all of them as CSV."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Date,
    Row,
    String,
    and_,
    bindparam,
    case,
    false,
    func,
    literal,
    or_,
    select,
    true,
)
from sqlalchemy.orm import aliased
from sqlmodel import Session, col

from app.access import Actor, visible
from app.database import Database
from app.models.adverse_event import AdverseEvent, AeOutcome
from app.models.adverse_event_shapes import AdverseEventDetail, AdverseEventFilter, AdverseEventSort
from app.models.among import among
from app.models.base import now, table_of
from app.models.voided import counts
from app.services import codes_asked
from app.services.csv_lines import blocks, lines_of
from app.services.dosing.exposure import Exposure, exposures
from app.services.quality.monitoring import unreviewed_by
from app.services.safety import adverse_events
from app.services.safety.sae_clocks import has_report, overdue
from app.site_lists import Filters, Narrowing, narrowing

LONG_AGO = date(1, 1, 1)
_ONSET = func.coalesce(AdverseEvent.onset_latest, literal(LONG_AGO, Date)).label("onset_order")
"""An unknown onset comes last."""

AT_LAST = datetime(9999, 1, 1, tzinfo=UTC)
_EVENTS = table_of(AdverseEvent)
_DUE = func.coalesce(case((~has_report(), _EVENTS.c.due_at)), literal(AT_LAST, _EVENTS.c.due_at.type)).label(
    "due_order"
)
"""When the first report is due. Last comes what waits for none: it was sent, or only another clock has run out."""

_KEYS: dict[AdverseEventSort, Any] = {
    AdverseEventSort.due: _DUE,
    AdverseEventSort.onset: _ONSET,
    AdverseEventSort.reported: AdverseEvent.created_at,
    AdverseEventSort.updated: AdverseEvent.updated_at,
}


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
            counts(twin),
            or_(func.lower(twin.term) == func.lower(ae.term), _named(twin) == _named(ae)),
            col(twin.onset).is_not_distinct_from(col(ae.onset)),
        )
        .correlate(ae)
        .exists()
    )


def _named(event: Any) -> ColumnElement[str]:
    return func.lower(func.coalesce(event.pt, event.term))


def _either(condition: ColumnElement[bool]) -> dict[bool, ColumnElement[bool]]:
    return {True: condition, False: ~condition}


_SERIOUS = col(AdverseEvent.serious) == true()
_OUTCOME = col(AdverseEvent.outcome) == bindparam("outcome")
_TERM = func.lower(bindparam("term", type_=String))
_RELATED: BindParameter[str] = bindparam("relatedness")
FILTERS: Filters = {
    "participant": col(AdverseEvent.pid) == bindparam("participant"),
    "serious": {True: _SERIOUS, False: col(AdverseEvent.serious) == false()},
    "severity": col(AdverseEvent.severity) == bindparam("severity"),
    "relatedness": or_(
        col(AdverseEvent.relatedness_drug) == _RELATED, col(AdverseEvent.relatedness_therapy) == _RELATED
    ),
    # every death is serious, and serious ones have an index
    "outcome": {one: and_(_OUTCOME, _SERIOUS) if one is AeOutcome.fatal else _OUTCOME for one in AeOutcome},
    "aesi": col(AdverseEvent.special_interest) == bindparam("aesi"),
    "term": or_(func.lower(AdverseEvent.term) == _TERM, func.lower(AdverseEvent.pt) == _TERM),
    "soc": col(AdverseEvent.soc) == bindparam("soc"),
    "onset_from": col(AdverseEvent.onset_latest) >= bindparam("onset_from"),
    "onset_to": col(AdverseEvent.onset_earliest) <= bindparam("onset_to"),
    "updated_since": col(AdverseEvent.updated_at) >= bindparam("updated_since"),
    "overdue": _either(among(AdverseEvent.id, "late")),
    "unreviewed": _either(unreviewed_by(bindparam("reviewer"))),
    "possible_duplicate": _either(_has_twin()),
    "voided": {False: counts(AdverseEvent), True: ~counts(AdverseEvent)},
}
_WAITS_FOR_REPORT = col(AdverseEvent.due_at).is_not(None)


class Asked(NamedTuple):
    sites: list[int]
    key: Any
    """The column that the list is ordered by."""

    ascending: bool
    by: Narrowing


def asked(session: Session, actor: Actor, query: AdverseEventFilter) -> Asked:
    """Which events, in which order. They are still to be narrowed to the sites. Raises NotFound, ValidationFailed."""
    codes_asked.require_defined(session, actor, query, "aesi")
    where, given = narrowing(FILTERS, query)
    more: dict[str, Any] = {"reviewer": actor.account_id}
    sites = actor.sites_at(query.study, query.site)
    if query.overdue is not None:
        more["late"] = sorted({one.event_id for one in overdue(session, sites, now())})
    by_due = query.sort is AdverseEventSort.due
    if by_due and not query.overdue:
        where = (*where, _WAITS_FOR_REPORT)
    return Asked(sites, _KEYS[query.sort], by_due, Narrowing(where, {**given, **more}))


def beside_doses(session: Session, actor: Actor, rows: Sequence[Row[Any]]) -> list[AdverseEventDetail]:
    """A page of events, and how they lie to the doses."""
    seen = exposures(session, sorted({row.site_id for row in rows}), {row.pid for row in rows})
    return [adverse_events.beside_doses(row, actor, seen) for row in rows]


COLUMNS = tuple(AdverseEventDetail.model_fields)
_TYPED = frozenset({"term", "pt", "soc", "codings", "criteria", "findings", "voiding_reason"})
"""Cells that hold what somebody typed, or lists: written as JSON, so that no text is a spreadsheet formula."""


def csv_lines(database: Database, actor: Actor, wanted: Asked, seen: Mapping[str, Exposure]) -> Iterator[str]:
    """Every event that was asked for, in its order, with a head line; and how it lies to the doses, which `seen` has of
    everybody at the sites."""
    yield lines_of([COLUMNS])
    at = col(AdverseEvent.site_id).in_(wanted.sites)
    every = adverse_events.rows().add_columns(wanted.key, col(AdverseEvent.id))
    own = visible(every, actor).where(*wanted.by.where, at).params(wanted.by.given)
    for rows in blocks(database, actor.clinical_sites, own, (wanted.key, AdverseEvent.id), wanted.ascending):
        reads = [adverse_events.beside_doses(row, actor, seen).model_dump(mode="json") for row in rows]
        yield lines_of([[_cell(name, read[name]) for name in COLUMNS] for read in reads])


def _cell(name: str, value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if name in _TYPED else value
