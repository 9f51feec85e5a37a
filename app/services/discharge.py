"""The checklist that a dosing session is closed by."""

from sqlmodel import Session

from app.errors import Conflict, Fault
from app.models.dosing_session import DoseKind, DosingSession, SessionState
from app.protocol.dosing_checks import INITIAL_DOSE, Breach, discharge_breaches
from app.services.dosing_day import DosingDay, discharge_facts, doses_of


class DischargeIncomplete(Conflict):
    """The protocol's checklist is not complete; see errors, one for each item."""


def lacking(session: Session, day: DosingDay, row: DosingSession) -> list[Breach]:
    """What keeps a session from being closed: the checklist, and whether the initial dose was given at all."""
    said = any(dose.kind == DoseKind.initial for dose in doses_of(session, row))
    untold = [] if said else [Breach(INITIAL_DOSE, "refuse", "Missing: the initial dose, given or not")]
    return untold + discharge_breaches(day.dosing, discharge_facts(session, day, row))


def require_complete(session: Session, day: DosingDay, row: DosingSession) -> None:
    """Raises DischargeIncomplete."""
    if missing := lacking(session, day, row):
        raise DischargeIncomplete(*(Fault("", one.rule, one.message) for one in missing))


def require_still_complete(session: Session, day: DosingDay, row: DosingSession) -> None:
    """A correction takes nothing away from a closed session that it was closed by. Raises DischargeIncomplete."""
    if row.state == SessionState.closed:
        require_complete(session, day, row)
