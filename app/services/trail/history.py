"""The history of one record, field by field, from the audit trail."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from sqlmodel import Session, col, select

from app.audit import SYSTEM
from app.models.account import Account
from app.models.audit import AuditEntry, HistoryRead


def history_of(session: Session, site_id: int, subject_type: str, subject_id: object) -> list[HistoryRead]:
    """Every change of every field, oldest first. The caller has checked that the record exists for the actor."""
    entries = session.exec(
        select(AuditEntry)
        .where(
            AuditEntry.site_id == site_id,
            AuditEntry.subject_type == subject_type,
            AuditEntry.subject_id == str(subject_id),
        )
        .order_by(col(AuditEntry.seq))
    ).all()
    names = names_of(session, {entry.actor for entry in entries})
    return [
        HistoryRead(
            **change,
            actor=entry.actor,
            actor_name=names.get(entry.actor),
            at=entry.at,
            reason=entry.reason,
            action=entry.action,
            version=entry.subject_version,
        )
        for entry in entries
        for change in json.loads(entry.changes)
    ]


def versions_of(
    session: Session, site_id: int, subject_type: str, subject_id: str, before: int | None = None
) -> Iterator[tuple[str, set[str], dict[str, Any]]]:
    """Every change of a record, oldest first: the action, the fields that it changed, and all fields as they then
    were. `before`: only those before this entry of the site's chain."""
    entries = select(AuditEntry.action, AuditEntry.changes).where(
        AuditEntry.site_id == site_id, AuditEntry.subject_type == subject_type, AuditEntry.subject_id == subject_id
    )
    if before is not None:
        entries = entries.where(AuditEntry.seq < before)
    was: dict[str, Any] = {}
    for action, changes in session.exec(entries.order_by(col(AuditEntry.seq))):
        new = {change["field"]: change["new"] for change in json.loads(changes)}
        was = {**was, **new}
        yield action, set(new), was


def names_of(session: Session, actors: set[str]) -> dict[str, str]:
    """The display names of accounts, by their id in audit entries."""
    ids = [UUID(actor) for actor in actors if actor != SYSTEM]
    rows = session.exec(select(Account.id, Account.display_name).where(col(Account.id).in_(ids))).all()
    return {str(account_id): name for account_id, name in rows}
