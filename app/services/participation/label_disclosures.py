"""Break-glass: reading the site's own label of a participant. One person asks, another approves, the first reads it
once.

Each step is an entry in the audit chain of the participant's site, where the monitor sees it, and in the change feed.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Rows, found, visible, visible_row
from app.database import vault_session, within
from app.errors import Conflict, Gone, SecondPersonNeeded
from app.models.base import columns, fields_of, now, values
from app.models.extract import ApprovalDecision
from app.models.label_disclosure import (
    OPEN_FOR,
    DisclosureCreate,
    DisclosureDecision,
    DisclosureRead,
    DisclosureStatus,
    LabelDisclosure,
    LabelRead,
)
from app.models.participant import Participant
from app.models.study import Site, Study
from app.privacy import vault
from app.security.keys import Keyring
from app.services.identity.own_account import require_own_sign_in
from app.services.studies import sites_of


class DisclosureDecided(Conflict):
    """This request was approved or refused already."""


class DisclosureNotApproved(Conflict):
    """Nobody has approved this request, or somebody has refused it."""


class DisclosureSpent(Gone):
    """This approval was used, or its time is over; ask again."""


def ask(session: Session, actor: Actor, body: DisclosureCreate) -> DisclosureRead:
    """Ask to read a label. Raises NotFound."""
    site_id = site_in_reach(session, actor, body.participant)
    study = session.exec(select(Study).join(Site, col(Site.study_id) == col(Study.id)).where(Site.id == site_id)).one()
    assert study.id is not None
    row = LabelDisclosure(
        study_id=study.id,
        pid=body.participant,
        ground=body.ground,
        reason=body.reason,
        requested_by=actor.account_id,
    )
    session.add(row)
    session.flush()
    _remember(session, actor, row, audit.created("label:asked-for", row, row.id, reason=body.reason))
    return _read(values(row), study.code)


def site_in_reach(session: Session, actor: Actor, pid: str) -> int:
    """The key of a participant's site, if the actor has it in reach. Raises NotFound."""
    sites = sorted(actor.site_ids)
    with within(session, sites):
        own = select(Participant.site_id).where(Participant.pid == pid, col(Participant.site_id).in_(sites))
        return found(session.exec(own).first())


def decide(session: Session, actor: Actor, disclosure_id: UUID, body: DisclosureDecision) -> DisclosureRead:
    """Approve or refuse. Raises PasswordNotOwn, NotFound, DisclosureDecided, SecondPersonNeeded."""
    require_own_sign_in(session, actor)
    row = visible_row(session, actor, LabelDisclosure, disclosure_id, lock=True)
    if row.status != DisclosureStatus.requested:
        raise DisclosureDecided
    if row.requested_by == actor.account_id:
        raise SecondPersonNeeded
    before = audit.snapshot(row)
    approves = body.decision is ApprovalDecision.approve
    row.status = DisclosureStatus.approved if approves else DisclosureStatus.refused
    row.decided_by, row.decision_reason = actor.account_id, body.reason
    row.open_until = now() + OPEN_FOR if approves else None
    return _store_step(session, actor, row, f"label:{row.status.value}", before, body.reason)


def open_label(session: Session, actor: Actor, keyring: Keyring, disclosure_id: UUID) -> LabelRead:
    """Read the label, once and only by the person who asked.

    Raises NotFound, DisclosureNotApproved, DisclosureSpent, LabelErased, LabelKeyMissing.
    """
    row = visible_row(session, actor, LabelDisclosure, disclosure_id, lock=True)
    found(row if row.requested_by == actor.account_id else None)
    if row.status in {DisclosureStatus.requested, DisclosureStatus.refused}:
        raise DisclosureNotApproved
    if row.status == DisclosureStatus.read or row.open_until is None or row.open_until <= now():
        raise DisclosureSpent
    with _site_of(session, row) as (site_id, code), within(vault_session(session), [site_id]):
        identity = vault.find(session, site_id, row.pid)
        if identity is None:
            raise vault.LabelErased
        label = LabelRead(site=code, site_local_id=vault.reveal_label(keyring, identity))
    before = audit.snapshot(row)
    row.status, row.read_at = DisclosureStatus.read, now()
    _store_step(session, actor, row, "label:read", before, row.reason)
    return label


def rows() -> Rows:
    """Requests with the code of their study; narrow it with `visible`."""
    wanted = sa.select(*columns(LabelDisclosure), col(Study.code).label("study"))
    return wanted.select_from(LabelDisclosure).join(Study, col(Study.id) == col(LabelDisclosure.study_id))


def read_all(page: Sequence[Any]) -> list[DisclosureRead]:
    return [_read(fields_of(row), row.study) for row in page]


def read_one(session: Session, actor: Actor, disclosure_id: UUID) -> DisclosureRead:
    statement = visible(rows().where(col(LabelDisclosure.id) == disclosure_id), actor)
    return read_all([found(session.execute(statement).first())])[0]


def _store_step(
    session: Session, actor: Actor, row: LabelDisclosure, action: str, before: dict[str, Any], reason: str
) -> DisclosureRead:
    row.version, row.updated_at = row.version + 1, now()
    session.flush()
    event = audit.changed(action, row, row.id, row.version, before, reason)
    _remember(session, actor, row, event)
    return _read(values(row), session.get_one(Study, row.study_id).code)


def _remember(session: Session, actor: Actor, row: LabelDisclosure, event: audit.Event) -> None:
    with _site_of(session, row) as (site_id, _):
        audit.append(session, actor.account_id, site_id, [event])


@contextmanager
def _site_of(session: Session, row: LabelDisclosure) -> Iterator[tuple[int, str]]:
    """Key and code of the participant's site. In this block its rows are visible, which they are not to a custodian
    otherwise."""
    with within(session, sites_of(session, row.study_id)):
        of_person = select(Participant.site_id, Site.code).join(Site, col(Site.id) == col(Participant.site_id))
        yield session.exec(of_person.where(Participant.pid == row.pid)).one()


def _read(fields: Any, study: str) -> DisclosureRead:
    return DisclosureRead.of_row(fields, study=study, participant=fields["pid"])
