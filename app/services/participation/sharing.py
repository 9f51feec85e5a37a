"""Which participants share their data, by their consent; and which withdrew consent after an extract with their data
was approved.

An approved extract does not change (docs/deidentification.md), so custodians are notified, who can revoke it.
Recipients of data do not see the number of withdrawals or the time of one: compared with a later extract they would
lead to the person.
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
from app.models.given import for_each
from app.models.notification import EventType, Notification, SubjectType
from app.models.participant import Participant
from app.models.study import Site
from app.models.voided import counts
from app.protocol.consent import ConsentScope
from app.services.notifications import outbox
from app.services.participation import collected, consent_history
from app.services.participation.consent_history import ConsentHistory
from app.services.participation.participants import Person

_IN, _PERSON = table_of(ExtractSubject).c, table_of(Participant).c
_GIVEN, _TAKEN = table_of(Consent).c, table_of(Withdrawal).c

REPORTED = frozenset({WithdrawalScope.sharing, WithdrawalScope.collection, WithdrawalScope.identity})
"""Withdrawals of which custodians are notified. The other scopes concern no data of an extract."""


def shares(later_consents: Sequence[str] = ()) -> ColumnElement[bool]:
    """Whether the newest consent of a participant (as in `ConsentHistory.scopes`) includes data sharing, and no
    withdrawal ended it since. Each counts as soon as it is recorded: its day is at most today at the site, which
    may be tomorrow here. `later_consents` were recorded after a data cut: they can exclude somebody, but not include
    them."""
    newer = aliased(Consent)
    undated = col(Consent.given_on).is_(None)
    refused = select(newer.pid).where(
        newer.site_id == Consent.site_id,
        newer.pid == Consent.pid,
        counts(newer),
        col(newer.data_sharing).is_(False),
        sa.or_(undated, col(newer.given_on) >= col(Consent.given_on)),
    )
    withdrawn = select(Withdrawal.pid).where(
        Withdrawal.site_id == Consent.site_id,
        Withdrawal.pid == Consent.pid,
        Withdrawal.scope == WithdrawalScope.sharing,
        counts(Withdrawal),
        sa.or_(undated, col(Withdrawal.effective_on) >= col(Consent.given_on)),
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
    """By extract, how many of its people have withdrawn which consent since its approval; extracts without a withdrawal
    are missing. The session must see the sites of their studies."""
    each = sa.union_all(*_withdrawn(session.get_bind().dialect.name, extracts)).subquery().c
    counted = sa.select(each.extract_id, each.scope, func.count()).group_by(each.extract_id, each.scope)
    found: dict[UUID, dict[str, int]] = {}
    for extract_id, scope, people in session.execute(counted):
        found.setdefault(extract_id, {})[scope] = people
    return {extract_id: WithdrawnSince(**by_scope) for extract_id, by_scope in found.items()}


def _withdrawn(dialect: str, extracts: Collection[UUID]) -> list[Rows]:
    """For each scope, which of these extracts have which people who withdrew it since the approval. Sharing: everybody
    who does not share now, as all did then. Collection: it ended since, or on an earlier day than was known. Identity:
    the label was erased after the extract was asked for. They are few, and each is looked up in the extracts, since
    PostgreSQL knows nothing of a new one and would read all of its people for each scope."""
    may_have_stopped = sa.tuple_(_PERSON.site_id, _PERSON.pid).in_(_reasons_to_stop())
    stopped = sa.select(_PERSON.site_id, _PERSON.pid).where(may_have_stopped, ~shares())
    gone = stopped.cte("gone").prefix_with("MATERIALIZED")
    ended = collected.ended(())
    erased = sa.select(_TAKEN.site_id, _TAKEN.pid, func.min(_TAKEN.recorded_at).label("at"))
    erased = erased.where(_TAKEN.scope == WithdrawalScope.identity).group_by(_TAKEN.site_id, _TAKEN.pid)
    labels = erased.subquery("erased")
    earlier = sa.or_(_IN.collection_ended_on.is_(None), ended.c.since < _IN.collection_ended_on)
    asked_before = sa.select(col(Extract.id)).correlate(labels, table_of(ExtractSubject))
    asked_before = asked_before.where(col(Extract.id) == _IN.extract_id, col(Extract.created_at) <= labels.c.at)
    of_each = (
        (WithdrawalScope.sharing, gone, sa.true()),
        (WithdrawalScope.collection, ended, earlier),
        (WithdrawalScope.identity, labels, asked_before.exists()),
    )
    held = among(_IN.extract_id, "extracts", list(extracts))
    return [
        for_each(
            dialect,
            people,
            sa.select(_IN.extract_id, _IN.pid, literal(scope.value).label("scope")).where(
                _IN.site_id == people.c.site_id, _IN.pid == people.c.pid, held, condition
            ),
        )
        for scope, people, condition in of_each
    ]


def _reasons_to_stop() -> Any:
    """The people with a consent that does not share or was voided, or with a withdrawal of sharing: without any of
    these, somebody who shared shares still. They are few, and `shares` takes long for everybody."""
    not_sharing = sa.or_(~_GIVEN.data_sharing, _GIVEN.voided_at.is_not(None))
    withdrawn = sa.select(_TAKEN.site_id, _TAKEN.pid).where(_TAKEN.scope == WithdrawalScope.sharing)
    return sa.select(_GIVEN.site_id, _GIVEN.pid).where(not_sharing).union(withdrawn)


def notify(session: Session, site_id: int, pid: str) -> None:
    """Notify of each extract that has data of this participant and can be downloaded, now or once it is built. Call it
    in the transaction of the withdrawal. A message names the extract, but neither participant nor site."""
    study_id = session.get_one(Site, site_id).study_id
    has_data = sa.select(_IN.pid).where(_IN.extract_id == col(Extract.id), _IN.site_id == site_id, _IN.pid == pid)
    there = (col(Extract.status).in_(OPEN), col(Extract.expires_at) > now(), has_data.exists())
    session.flush()
    for extract_id in session.scalars(select(Extract.id).where(Extract.study_id == study_id, *there)):
        _notify(session, study_id, extract_id)


def notify_if_ended(session: Session, person: Person, before: ConsentHistory) -> None:
    """As `notify`, after a consent was recorded, corrected or voided, if unlike `before` the participant shares no data
    now, or the collection ended, or did so on an earlier day: that consent had restored it."""
    after = consent_history.history_of(session, person)
    if _shared(after) < _shared(before) or _collected_until(after) < _collected_until(before):
        notify(session, person.site_id, person.pid)


def _shared(history: ConsentHistory) -> bool:
    return ConsentScope.data_sharing in history.scopes(date.max)


def _collected_until(history: ConsentHistory) -> date:
    return history.withdrawn(date.max).get(WithdrawalScope.collection, date.max)


def notify_if_missed(session: Session, study_id: int, extract_id: UUID) -> None:
    """Notify of a finished extract if a withdrawal was recorded at the moment of its approval, when neither transaction
    saw the other. The session must see the sites of the study."""
    notified = select(Notification.id).where(
        Notification.type == EventType.extract_consent_withdrawn, Notification.subject_id == extract_id
    )
    if withdrawn_since(session, [extract_id]) and session.scalars(notified.limit(1)).first() is None:
        _notify(session, study_id, extract_id)


def _notify(session: Session, study_id: int, extract_id: UUID) -> None:
    event, kind = EventType.extract_consent_withdrawn, SubjectType.extract
    outbox.notify(session, event, None, study_id, kind, extract_id)
