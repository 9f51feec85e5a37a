"""Source data verification: recorded at a version, withdrawn with a reason, stale as soon as the record moves."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Row, and_, exists, or_
from sqlmodel import Session, SQLModel, col

from app import audit
from app.access import Actor, Rows, found, visible, visible_row
from app.database import unique_or
from app.errors import Conflict
from app.models.account import ReasonGiven
from app.models.adverse_event import AdverseEvent
from app.models.among import among
from app.models.base import columns, fields_of, new_row, table_of
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
from app.writing import Writes


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


Named = tuple[RecordKind, UUID | str]
"""A record by its kind and its id, or the pid of a participant."""


def subjects(session: Session, actor: Actor, bodies: Sequence[VerificationCreate]) -> dict[Named, Row[Any]]:
    """The records that these are about, as they stand, held until the commit: whoever corrects one waits for the
    chain's head and so may not be waited for behind it. One query for each kind of record."""
    named: dict[RecordKind, set[UUID | str]] = defaultdict(set)
    for body in bodies:
        named[body.subject_type].add(body.subject)
    return {
        (kind, row.key): row for kind in sorted(named) for row in _held(session, actor, SUBJECTS[kind], named[kind])
    }


def _held(session: Session, actor: Actor, kind: Subject, keys: Collection[UUID | str]) -> Sequence[Row[Any]]:
    stored = table_of(kind.table)
    key = stored.c[kind.key]
    names = {"site_id", "pid", "version", "voided_at"}
    fields = (column for column in stored.c if column.name in names)
    wanted = visible(sa.select(*fields, key.label("key")), actor)
    mine = wanted.where(among(key, "keys")).order_by(stored.c.site_id, key).with_for_update(read=True, key_share=True)
    return session.execute(mine, {"keys": sorted(keys)}).all()


def record(
    actor: Actor, about: Mapping[Named, Row[Any]], body: VerificationCreate
) -> tuple[VerificationRead, int, Writes]:
    """The verification of a record against its source: the answer, the site's key, and what to store. `about` are the
    `subjects` that it may be. Raises NotFound, RecordVoided, RecordMoved."""
    subject = found(about.get((body.subject_type, body.subject)))
    require_not_voided(subject)
    if subject.version != body.version:
        raise RecordMoved
    given = {
        "site_id": subject.site_id,
        "subject_type": body.subject_type,
        "subject_version": body.version,
        "result": body.result,
        "note": body.note,
        "verified_by": actor.account_id,
        "pid": subject.pid,
        SUBJECTS[body.subject_type].named_by: body.subject,
    }
    row, writes = new_row(Verification, given), Writes()
    writes.add(Verification, row)
    event = audit.recorded("verification:recorded", Verification, row, row["id"])
    writes.remember(actor.account_id, subject.site_id, event)
    new = {"present_version": body.version, "state": VerificationState(body.result), **dict.fromkeys(_TAKEN_BACK)}
    return _read({**row, **new}, actor), subject.site_id, writes


def withdraw(session: Session, actor: Actor, verification_id: UUID, body: ReasonGiven) -> tuple[VerificationRead, int]:
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
    """Of the records of a kind: those that were not voided."""
    return counts(table_of(SUBJECTS[kind].table))


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
    found_at = [
        exists().where(
            stored.c.site_id == _MADE.c.site_id, stored.c[subject.key] == _MADE.c[subject.named_by], ~counts(stored)
        )
        for subject in SUBJECTS.values()
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
    return _read(fields_of(row), actor)


def _read(fields: Mapping[str, Any], actor: Actor) -> VerificationRead:
    place = actor.places[fields["site_id"]]
    named = fields[SUBJECTS[RecordKind(fields["subject_type"])].named_by]
    return VerificationRead.of_row(
        fields,
        study=place.study,
        site=place.site,
        participant=fields["pid"],
        subject=display(named) if isinstance(named, str) else str(named),
        version=fields["subject_version"],
    )


_TAKEN_BACK = ("withdrawn_by", "withdrawn_at", "withdrawal_reason")
