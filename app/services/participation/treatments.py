"""Treatments before the study, and how many adequate ones failed."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from app import audit
from app.access import Actor, found
from app.models.base import now, values
from app.models.treatment import (
    TreatmentAmend,
    TreatmentCreate,
    TreatmentList,
    TreatmentOutcome,
    TreatmentRead,
    TreatmentTrial,
)
from app.models.voided import VOIDING_FIELDS, RecordVoiding, counts
from app.services.participation.participants import Hold, Person, move_on, visible_person
from app.services.unlocked import require_not_voided, require_unlocked
from app.web.conditional import Seen
from app.web.merging import corrected, sent_fields

RESISTANT_FROM = 2
"""The number of adequate trials of different substances without response (EMA/CHMP/185423/2010 rev. 3; FDA counts the
same) from which a depression is treatment resistant."""

_NO_RESPONSE = frozenset({TreatmentOutcome.none, TreatmentOutcome.partial})


def add(session: Session, actor: Actor, symbols: str, body: TreatmentCreate) -> tuple[TreatmentRead, int]:
    """Record an earlier treatment; also gives the site's key. Raises NotFound."""
    person = visible_person(session, actor, symbols, hold=Hold.as_it_is)
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
    return TreatmentRead.of_row(values(row)), row.site_id


def amend(
    session: Session,
    actor: Actor,
    seen: Seen,
    symbols: str,
    treatment_id: UUID,
    body: TreatmentAmend,
) -> tuple[TreatmentRead, int]:
    """Correct an earlier treatment; also gives the site's key.

    Raises NotFound, RecordVoided, VersionStale, ValidationFailed.
    """
    person, row = _to_change(session, actor, symbols, treatment_id)
    before, changes = audit.snapshot(row), sent_fields(body)
    differing = {name for name, value in changes.items() if getattr(row, name) != value}
    seen.require_current(row.id, row.version, differing)
    if not differing:
        return TreatmentRead.of_row(values(row)), row.site_id
    require_unlocked(session, row.site_id, row.pid)
    recorded = {name: getattr(row, name) for name in TreatmentCreate.model_fields}
    for name, value in corrected(TreatmentCreate, {**recorded, **changes}).model_dump().items():
        setattr(row, name, value)
    return _changed(session, actor, person, row, "treatment:amended", before, body.reason)


def void(
    session: Session,
    actor: Actor,
    seen: Seen,
    symbols: str,
    treatment_id: UUID,
    body: RecordVoiding,
) -> tuple[TreatmentRead, int]:
    """Void an earlier treatment that was entered in error; also gives the site's key.

    Raises NotFound, RecordVoided, VersionStale, DataLocked.
    """
    person, row = _to_change(session, actor, symbols, treatment_id)
    seen.require_current(row.id, row.version, VOIDING_FIELDS)
    require_unlocked(session, row.site_id, row.pid)
    before = audit.snapshot(row)
    row.void(actor.account_id, now(), body.reason)
    return _changed(session, actor, person, row, "treatment:voided", before, body.reason)


def _to_change(session: Session, actor: Actor, symbols: str, treatment_id: UUID) -> tuple[Person, TreatmentTrial]:
    """An earlier treatment and whose it is, both locked until the commit. Raises NotFound, RecordVoided."""
    person = visible_person(session, actor, symbols, hold=Hold.change)
    row = _one(session, _of(person).with_for_update(), treatment_id)
    require_not_voided(row)
    return person, row


def _changed(
    session: Session,
    actor: Actor,
    person: Person,
    row: TreatmentTrial,
    action: str,
    before: Mapping[str, Any],
    reason: str,
) -> tuple[TreatmentRead, int]:
    """Store the next version of a treatment, with its audit entry; also gives the site's key."""
    row.version += 1
    move_on(person.row)
    session.flush()
    event = audit.changed(action, row, row.id, row.version, before, reason)
    audit.append(session, actor.account_id, row.site_id, [event])
    return TreatmentRead.of_row(values(row)), row.site_id


def read(session: Session, actor: Actor, symbols: str, treatment_id: UUID) -> TreatmentRead:
    """One earlier treatment of a participant. Raises NotFound."""
    return TreatmentRead.of_row(values(_one(session, _of(visible_person(session, actor, symbols)), treatment_id)))


def of(session: Session, actor: Actor, symbols: str) -> TreatmentList:
    """All earlier treatments of a participant, oldest entry first. Raises NotFound."""
    person = visible_person(session, actor, symbols)
    ordered = _of(person).order_by(col(TreatmentTrial.recorded_at), col(TreatmentTrial.id))
    rows = session.exec(ordered.where(counts(TreatmentTrial))).all()
    voided = session.exec(ordered.where(~counts(TreatmentTrial))).all()
    failed = {row.atc for row in rows if row.adequate and row.this_episode and row.outcome in _NO_RESPONSE}
    return TreatmentList(
        items=[TreatmentRead.of_row(values(row)) for row in rows],
        voided=[TreatmentRead.of_row(values(row)) for row in voided],
        failed_adequate=len(failed),
        treatment_resistant=len(failed) >= RESISTANT_FROM,
    )


def _of(person: Person) -> SelectOfScalar[TreatmentTrial]:
    return select(TreatmentTrial).where(TreatmentTrial.site_id == person.site_id, TreatmentTrial.pid == person.row.pid)


def _one(session: Session, theirs: SelectOfScalar[TreatmentTrial], treatment_id: UUID) -> TreatmentTrial:
    return found(session.exec(theirs.where(TreatmentTrial.id == treatment_id)).first())
