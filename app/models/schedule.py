"""A participant's planned visits, and what is due at the sites of a study."""

from datetime import date
from typing import Annotated

from pydantic import Field as Bounded

from app.models.base import Answer, Code, Filter, FromQuery, IsoDate
from app.models.identifiers import PidShown
from app.models.visit import WindowRead
from app.protocol.planning import VisitState


class PlannedVisitRead(Answer):
    visit_code: str
    occurrence: int
    optional: bool
    state: VisitState
    occurred_on: date | None
    window: WindowRead | None
    waits_for: str | None
    """The anchor visit, where the window is not known until it takes place."""

    deviation_days: int | None
    missing_instruments: list[str]


class ScheduleRead(Answer):
    participant: PidShown
    protocol_version: str
    today: date
    """The calendar day at the site, by which visits are due or overdue."""

    items: list[PlannedVisitRead]
    reconsent_to: list[str]
    """Consent versions that an amendment of the protocol asks this participant to sign."""

    next: str | None = None


class DueVisit(PlannedVisitRead):
    participant: PidShown
    site: str


class DueList(Answer):
    """Visits by the end of their window, earliest first; those without a window last."""

    items: list[DueVisit]
    truncated: bool
    """True: there are more than `limit`."""

    next: str | None = None


class DueQuery(Filter):
    site: Code | None = None
    due_from: Annotated[IsoDate | None, Bounded(alias="from")] = None
    due_to: Annotated[IsoDate | None, Bounded(alias="to")] = None
    """Both included: visits whose window overlaps these days. Without them, what is due or overdue today."""

    limit: Annotated[int, Bounded(ge=1, le=1_000), FromQuery] = 200
