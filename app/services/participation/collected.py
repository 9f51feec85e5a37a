"""What extracts show of participants who withdrew consent to the collection of their data: only records dated before
the day of withdrawal. Records of later days, made before the withdrawal became known, stay in the registry but are in
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
from app.models.consent import Consent, Withdrawal, WithdrawalScope
from app.models.outcome import Outcome
from app.models.visit import Visit
from app.models.voided import counts

_TAKEN, _GIVEN = table_of(Withdrawal).c, table_of(Consent).c

OF_VISIT = (col(Visit.occurred_on),)
OF_OUTCOME = (*OF_VISIT, func.coalesce(col(Outcome.collected_on), col(Visit.occurred_on)))
OF_EVENT = (col(AdverseEvent.onset_latest),)
"""The days of a record, all of which must be before the withdrawal. An outcome has two, as it also shows its visit."""


def collected(since: Any, *days: Any) -> ColumnElement[bool]:
    """Whether all `days` of a record are before `since`, the day on which the collection ended; true where `since` is
    NULL. Not true for a record without a day, or with an imprecise date that may be later."""
    return sa.or_(since.is_(None), sa.and_(*(day < since for day in days)))


def among_consents(names: Sequence[str]) -> ColumnElement[bool]:
    """Whether a consent is one of `names`, in the form of `as_at.consents_since`."""
    name = sa.type_coerce(_GIVEN.pid, sa.Text) + "/" + _GIVEN.version + "/" + sa.cast(_GIVEN.number, sa.Text)
    return among(name, "later_consents", names)


def ended(later_consents: Sequence[str]) -> Subquery:
    """The participants who withdrew consent to the collection, and the day (`since`), by all withdrawals recorded until
    now, unless a later consent restored it (as in `ConsentHistory.withdrawn`). `later_consents`, recorded after the
    moment that is read, restore nothing."""
    same = (_GIVEN.site_id == _TAKEN.site_id, _GIVEN.pid == _TAKEN.pid, counts(Consent))
    anew = sa.select(_GIVEN.pid).where(*same, _GIVEN.given_on > _TAKEN.effective_on, ~among_consents(later_consents))
    taken = sa.select(_TAKEN.site_id, _TAKEN.pid, func.min(_TAKEN.effective_on).label("since"))
    these = (_TAKEN.scope == WithdrawalScope.collection, counts(Withdrawal), ~anew.exists())
    return taken.where(*these).group_by(_TAKEN.site_id, _TAKEN.pid).subquery("ended")


def while_collected(statement: Rows, ended: Subquery, table: Any, *days: Any) -> Rows:
    """The statement limited to rows of `table` that are not voided and that `collected` accepts."""
    same = (ended.c.site_id == col(table.site_id)) & (ended.c.pid == col(table.pid))
    return statement.outerjoin(ended, same).where(counts(table), collected(ended.c.since, *days))
