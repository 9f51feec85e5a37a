"""Reports of serious adverse events to the sponsor: numbered, never changed, each on its own clock."""

import json
from typing import Any
from uuid import UUID

from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, visible_row
from app.errors import Conflict, Fault, Invalid
from app.models.adverse_event import AdverseEvent
from app.models.base import canonical_json, now, values
from app.models.safety_report import ReportKind, SaeReport, SaeReportCreate, SaeReportRead
from app.services.participation.participants import visible_person
from app.services.safety.nullifications import require_not_nullified, require_told
from app.services.safety.sae_clocks import met_by_a_report
from app.services.unlocked import require_not_voided


class EventNotSerious(Conflict):
    """Only serious events, and those about which a monitor asked, are reported; this event is not serious."""


class InitialReportMissing(Conflict):
    """The first report of an event has kind initial, and all later ones another kind. Only one that nullifies may be
    the first, where an authority was informed before."""


class ReportsFinal(Conflict):
    """The final report of this event was sent. What is learned later goes into a follow-up, and then a final one."""


class LateReasonMissing(Invalid):
    """The report comes after its time, and does not say why."""


def report(session: Session, actor: Actor, event_id: UUID, body: SaeReportCreate) -> tuple[SaeReportRead, int]:
    """Send a report of an event as it is now; also gives the site's key.

    The event's row is held, so that two reports get two numbers and no correction slips between event and report.
    Raises NotFound, RecordVoided, EventNullified, NothingToNullify, EventNotSerious, InitialReportMissing,
    ReportsFinal, LateReasonMissing.
    """
    event = visible_row(session, actor, AdverseEvent, event_id, lock=True)
    require_not_voided(event)
    require_not_nullified(session, event)
    earlier = reports_of(session, event)
    due = [clock.due_at for clock in met_by_a_report(session, event)]
    if body.kind is ReportKind.nullification:
        require_told(session, event)
    else:
        _require_in_order(earlier, body, due=bool(due))
    at = now()
    if body.aware_at is not None:
        due.append(body.aware_at + visible_person(session, actor, event.pid).protocol.safety.sae_report_within)
    due_at = min(due)
    if at > due_at and body.late_reason is None:
        raise LateReasonMissing(Fault("/late_reason", "required", "Say why the report comes after its time"))
    row = SaeReport(
        site_id=event.site_id,
        adverse_event_id=event.id,
        number=len(earlier) + 1,
        kind=body.kind,
        event_version=event.version,
        content=canonical_json(audit.snapshot(event)),
        narrative=body.narrative,
        aware_at=body.aware_at or event.aware_at or event.created_at,
        due_at=due_at,
        late_reason=body.late_reason,
        nullification_reason=body.nullification_reason,
        submitted_by=actor.account_id,
        submitted_at=at,
    )
    session.add(row)
    event.updated_at = at  # its version stays: a report tells something new of the event, and changes nothing in it
    session.flush()
    made = audit.created("sae:reported", row, f"{event.id}/{row.number}")
    audit.append(session, actor.account_id, row.site_id, [made])
    return read(row), row.site_id


def _require_in_order(earlier: list[SaeReport], body: SaeReportCreate, *, due: bool) -> None:
    if not (earlier or due):
        raise EventNotSerious
    if bool(earlier) == (body.kind is ReportKind.initial):
        raise InitialReportMissing
    if earlier and earlier[-1].kind == body.kind == ReportKind.final:
        raise ReportsFinal


def reports_of(session: Session, event: Any) -> list[SaeReport]:
    """Oldest first. The caller has checked that the event exists for the actor."""
    theirs = select(SaeReport).where(SaeReport.site_id == event.site_id, SaeReport.adverse_event_id == event.id)
    return list(session.exec(theirs.order_by(col(SaeReport.number))))


def read(row: SaeReport) -> SaeReportRead:
    return SaeReportRead.of_row(
        values(row),
        content=json.loads(row.content),
        adverse_event=row.adverse_event_id,
        late=row.submitted_at > row.due_at,
    )
