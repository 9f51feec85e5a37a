"""Which extracts a participant is in, so that their recipients can be informed of a withdrawal or an error; and when an
extract was first downloaded, by the audit trail."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlmodel import Session, col, func, select

from app import audit
from app.database import Database, within
from app.errors import CannotGoOn
from app.models.audit import REGISTRY_CHAIN, AuditEntry
from app.models.extract import Extract, ExtractProfile, ExtractStatus, ExtractSubject
from app.models.participant import Participant
from app.services.studies import every_chain


class NotEnrolled(CannotGoOn):
    """Nobody is enrolled under this pid."""


class Received(NamedTuple):
    """One extract that a participant is in. Tables count as well, as they were counted over that participant too."""

    extract_id: UUID
    profile: ExtractProfile
    organisation: str
    approved_at: str
    status: ExtractStatus
    downloaded: bool


def received(database: Database, symbols: str) -> list[Received]:
    """The extracts that a participant is in, oldest first. An entry in the chain of the site remembers the look. Raises
    NotEnrolled."""
    with database.write() as session, within(session, every_chain(session)):
        person = session.exec(select(Participant).where(Participant.pid == symbols)).first()
        if person is None:
            raise NotEnrolled("Nobody is enrolled under this pid.")
        ids = select(ExtractSubject.extract_id).where(ExtractSubject.pid == symbols)
        extracts = session.exec(select(Extract).where(col(Extract.id).in_(ids)).order_by(col(Extract.created_at))).all()
        downloaded = downloads(session, [one.id for one in extracts])
        event = audit.Event("extract:receivers-read", "participant", symbols, person.version, [])
        audit.append(session, audit.SYSTEM, person.site_id, [event])
        return [
            Received(
                one.id,
                ExtractProfile(one.profile),
                one.organisation,
                json.loads(one.manifest or "{}")["created_at"],
                ExtractStatus(one.status),
                one.id in downloaded,
            )
            for one in extracts
        ]


def downloads(session: Session, extracts: Collection[UUID]) -> Mapping[UUID, datetime]:
    """By extract, when one of its files was first downloaded; extracts without a download are missing."""
    entry = AuditEntry
    first = (
        select(entry.subject_id, func.min(entry.at))
        .where(entry.site_id == REGISTRY_CHAIN, entry.subject_type == "extract")
        .where(col(entry.subject_id).in_([str(one) for one in extracts]), entry.action == "extract:downloaded")
        .group_by(col(entry.subject_id))
    )
    with within(session, [REGISTRY_CHAIN]):
        return {UUID(name): at for name, at in session.exec(first)}
