"""Source data verification: recorded at a version, withdrawn with a reason, stale as soon as the record moves."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Row, and_, exists, or_
from sqlmodel import Session, SQLModel, col

from app import audit
from app.access import Actor, Rows, found, visible, visible_row
from app.database import unique_or
from app.errors import Conflict
from app.models.account import Because
from app.models.adverse_event import AdverseEvent
from app.models.base import columns, fields_of, table_of
from app.models.dosing_session import DosingSession
from app.models.outcome import Outcome
from app.models.participant import Participant
from app.models.verification import (
    Verification,
    VerificationCreate,
    VerificationRead,
    VerificationState,
    VerificationWithdrawal,
)
from app.models.visit import Visit
from app.models.voided import counts
from app.pid import display
from app.protocol.verification import RecordKind
from app.services.unlocked import require_not_voided


class RecordMoved(Conflict):
    """The record is no longer at the version that you compared with the source; read it again."""


class VerificationWithdrawn(Conflict):
    """This verification was withdrawn already."""


class Subject(NamedTuple):
    """Where the records of one kind are, and which column of a verification names them."""

    table: type[SQLModel]
    key: str
    named_by: str


SUBJECTS: Mapping[RecordKind, Subject] = {
    RecordKind.adverse_event: Subject(AdverseEvent, "id", "event_id"),
    RecordKind.dosing_session: Subject(DosingSession, "id", "session_id"),
    RecordKind.outcome: Subject(Outcome, "id", "outcome_id"),
    RecordKind.participant: Subject(Participant, "pid", "pid"),
    RecordKind.visit: Subject(Visit, "id", "visit_id"),
}
_MADE, _WITHDRAWN = table_of(Verification), table_of(VerificationWithdrawal)


def record(session: Session, actor: Actor, body: VerificationCreate) -> tuple[VerificationRead, int]:
    """Remember that a record was held against its source; also gives the site's key. Raises NotFound,
    RecordVoided, RecordMoved."""
    kind = SUBJECTS[body.subject_type]
    stored = table_of(kind.table)
    names = {"site_id", "pid", "version", "voided_at"}
    wanted = visible(sa.select(*(column for column in stored.c if column.name in names)), actor)
    subject = found(session.execute(wanted.where(stored.c[kind.key] == body.subject)).first())
    if "voided_at" in stored.c:
        require_not_voided(subject)
    if subject.version != body.version:
        raise RecordMoved
    row = Verification(
        site_id=subject.site_id,
        subject_type=body.subject_type,
        subject_version=body.version,
        result=body.result,
        note=body.note,
        verified_by=actor.account_id,
        **{"pid": subject.pid, kind.named_by: body.subject},
    )
    session.add(row)
    session.flush()
    audit.append(session, actor.account_id, row.site_id, [audit.created("verification:recorded", row, row.id)])
    return read_one(session, actor, row.id), row.site_id


def withdraw(session: Session, actor: Actor, verification_id: UUID, body: Because) -> tuple[VerificationRead, int]:
    """Take a verification back; also gives the site's key. Raises NotFound, VerificationWithdrawn."""
    row = visible_row(session, actor, Verification, verification_id)
    if session.get(VerificationWithdrawal, (row.site_id, row.id)) is not None:
        raise VerificationWithdrawn
    withdrawal = VerificationWithdrawal(
        site_id=row.site_id, verification_id=row.id, reason=body.reason, withdrawn_by=actor.account_id
    )
    session.add(withdrawal)
    with unique_or(VerificationWithdrawn):
        session.flush()
    event = audit.created("verification:withdrawn", withdrawal, row.id, reason=body.reason)
    audit.append(session, actor.account_id, row.site_id, [event])
    return read_one(session, actor, row.id), row.site_id


def recorded(kind: RecordKind) -> ColumnElement[bool]:
    """Of the records of a kind: those that were not voided. Dosing sessions and participants never are."""
    stored = table_of(SUBJECTS[kind].table)
    return counts(stored) if "voided_at" in stored.c else sa.true()


def _same_subject(one: Any, other: Any) -> ColumnElement[bool]:
    """Plain equality where no column is empty: only that finds rows by index."""
    always, never_all = ("site_id", "subject_type", "pid"), ("visit_id", "outcome_id", "event_id", "session_id")
    return and_(
        *(one.c[name] == other.c[name] for name in always),
        *(one.c[name].is_not_distinct_from(other.c[name]) for name in never_all),
    )


def taken_back(made: Any) -> ColumnElement[bool]:
    """Whether a verification was withdrawn."""
    return exists().where(_WITHDRAWN.c.site_id == made.c.site_id, _WITHDRAWN.c.verification_id == made.c.id)


def overtaken(made: Any) -> ColumnElement[bool]:
    """Whether a later verification of the same record stands."""
    later = _MADE.alias("later")
    newer = or_(
        later.c.verified_at > made.c.verified_at,
        and_(later.c.verified_at == made.c.verified_at, later.c.id > made.c.id),
    )
    return exists().where(_same_subject(later, made), newer, ~taken_back(later))


def _present_version() -> ColumnElement[int]:
    """Of the record that a verification is about, which is at the same site."""
    found_at = []
    for kind, subject in SUBJECTS.items():
        stored = table_of(subject.table)
        version = sa.select(stored.c.version).where(
            stored.c.site_id == _MADE.c.site_id, stored.c[subject.key] == _MADE.c[subject.named_by]
        )
        found_at.append((_MADE.c.subject_type == kind, version.correlate(_MADE).scalar_subquery()))
    return sa.case(*found_at)


def _record_voided() -> ColumnElement[bool]:
    voidable = (subject for subject in SUBJECTS.values() if "voided_at" in table_of(subject.table).c)
    found_at = [
        exists().where(
            stored.c.site_id == _MADE.c.site_id, stored.c[subject.key] == _MADE.c[subject.named_by], ~counts(stored)
        )
        for subject in voidable
        for stored in [table_of(subject.table)]
    ]
    return or_(*found_at)


PRESENT: ColumnElement[int] = _present_version()
STATE: ColumnElement[str] = sa.case(
    (taken_back(_MADE), VerificationState.withdrawn),
    (overtaken(_MADE), VerificationState.superseded),
    (_record_voided(), VerificationState.record_voided),
    (_MADE.c.subject_version != PRESENT, VerificationState.needs_reverification),
    else_=_MADE.c.result,
)


def rows() -> Rows:
    """Verifications with the record's present version and their state; narrow it with `visible`."""
    withdrawal = [
        sa.select(column)
        .where(_WITHDRAWN.c.site_id == _MADE.c.site_id, _WITHDRAWN.c.verification_id == _MADE.c.id)
        .correlate(_MADE)
        .scalar_subquery()
        .label(label)
        for column, label in (
            (_WITHDRAWN.c.withdrawn_by, "withdrawn_by"),
            (_WITHDRAWN.c.withdrawn_at, "withdrawn_at"),
            (_WITHDRAWN.c.reason, "withdrawal_reason"),
        )
    ]
    return sa.select(*columns(Verification), PRESENT.label("present_version"), STATE.label("state"), *withdrawal)


def read_one(session: Session, actor: Actor, verification_id: UUID) -> VerificationRead:
    """One verification. Raises NotFound."""
    wanted = visible(rows().where(col(Verification.id) == verification_id), actor)
    return read(found(session.execute(wanted).first()), actor)


def read(row: Row[Any], actor: Actor) -> VerificationRead:
    place, fields = actor.places[row.site_id], fields_of(row)
    named = fields[SUBJECTS[RecordKind(row.subject_type)].named_by]
    return VerificationRead(
        study=place.study,
        site=place.site,
        participant=row.pid,
        subject=display(named) if isinstance(named, str) else str(named),
        version=row.subject_version,
        **{name: fields[name] for name in _SHOWN},
    )


_SHOWN = (
    *("id", "subject_type", "present_version", "result", "state", "note", "verified_by", "verified_at"),
    *("withdrawn_by", "withdrawn_at", "withdrawal_reason"),
)
