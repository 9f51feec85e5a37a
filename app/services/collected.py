"""What extracts show of participants who withdrew the collection of their data: only what is dated before that day, as
no data of later days are taken. Later records from before the withdrawal became known stay in the registry, but are in
no later extract."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Subquery, func
from sqlmodel import col

from app.access import Rows
from app.models.adverse_event import AdverseEvent
from app.models.among import among
from app.models.base import table_of
from app.models.course import HOLDS, Withdrawal, WithdrawalScope
from app.models.outcome import Outcome
from app.models.participant import Consent
from app.models.visit import Visit
from app.models.voided import counts

_TAKEN, _GIVEN = table_of(Withdrawal).c, table_of(Consent).c

OF_VISIT = (col(Visit.occurred_on),)
OF_OUTCOME = (*OF_VISIT, func.coalesce(col(Outcome.collected_on), col(Visit.occurred_on)))
OF_EVENT = (col(AdverseEvent.onset_latest),)
"""The days of a record. Of one of two days both count: an outcome shows the visit at which it was measured."""


def collected(since: Any, *days: Any) -> ColumnElement[bool]:
    """Whether a record of these days was collected before the collection ended; true where `since` is null. A record
    without a day, or perhaps of a later one, was not."""
    return sa.or_(since.is_(None), sa.and_(*(day < since for day in days)))


def too_late(names: Sequence[str]) -> ColumnElement[bool]:
    """For a consent, named as in `as_at.consents_since`: it was recorded after the moment that is read."""
    name = sa.type_coerce(_GIVEN.pid, sa.Text) + "/" + _GIVEN.version + "/" + sa.cast(_GIVEN.number, sa.Text)
    return among(name, "too_late", names)


def ended(recorded_since: Sequence[str]) -> Subquery:
    """Who withdrew the collection, and `since` which day, by all withdrawals recorded until now, unless a later consent
    restored it (as `Agreed.withdrawn` has it). Consents in `recorded_since`, recorded after the moment that is read,
    restore nothing."""
    same = (_GIVEN.site_id == _TAKEN.site_id, _GIVEN.pid == _TAKEN.pid)
    anew = sa.select(_GIVEN.pid).where(*same, _GIVEN.given_on > _TAKEN.effective_on, ~too_late(recorded_since))
    taken = sa.select(_TAKEN.site_id, _TAKEN.pid, func.min(_TAKEN.effective_on).label("since"))
    these = (_TAKEN.scope == WithdrawalScope.collection, HOLDS, ~anew.exists())
    return taken.where(*these).group_by(_TAKEN.site_id, _TAKEN.pid).subquery("ended")


def while_collected(statement: Rows, ended: Subquery, table: Any, *days: Any) -> Rows:
    """The rows of a statement about a table that were collected while that could be, and not in error."""
    same = (ended.c.site_id == col(table.site_id)) & (ended.c.pid == col(table.pid))
    return statement.outerjoin(ended, same).where(counts(table), collected(ended.c.since, *days))
