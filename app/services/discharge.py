"""The checklist that a dosing session is closed by."""

from sqlmodel import Session

from app.errors import Conflict, Fault
from app.models.dosing_session import DosingSession, SessionState
from app.protocol.dosing_checks import discharge_breaches
from app.services.dosing_day import DosingDay, discharge_facts


class DischargeIncomplete(Conflict):
    """The protocol's checklist is not complete; see errors, one for each item."""


def require_complete(session: Session, day: DosingDay, row: DosingSession) -> None:
    """Raises DischargeIncomplete."""
    lacking = discharge_breaches(day.dosing, discharge_facts(session, day, row))
    if lacking:
        raise DischargeIncomplete(*(Fault("", one.rule, one.message) for one in lacking))


def require_still_complete(session: Session, day: DosingDay, row: DosingSession) -> None:
    """A correction takes nothing away from a closed session that it was closed by. Raises DischargeIncomplete."""
    if row.state == SessionState.closed:
        require_complete(session, day, row)
