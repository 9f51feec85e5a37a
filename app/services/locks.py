"""Freezes and locks of clinical data: set and lifted. What they forbid: app/services/unlocked.py."""

from collections.abc import Mapping
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import sqlalchemy as sa
from sqlalchemy import Row, func
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Place, Rows, found, visible
from app.database import Turn, in_turn
from app.errors import Conflict, Fault, Forbidden, Invalid, NotFound
from app.models.base import columns, fields_of, now, values
from app.models.data_lock import DataLock, LiftingCreate, LockCreate, LockRead, LockScope
from app.models.study import ProtocolVersion, Site
from app.models.visit import Visit
from app.services.participation.participants import Hold, visible_person
from app.services.studies import protocol_of, site_by_code, sites_of, study_by_code


class AlreadyClosed(Conflict):
    """The same data are frozen or locked in this way already; see lock."""


class LockLifted(Conflict):
    """This freeze or lock was lifted already."""


class StudyOutOfReach(Forbidden):
    """Only somebody who monitors all sites of a study can freeze or lock the whole study, or lift that."""


class VisitCodeUnknown(Invalid):
    """No protocol version of the study has such a visit."""


class Target(NamedTuple):
    """The data to be frozen or locked: the sites, and there the participant, visit or visit code."""

    site_ids: list[int]
    pid: str | None = None
    visit_id: UUID | None = None
    visit_code: str | None = None


def set_lock(session: Session, actor: Actor, body: LockCreate) -> tuple[LockRead, int]:
    """Freeze or lock data; also gives the key of the (first) site. Writes that began before are committed by then.

    Raises NotFound, VisitCodeUnknown, StudyOutOfReach, AlreadyClosed.
    """
    target = _target(session, actor, body)
    in_turn(session, Turn.gate, target.site_ids)
    _require_new(session, actor, body, target)
    locks = _locks(actor, body, target)
    session.add_all(locks)
    session.flush()
    for lock in locks:
        event = audit.created("lock:set", lock, lock.id, reason=lock.reason)
        audit.append(session, actor.account_id, lock.site_id, [event])
    return _read(values(locks[0]), actor), locks[0].site_id


def _target(session: Session, actor: Actor, body: LockCreate) -> Target:
    """The data that a body names. Rows are locked in the same order as by writes, and before the gates, so that there
    is no deadlock."""
    match body.scope:
        case LockScope.study:
            return Target(_all_sites(session, actor, body.study))
        case LockScope.site | LockScope.visit_code:
            site = site_by_code(session, actor, body.study, body.site or "")
            assert site.id is not None
            if body.visit_code is not None:
                _require_known(session, site, body.visit_code)
            return Target([site.id], visit_code=body.visit_code)
        case LockScope.visit | LockScope.participant:
            return _of_a_participant(session, actor, body)


def _of_a_participant(session: Session, actor: Actor, body: LockCreate) -> Target:
    visit = visible(select(Visit.pid).where(Visit.id == body.visit), actor)
    pid = body.participant if body.visit is None else session.exec(visit).first()
    # The participant is locked before the visit, as by corrections of visits.
    person = visible_person(session, actor, found(pid), hold=Hold.as_it_is)
    if person.place.study != body.study or body.site not in (None, person.place.site):
        raise NotFound
    if body.visit is not None:
        session.exec(visit.with_for_update(read=True)).one()
    return Target([person.site_id], pid=person.row.pid, visit_id=body.visit)


def _all_sites(session: Session, actor: Actor, study_code: str) -> list[int]:
    study = study_by_code(session, actor, study_code)
    assert study.id is not None
    site_ids = sites_of(session, study.id)
    if not set(site_ids) <= set(actor.site_ids):
        raise StudyOutOfReach
    if not site_ids:
        raise NotFound
    return site_ids


def _require_known(session: Session, site: Site, visit_code: str) -> None:
    versions = session.exec(select(ProtocolVersion.id).where(ProtocolVersion.study_id == site.study_id)).all()
    protocols = [protocol_of(session, version) for version in versions if version is not None]
    if not any(visit.code == visit_code for protocol in protocols for visit in protocol.visits):
        raise VisitCodeUnknown(Fault("/visit_code", "unknown_visit", "No protocol version of the study has it"))


def _require_new(session: Session, actor: Actor, body: LockCreate, target: Target) -> None:
    """Raises AlreadyClosed. Called with the gates taken, so that two monitors cannot close the same data at once."""
    equal = visible(select(DataLock), actor).where(
        DataLock.kind == body.kind,
        DataLock.scope == body.scope,
        col(DataLock.lifted_at).is_(None),
        col(DataLock.site_id) == target.site_ids[0],
        col(DataLock.pid).is_not_distinct_from(target.pid),
        col(DataLock.visit_id).is_not_distinct_from(target.visit_id),
        col(DataLock.visit_code).is_not_distinct_from(target.visit_code),
    )
    existing = session.exec(equal).first()
    if existing is not None:
        raise AlreadyClosed(lock={"id": str(existing.id), "kind": existing.kind, "scope": existing.scope})


def _locks(actor: Actor, body: LockCreate, target: Target) -> list[DataLock]:
    """The rows of one lock: one for each site, all with the same id."""
    shared: dict[str, Any] = {"id": uuid4(), "set_by": actor.account_id, "set_at": now(), **target._asdict()}
    asked = body.model_dump(include={"kind", "reason"})
    return [DataLock(scope=body.scope, site_id=site_id, **asked, **shared) for site_id in shared.pop("site_ids")]


def lift(session: Session, actor: Actor, lock_id: UUID, body: LiftingCreate) -> tuple[LockRead, int]:
    """Lift a freeze or lock; also gives the key of the (first) site. Raises NotFound, LockLifted, StudyOutOfReach."""
    wanted = visible(select(DataLock).where(DataLock.id == lock_id), actor).order_by(col(DataLock.site_id))
    locks = session.exec(wanted.with_for_update()).all()
    first = found(locks[0] if locks else None)
    if first.scope == LockScope.study:
        _all_sites(session, actor, actor.places[first.site_id].study)
    if first.lifted_at is not None:
        raise LockLifted
    at, before = now(), audit.snapshot(first)
    for lock in locks:
        lock.lifted_by, lock.lifted_at, lock.lifting_reason = actor.account_id, at, body.reason
    session.flush()
    for lock in locks:
        event = audit.changed("lock:lifted", lock, lock.id, 2, before, body.reason)
        audit.append(session, actor.account_id, lock.site_id, [event])
    return _read(values(first), actor), first.site_id


def rows() -> Rows:
    """Freezes and locks, that of a study as one row; narrow the statement with `visible`."""
    shared = [column for column in columns(DataLock) if column.key != "site_id"]
    return sa.select(func.min(col(DataLock.site_id)).label("site_id"), *shared).group_by(*shared)


def read_one(session: Session, actor: Actor, lock_id: UUID) -> LockRead:
    """One freeze or lock. Raises NotFound."""
    return read(found(session.execute(visible(rows().where(col(DataLock.id) == lock_id), actor)).first()), actor)


def read(lock: Row[Any], actor: Actor) -> LockRead:
    return _read(fields_of(lock), actor)


def _read(values: Mapping[str, Any], actor: Actor) -> LockRead:
    place: Place = actor.places[values["site_id"]]
    return LockRead.of_row(
        values,
        study=place.study,
        site=None if values["scope"] == LockScope.study else place.site,
        participant=values["pid"],
        visit=values["visit_id"],
        in_force=values["lifted_at"] is None,
    )
