"""Who shares their data, by their consent; and who withdrew consent after an extract was approved that contains them.

What was approved stays as it is (docs/deidentification.md), so custodians are told, who can revoke an extract. Nobody
who receives data is told the number of withdrawals or the time of one: compared with a later extract they would lead to
the person.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import ColumnElement, func, literal
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from app.access import Rows
from app.models.among import among
from app.models.base import now, table_of
from app.models.consent import Consent, Withdrawal, WithdrawalScope
from app.models.extract import OPEN, Extract, ExtractSubject, WithdrawnSince
from app.models.notification import EventType, Notification, SubjectType
from app.models.participant import Participant
from app.models.study import Site
from app.models.voided import counts
from app.protocol.consent import ConsentScope
from app.services import collected, consent_history, outbox
from app.services.participants import Person

_IN, _PERSON, _TAKEN = table_of(ExtractSubject).c, table_of(Participant).c, table_of(Withdrawal).c

REPORTED = frozenset({WithdrawalScope.sharing, WithdrawalScope.collection, WithdrawalScope.identity})
"""Withdrawals that custodians are told of. No row of an extract was made under the other scopes."""


def shares(later_consents: Sequence[str] = ()) -> ColumnElement[bool]:
    """Whether the newest consent of a participant (as in `ConsentHistory.scopes`) includes data sharing, and no
    withdrawal ended it since. Each counts as soon as it is recorded: its day is at most today at the site, which
    may be tomorrow here. `later_consents` were recorded after a data cut: they can exclude somebody, but not include
    them."""
    other, taken = aliased(Consent), Withdrawal
    undated = col(Consent.given_on).is_(None)
    refused = select(other.pid).where(
        other.site_id == Consent.site_id,
        other.pid == Consent.pid,
        counts(other),
        col(other.data_sharing).is_(False),
        sa.or_(undated, col(other.given_on) >= col(Consent.given_on)),
    )
    withdrawn = select(taken.pid).where(
        taken.site_id == Consent.site_id,
        taken.pid == Consent.pid,
        taken.scope == WithdrawalScope.sharing,
        counts(Withdrawal),
        sa.or_(undated, col(taken.effective_on) >= col(Consent.given_on)),
    )
    consented = select(Consent.pid).where(
        Consent.site_id == Participant.site_id,
        Consent.pid == Participant.pid,
        counts(Consent),
        col(Consent.data_sharing).is_(True),
        ~collected.among_consents(later_consents),
        ~refused.exists(),
        ~withdrawn.exists(),
    )
    return consented.exists()


def withdrawn_since(session: Session, extracts: Collection[UUID]) -> Mapping[UUID, WithdrawnSince]:
    """How many people of each of these extracts have withdrawn which consent since it was approved; only extracts of
    which anybody has. The session must see the sites of their studies."""
    each = sa.union_all(*(taken.where(among(_IN.extract_id, "extracts", list(extracts))) for taken in _withdrawn()))
    told = each.subquery()
    counted = sa.select(told.c.extract_id, told.c.scope, func.count()).group_by(told.c.extract_id, told.c.scope)
    found: dict[UUID, dict[str, int]] = {}
    for extract_id, scope, people in session.execute(counted):
        found.setdefault(extract_id, {})[scope] = people
    return {extract_id: WithdrawnSince(**by_scope) for extract_id, by_scope in found.items()}


def _withdrawn() -> list[Rows]:
    """For each scope the extracts and people of whom its consent was withdrawn since the approval. Who does not share
    any more did so then; the collection ended since, or on an earlier day than was known; a label that was erased
    before somebody asked for the extract is no news."""
    gone = sa.select(_PERSON.site_id, _PERSON.pid).where(~shares()).cte("gone").prefix_with("MATERIALIZED")
    ended = collected.ended(())
    erased = sa.select(_TAKEN.site_id, _TAKEN.pid, func.min(_TAKEN.recorded_at).label("at"))
    erased = erased.where(_TAKEN.scope == WithdrawalScope.identity).group_by(_TAKEN.site_id, _TAKEN.pid)
    labels = erased.subquery("erased")
    earlier = sa.or_(_IN.collection_ended_on.is_(None), ended.c.since < _IN.collection_ended_on)
    asked_before = sa.select(col(Extract.id)).where(
        col(Extract.id) == _IN.extract_id, col(Extract.created_at) <= labels.c.at
    )
    return [
        _held(WithdrawalScope.sharing, gone),
        _held(WithdrawalScope.collection, ended).where(earlier),
        _held(WithdrawalScope.identity, labels).where(asked_before.exists()),
    ]


def _held(scope: WithdrawalScope, people: Any) -> Rows:
    same = (_IN.site_id == people.c.site_id) & (_IN.pid == people.c.pid)
    wanted = sa.select(_IN.extract_id, _IN.pid, literal(scope.value).label("scope"))
    return wanted.select_from(table_of(ExtractSubject).join(people, same))


def tell(session: Session, site_id: int, pid: str) -> None:
    """Notify of each extract that holds this participant, can be downloaded, or is going to be. Call it in the
    transaction of the withdrawal. A message names the extract: neither the participant nor the site."""
    study_id = session.get_one(Site, site_id).study_id
    held = sa.select(_IN.pid).where(_IN.extract_id == col(Extract.id), _IN.site_id == site_id, _IN.pid == pid)
    there = (col(Extract.status).in_(OPEN), col(Extract.expires_at) > now(), held.exists())
    session.flush()
    for extract_id in session.scalars(select(Extract.id).where(Extract.study_id == study_id, *there)):
        _tell(session, study_id, extract_id)


def tell_if_ended(session: Session, person: Person) -> None:
    """The same after a consent was recorded or corrected, if the participant does not share data by the newest one."""
    if ConsentScope.data_sharing not in consent_history.history_of(session, person).scopes(date.max):
        tell(session, person.site_id, person.row.pid)


def tell_if_untold(session: Session, study_id: int, extract_id: UUID) -> None:
    """Notify of a finished extract whose people withdrew consent in the same moment in which it was approved: neither
    transaction saw the other. The session must see the sites of the study."""
    told = select(Notification.id).where(
        Notification.type == EventType.extract_consent_withdrawn, Notification.subject_id == extract_id
    )
    if withdrawn_since(session, [extract_id]) and session.scalars(told.limit(1)).first() is None:
        _tell(session, study_id, extract_id)


def _tell(session: Session, study_id: int, extract_id: UUID) -> None:
    tell_of, kind = EventType.extract_consent_withdrawn, SubjectType.extract
    outbox.tell(session, tell_of, None, study_id, kind, extract_id)
