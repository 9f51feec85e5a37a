"""Exposure: on which days participants had a dose."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, select, true
from sqlmodel import Session

from app.models.among import among
from app.models.base import table_of
from app.models.dosing_session import Dose, DoseKind, DosingSession
from app.models.participant import Participant
from app.models.visit import Visit
from app.models.voided import counts
from app.services.studies import protocol_of

_PERSON, _VISIT = table_of(Participant), table_of(Visit)
_SESSION, _DOSE = table_of(DosingSession), table_of(Dose)


class Exposure(NamedTuple):
    """A participant's doses and the last day on which they were seen at a visit."""

    doses: Sequence[date]
    last_seen: date | None

    def days_since(self, onset: date) -> int | None:
        """Days from the last dose before the onset; None if there is none."""
        before = [day for day in self.doses if day <= onset]
        return (onset - before[-1]).days if before else None

    def emergent(self, onset_latest: date | None) -> bool | None:
        """Whether an event can have begun on or after the day of the first dose (ICH E9, glossary: treatment emergent);
        true if the onset is unknown, None without a dose."""
        if not self.doses:
            return None
        return onset_latest is None or onset_latest >= self.doses[0]


NEVER = Exposure((), None)


def exposures(session: Session, site_ids: Sequence[int], pids: Collection[str] | None = None) -> Mapping[str, Exposure]:
    """The exposure by pid, of these participants, or of all at these sites; participants without a visit are missing.
    One statement.

    A dose counts if it was given (ICH E9, section 5.2.3). A dosing visit without a dosing session counts as one with a
    dose, as not every study records sessions.
    """
    here = visits_without_dose().where(_DOSE.c.site_id.in_(site_ids), _of(_DOSE.c.pid, pids))
    without = _VISIT.c.id.in_(here).label("without")
    person = (_PERSON.c.site_id == _VISIT.c.site_id) & (_PERSON.c.pid == _VISIT.c.pid)
    visits = (
        select(_VISIT.c.pid, _PERSON.c.protocol_version_id, _VISIT.c.visit_code, _VISIT.c.occurred_on, without)
        .join(_PERSON, person)
        .where(_VISIT.c.site_id.in_(site_ids), _VISIT.c.occurred_on.is_not(None), counts(_VISIT))
        .where(_of(_VISIT.c.pid, pids), _of(_PERSON.c.pid, pids))
    )
    doses: dict[str, list[date]] = defaultdict(list)
    seen: dict[str, date] = {}
    rows = session.execute(visits, {"pids": sorted(pids)} if pids is not None else {}).all()
    dosing_visits = {
        version: protocol_of(session, version).exposure for version in {row.protocol_version_id for row in rows}
    }
    for symbols, version, code, day, not_given in rows:
        seen[symbols] = max(day, seen.get(symbols, day))
        if code in dosing_visits[version] and not not_given:
            doses[symbols].append(day)
    return {symbols: Exposure(sorted(doses[symbols]), day) for symbols, day in seen.items()}


def visits_without_dose() -> Select[Any]:
    """The visits whose dosing session says that the initial dose was not given."""
    of_session = (_DOSE.c.site_id == _SESSION.c.site_id) & (_DOSE.c.session_id == _SESSION.c.id)
    not_given = (_DOSE.c.kind == DoseKind.initial) & _DOSE.c.given_mg.is_(None)
    return select(_SESSION.c.visit_id).join(_DOSE, of_session).where(not_given, counts(_SESSION))


def _of(pid: Any, pids: Collection[str] | None) -> ColumnElement[bool]:
    return true() if pids is None else among(pid, "pids")
