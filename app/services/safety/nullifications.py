"""Nullification of adverse events that were reported in error: everybody who was told of one is told of the error.

The site tells the sponsor by a further report, as it does with everything that it learns after the first one (ICH
E6(R3), 2.7.2(b); E6(R2), 4.11.1). The sponsor tells the authority, and its monitor records that. A case is nullified as
a whole; if it has to be reported again, it is a new case (ICH E2B(R3), C.1.11.1).
"""

from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlmodel import Session

from app.errors import Conflict
from app.models.adverse_event import AdverseEvent
from app.models.base import table_of
from app.models.safety_report import STANDS, AeReview, ReportKind, ReviewKind, SaeReport

_EVENT, _REPORT, _REVIEW = table_of(AdverseEvent), table_of(SaeReport), table_of(AeReview)


class EventNullified(Conflict):
    """A report has nullified this event. It can only be voided now; what did happen is recorded and reported as a new
    event."""


class EventReported(Conflict):
    """The sponsor or an authority was informed of this event, and not yet of the error. Send a report of kind
    nullification; if an authority was informed, the monitor records that it was informed of the error too."""


class NothingToNullify(Conflict):
    """No report of this event was sent and no authority was informed, so it can be voided without a nullification."""


def _there(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(*conditions).correlate(_EVENT)


_SENT = and_(_REPORT.c.site_id == _EVENT.c.site_id, _REPORT.c.adverse_event_id == _EVENT.c.id)
NULLIFIES = and_(_SENT, _REPORT.c.kind == ReportKind.nullification)
"""The condition that a report nullified an event."""
_NOTICE = and_(
    _REVIEW.c.site_id == _EVENT.c.site_id,
    _REVIEW.c.adverse_event_id == _EVENT.c.id,
    _REVIEW.c.kind == ReviewKind.authority_informed,
    STANDS,
)
_OF_NULLIFICATION = and_(_REVIEW.c.reviewed_at >= _REPORT.c.submitted_at, _REVIEW.c.informed_at >= _REPORT.c.aware_at)
"""The condition that an authority's notice is about the nullification and not about the event: the authority was told
after the site saw the error (the sponsor may have heard of it by telephone), and this was recorded after the report."""

REPORTED, NULLIFIED, INFORMED = _there(_SENT), _there(NULLIFIES), _there(_NOTICE)
"""Conditions on an event: a report of it was sent; a report nullified it; an authority was informed of it."""

AUTHORITY_WAITS: ColumnElement[bool] = and_(INFORMED, ~_there(NULLIFIES, _NOTICE, _OF_NULLIFICATION))
"""The condition that an authority was informed of an event, and not yet that it was an error."""


def require_not_nullified(session: Session, event: AdverseEvent) -> None:
    """Call it once the event's row is locked. Raises EventNullified."""
    if _holds(session, event, NULLIFIED):
        raise EventNullified


def require_told(session: Session, event: AdverseEvent) -> None:
    """Raises NothingToNullify."""
    if not _holds(session, event, or_(REPORTED, INFORMED)):
        raise NothingToNullify


def require_errors_told(session: Session, event: AdverseEvent) -> None:
    """Require that everybody who was told of the event was told of the error too: the site's records must agree with
    its reports (ICH E6(R2), 4.9.1). Raises EventReported."""
    if _holds(session, event, or_(and_(REPORTED, ~NULLIFIED), AUTHORITY_WAITS)):
        raise EventReported


def _holds(session: Session, event: AdverseEvent, condition: ColumnElement[bool]) -> bool:
    of_event = _EVENT.c.site_id == event.site_id, _EVENT.c.id == event.id
    return bool(session.execute(select(condition).select_from(_EVENT).where(*of_event)).scalar_one())
