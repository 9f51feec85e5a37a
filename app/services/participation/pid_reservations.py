"""Blocks of pids reserved before anybody is enrolled under them, so that an app without a network can print labels.

A reserved pid is never drawn again, and at a site only one participant can have it, so two people never share a pid.
Reservations do not expire, and closing a block frees no pid: a label that was printed stays valid.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row
from sqlmodel import Session, col

from app import audit, pid
from app.access import Actor, Rows, found, visible, visible_row
from app.database import within
from app.errors import Conflict, Fault, Invalid
from app.models.among import among
from app.models.base import columns, fields_of, now, table_of, values
from app.models.participant import Participant
from app.models.pid_reservation import (
    ClosureCreate,
    PidReservation,
    ReservationCreate,
    ReservationRead,
    ReservedPid,
)
from app.services.studies import every_site

_PIDS, _PEOPLE = table_of(ReservedPid), table_of(Participant)
_FREE = ~sa.exists().where(_PEOPLE.c.site_id == _PIDS.c.site_id, _PEOPLE.c.pid == _PIDS.c.pid)
"""Nobody is enrolled under the reserved pid."""


class PidAlreadyEnrolled(Conflict):
    """A participant of this site has this pid already, and two people never share one."""


class PidNotReserved(Invalid):
    """This pid was not reserved for this site."""


class TooManyPidsReserved(Conflict):
    """The site has too many unused reserved pids (REGISTRY_RESERVED_PIDS_PER_SITE). Use them, or close the blocks that
    no app takes from any more."""


class ReservationClosed(Conflict):
    """This block of pids was closed before."""


def fresh(session: Session, count: int = 1) -> list[str]:
    """New pids that are neither used nor reserved at any site. A clash in 2^50 is unlikely, but must not happen."""
    drawn: list[str] = []
    with within(session, every_site(session)):
        while len(drawn) < count:
            new = {pid.draw() for _ in range(count - len(drawn))}
            drawn += new - set(session.execute(_CLASHING, {"pids": sorted(new)}).scalars()) - set(drawn)
    return drawn


_CLASHING = sa.union(
    *(sa.select(table.c.pid).where(among(table.c.pid, "pids", unseen=True)) for table in (_PEOPLE, _PIDS))
)


def reserved(session: Session, site_id: int, symbols: str) -> str:
    """A reserved pid, checked: this site may enrol somebody under it. A pid reserved for another site is refused like
    an unknown one.

    Raises PidAlreadyEnrolled, PidNotReserved.
    """
    if session.get(Participant, (site_id, symbols)) is not None:
        raise PidAlreadyEnrolled
    if session.get(ReservedPid, (site_id, symbols)) is None:
        raise PidNotReserved(Fault("/pid", "not_reserved", "Not reserved for this site"))
    return symbols


def reserve(session: Session, actor: Actor, body: ReservationCreate, most: int) -> tuple[ReservationRead, int]:
    """Draw a block for a site; also gives the site's key. Raises NotFound, TooManyPidsReserved."""
    site_id = actor.site_at(body.study, body.site)
    row = PidReservation(site_id=site_id, device=body.device, created_by=actor.account_id)
    session.add(row)
    session.flush()
    drawn = sorted(fresh(session, body.count))
    session.execute(sa.insert(_PIDS), [{"site_id": site_id, "pid": one, "reservation_id": row.id} for one in drawn])
    event = audit.created("pids:reserved", row, row.id)
    event.changes.append({"field": "pids", "old": None, "new": drawn})
    audit.append(session, actor.account_id, site_id, [event])
    if _open(session, site_id) > most:  # counted with the chain's head locked, so that no two requests pass at once
        raise TooManyPidsReserved
    return _read(values(row), actor, len(drawn), drawn), site_id


def _open(session: Session, site_id: int) -> int:
    """The number of unused pids in the site's open blocks."""
    blocks = table_of(PidReservation)
    counted = (
        sa.select(sa.func.count())
        .select_from(
            _PIDS.join(blocks, sa.and_(blocks.c.site_id == _PIDS.c.site_id, blocks.c.id == _PIDS.c.reservation_id))
        )
        .where(_PIDS.c.site_id == site_id, blocks.c.closed_at.is_(None), _FREE)
    )
    return int(session.execute(counted).scalar_one())


def close(session: Session, actor: Actor, reservation_id: UUID, body: ClosureCreate) -> tuple[ReservationRead, int]:
    """Close a block that no app uses any more: its pids no longer count against the limit. Printed labels stay valid.

    Raises NotFound, ReservationClosed.
    """
    row = visible_row(session, actor, PidReservation, reservation_id, lock=True)
    if row.closed_at is not None:
        raise ReservationClosed
    before = audit.snapshot(row)
    row.closed_by, row.closed_at, row.closing_reason = actor.account_id, now(), body.reason
    session.flush()
    event = audit.changed("pids:reservation-closed", row, row.id, 2, before, body.reason)
    audit.append(session, actor.account_id, row.site_id, [event])
    return _with_free_pids(session, actor, [values(row)])[0], row.site_id


def rows() -> Rows:
    """Blocks; narrow it with `visible`."""
    return sa.select(*columns(PidReservation))


def read_one(session: Session, actor: Actor, reservation_id: UUID) -> ReservationRead:
    mine = visible(rows().where(col(PidReservation.id) == reservation_id), actor)
    return read_all(session, actor, [found(session.execute(mine).first())])[0]


def read_all(session: Session, actor: Actor, blocks: Sequence[Row[Any]]) -> list[ReservationRead]:
    return _with_free_pids(session, actor, [fields_of(row) for row in blocks])


def _with_free_pids(session: Session, actor: Actor, blocks: Sequence[Mapping[str, Any]]) -> list[ReservationRead]:
    """Each block with its unused pids, by one statement."""
    theirs = sa.select(_PIDS.c.reservation_id, _PIDS.c.pid, _FREE.label("free")).where(
        _PIDS.c.site_id.in_({block["site_id"] for block in blocks}),
        _PIDS.c.reservation_id.in_([block["id"] for block in blocks]),
    )
    drawn: defaultdict[UUID, int] = defaultdict(int)
    free: defaultdict[UUID, list[str]] = defaultdict(list)
    for row in session.execute(theirs.order_by(_PIDS.c.pid)):
        drawn[row.reservation_id] += 1
        if row.free:
            free[row.reservation_id].append(row.pid)
    return [_read(block, actor, drawn[block["id"]], free[block["id"]]) for block in blocks]


def _read(block: Mapping[str, Any], actor: Actor, drawn: int, free: Sequence[str]) -> ReservationRead:
    place = actor.places[block["site_id"]]
    return ReservationRead.of_row(block, study=place.study, site=place.site, drawn=drawn, pids=list(free))


def unborn(session: Session, actor: Actor, symbols: Collection[str]) -> set[str]:
    """Those of these pids that are reserved at a site in the actor's reach and not used yet."""
    theirs = visible(sa.select(_PIDS.c.pid).where(_PIDS.c.pid.in_(symbols), _FREE), actor)
    return set(session.execute(theirs).scalars())
