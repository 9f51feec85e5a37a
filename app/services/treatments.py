"""Treatments before the study, coded, and how many adequate ones failed."""

from typing import Any

from sqlmodel import Session, col, select

from app import audit
from app.access import Actor
from app.models.base import now
from app.models.course import Outcome, TreatmentCreate, TreatmentList, TreatmentRead, TreatmentTrial
from app.services.participants import Hold, enrolled
from app.services.unlocked import require_unlocked

RESISTANT_FROM = 2
"""Adequate trials of different substances without response (EMA/CHMP/185423/2010 rev. 3; FDA counts alike)."""

_NO_RESPONSE = frozenset({Outcome.none, Outcome.partial})


def add(session: Session, actor: Actor, symbols: str, body: TreatmentCreate) -> tuple[TreatmentRead, int]:
    """Record an earlier treatment; also gives the site's key. Raises NotFound."""
    person = enrolled(session, actor, symbols, hold=Hold.as_it_is)
    require_unlocked(session, person.site_id, person.row.pid)
    row = TreatmentTrial(
        site_id=person.site_id,
        pid=person.row.pid,
        recorded_by=actor.account_id,
        recorded_at=now(),
        **body.model_dump(),
    )
    session.add(row)
    session.flush()
    audit.append(session, actor.account_id, row.site_id, [audit.created("treatment:recorded", row, row.id)])
    return _read(row), row.site_id


def of(session: Session, actor: Actor, symbols: str) -> TreatmentList:
    """All of a participant's, oldest entry first. Raises NotFound."""
    person = enrolled(session, actor, symbols)
    theirs = select(TreatmentTrial).where(
        TreatmentTrial.site_id == person.site_id, TreatmentTrial.pid == person.row.pid
    )
    rows = session.exec(theirs.order_by(col(TreatmentTrial.recorded_at), col(TreatmentTrial.id))).all()
    failed = {row.atc for row in rows if row.adequate and row.this_episode and row.outcome in _NO_RESPONSE}
    return TreatmentList(
        items=[_read(row) for row in rows],
        failed_adequate=len(failed),
        treatment_resistant=len(failed) >= RESISTANT_FROM,
    )


def _read(row: TreatmentTrial) -> TreatmentRead:
    shown: dict[str, Any] = {name: getattr(row, name) for name in TreatmentRead.model_fields}
    return TreatmentRead(**shown)
