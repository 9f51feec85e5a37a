"""Events that were told outside and never were: the site nullifies them, and everybody who was told hears of that.

The site tells the sponsor by a report, as all that it learns after the first one (ICH E6(R3), 2.7.2(b); E6(R2),
4.11.1). An authority hears it from the sponsor, whose monitor records that. A case is nullified as a whole, and comes
back as a new one only (ICH E2B(R3), C.1.11.1).
"""

from sqlalchemy import ColumnElement, and_, exists, or_, select
from sqlmodel import Session

from app.errors import Conflict
from app.models.adverse_event import AdverseEvent
from app.models.base import table_of
from app.models.safety_report import STANDS, AeReview, ReportKind, ReviewKind, SaeReport

_EVENT, _REPORT, _REVIEW = table_of(AdverseEvent), table_of(SaeReport), table_of(AeReview)


class EventNullified(Conflict):
    """A report has nullified this event: it is voided, and nothing else is said of it. What was right after all is
    recorded and reported anew."""


class EventReported(Conflict):
    """Somebody outside was told of this event and not yet that it never was: the sponsor hears it by a report of kind
    nullification, an authority that was informed by the sponsor, whose monitor records it."""


class NothingToNullify(Conflict):
    """No report of this event was sent and no authority was informed, so there is nothing to take back: void it."""


def _there(*conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(*conditions).correlate(_EVENT)


_SENT = and_(_REPORT.c.site_id == _EVENT.c.site_id, _REPORT.c.adverse_event_id == _EVENT.c.id)
_NULLIFIES = and_(_SENT, _REPORT.c.kind == ReportKind.nullification)
_NOTICE = and_(
    _REVIEW.c.site_id == _EVENT.c.site_id,
    _REVIEW.c.adverse_event_id == _EVENT.c.id,
    _REVIEW.c.kind == ReviewKind.authority_informed,
    STANDS,
)
_OF_IT = and_(_REVIEW.c.reviewed_at >= _REPORT.c.submitted_at, _REVIEW.c.informed_at >= _REPORT.c.aware_at)
"""An authority was told of the nullification, and not of the event: after the site saw the error, which the sponsor
may have heard by telephone, and recorded since the report came."""

REPORTED, NULLIFIED, INFORMED = _there(_SENT), _there(_NULLIFIES), _there(_NOTICE)
"""Of an event: a report of it was sent; one that nullifies it; an authority was informed."""

AUTHORITY_WAITS: ColumnElement[bool] = and_(INFORMED, ~_there(_NULLIFIES, _NOTICE, _OF_IT))
"""Of an event: an authority was informed of it, and not that it never was."""


def require_not_nullified(session: Session, event: AdverseEvent) -> None:
    """Call it once the event's row is locked. Raises EventNullified."""
    if _holds(session, event, NULLIFIED):
        raise EventNullified


def require_told(session: Session, event: AdverseEvent) -> None:
    """Raises NothingToNullify."""
    if not _holds(session, event, or_(REPORTED, INFORMED)):
        raise NothingToNullify


def require_untold(session: Session, event: AdverseEvent) -> None:
    """Nobody outside goes on believing what the site takes out of its records: these and the reports tell the same
    (ICH E6(R2), 4.9.1). Raises EventReported."""
    if _holds(session, event, or_(and_(REPORTED, ~NULLIFIED), AUTHORITY_WAITS)):
        raise EventReported


def _holds(session: Session, event: AdverseEvent, condition: ColumnElement[bool]) -> bool:
    of_it = _EVENT.c.site_id == event.site_id, _EVENT.c.id == event.id
    return bool(session.execute(select(condition).select_from(_EVENT).where(*of_it)).scalar_one())
