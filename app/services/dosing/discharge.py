"""The checklist that must be complete before a dosing session is closed."""

from collections.abc import Iterable, Sequence

from sqlmodel import Session

from app.errors import Conflict, Fault
from app.models.dosing_session import DoseKind, DosingSession, SessionState
from app.protocol.dosing_checks import INITIAL_DOSE, Breach, discharge_breaches
from app.services.dosing.dosing_day import DosingDay, discharge_facts, doses_of


class DischargeIncomplete(Conflict):
    """The protocol's checklist is not complete; see errors, one for each item."""


def lacking(session: Session, day: DosingDay, row: DosingSession) -> list[Breach]:
    """The items of the checklist that are missing, and the initial dose if it is not recorded, given or not."""
    recorded = any(dose.kind == DoseKind.initial for dose in doses_of(session, row))
    no_dose = [] if recorded else [Breach(INITIAL_DOSE, "refuse", "Missing: the initial dose, given or not")]
    return no_dose + discharge_breaches(day.dosing, discharge_facts(session, day, row))


def require_complete(session: Session, day: DosingDay, row: DosingSession) -> None:
    """Raises DischargeIncomplete."""
    _require_none(lacking(session, day, row))


def require_still_complete(session: Session, day: DosingDay, row: DosingSession, lacked: Sequence[Breach]) -> None:
    """A correction of a closed session must leave out nothing of its checklist but what it `lacked` before: a reading
    or a form of it may have been voided. Raises DischargeIncomplete."""
    if row.state == SessionState.closed:
        _require_none(one for one in lacking(session, day, row) if one not in lacked)


def _require_none(missing: Iterable[Breach]) -> None:
    faults = [Fault("", one.rule, one.message) for one in missing]
    if faults:
        raise DischargeIncomplete(*faults)
