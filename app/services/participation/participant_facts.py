"""The stored data against which a new record of a participant is checked: the participant, consents, withdrawals, locks
of data, and visits.

They are read by two statements, for one participant as for a hundred; the checks themselves use no database. The first
statement locks the participants' rows until the commit. The second one then reads data that nobody can change any more.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import literal, null
from sqlalchemy.types import TypeEngine
from sqlmodel import Session

from app.access import Actor, Place, found, reach, visible
from app.errors import Conflict, Fault
from app.models.among import among
from app.models.base import table_of
from app.models.consent import Consent, Withdrawal
from app.models.given import for_each, given
from app.models.participant import Participant, left_study_on
from app.models.visit import Visit
from app.models.voided import counts
from app.protocol.definition import Protocol
from app.protocol.schedule import Held
from app.services.participation.consent_history import ConsentHistory, ConsentWithdrawal, GivenConsent, history_of
from app.services.participation.participants import Person
from app.services.studies import protocol_of
from app.services.unlocked import Closed, closing, require_not_voided, require_open

_PEOPLE, _CONSENTS, _WITHDRAWALS, _VISITS = (table_of(one) for one in (Participant, Consent, Withdrawal, Visit))


class ConsentMissing(Conflict):
    """No consent of the participant was in force on that day, or none with the scope that the visit needs."""


class ParticipantLeft(Conflict):
    """The participant had left the study before that day; no new data are accepted."""


class NewVisit(NamedTuple):
    """A visit that this request records."""

    pid: str
    visit_code: str
    occurrence: int


@dataclass
class ParticipantFacts:
    """One participant, whose row is locked until the commit, with what is stored and what this request adds."""

    site_id: int
    pid: str
    status: str
    status_on: date | None
    earlier_ends: str | None
    protocol_version_id: int
    voided_at: datetime | None
    place: Place
    protocol: Protocol
    consents: ConsentHistory = field(default_factory=lambda: ConsentHistory([], []))
    closed: list[Closed] = field(default_factory=list)
    visits: dict[tuple[str, int], date | None] = field(default_factory=dict)
    """The day of each stored visit, by code and occurrence; only of those that the new visits of this request need."""
    new_visits: list[dict[str, Any]] = field(default_factory=list)
    """Visits that this request adds and has not stored yet."""
    new_visit_codes: set[str] = field(default_factory=set)
    """Codes of all visits in this request that took place, including those not processed yet."""
    new_therapists: frozenset[str] = frozenset()
    """Staff of therapy sessions that this request adds and has not stored yet."""
    new_ratings: frozenset[tuple[str, str]] = frozenset()
    """Instrument and rater of outcomes that this request adds and has not stored yet."""

    @property
    def held(self) -> Held:
        """The visits in `visits` that took place, with their day."""
        return {visit: day for visit, day in self.visits.items() if day is not None}

    def require_unlocked(
        self, visit_id: UUID | None = None, visit_code: str | None = None, *, through_freeze: bool = False
    ) -> None:
        """Raises DataLocked."""
        require_open(self.closed, visit_id, visit_code, through_freeze=through_freeze)

    def add(self, fact: Any) -> None:
        """Add a row of `_facts`."""
        match fact.kind:
            case "given":
                self.consents.consents.append(GivenConsent(fact.name, fact.day, fact.text))
            case "taken":
                self.consents.withdrawals.append(ConsentWithdrawal(fact.name, fact.day))
            case "visit":
                self.visits[fact.name, fact.number] = fact.day
            case "closed":
                self.closed.append(Closed(fact.id, fact.name, fact.text, fact.visit_id, fact.visit_code, fact.at))


def of_whom(people: Mapping[str, ParticipantFacts], pid: str) -> ParticipantFacts:
    """The participant of whom something new is recorded. Raises NotFound, RecordVoided."""
    person = found(people.get(pid))
    require_not_voided(person)
    return person


def require_in_study(
    person: ParticipantFacts | Participant, consents: ConsentHistory, on: date | None, scope: str | None
) -> None:
    """Check that the participant was in the study on the day, with a consent in force that has the visit's `scope`.

    Raises ParticipantLeft, ConsentMissing, CollectionWithdrawn.
    """
    if on is None:
        return
    left = left_study_on(person)
    if left is not None and on > left:
        raise ParticipantLeft
    if consents.newest(on) is None:
        raise ConsentMissing
    consents.require_collection(on)
    if scope is not None and scope not in consents.scopes(on):
        raise ConsentMissing(Fault("", "scope_missing", f"No consent in force for: {scope}"))


def require_consent(session: Session, person: Person) -> None:
    """Nobody begins to take part of whom no consent is recorded at all (ICH E6(R2), 4.8.8): the only one may have been
    voided. Of a wrong day it is a finding. Raises ConsentMissing."""
    if not history_of(session, person).consents:
        raise ConsentMissing


def participant_facts(
    session: Session,
    actor: Actor,
    pids: Collection[str],
    new: Iterable[NewVisit] = (),
    *,
    for_change: bool = False,
) -> dict[str, ParticipantFacts]:
    """The participants with these pids that exist for the actor, by pid. `new`: the visits to be recorded;
    `for_change`: lock the rows against other writers of the participant's records too, and not only against changes of
    the row."""
    connection = session.connection()
    locked = connection.execute(_locked(for_change), {"pids": sorted(pids), **reach(actor)})
    people = {
        row.pid: ParticipantFacts(
            **row._mapping,
            place=actor.places[row.site_id],
            protocol=protocol_of(session, row.protocol_version_id),
        )
        for row in locked.all()
    }
    if people:
        for fact in connection.execute(_facts(connection.dialect.name), _asked(people, new)):
            for person in people.values() if fact.pid is None else (people[fact.pid],):
                if person.site_id == fact.site_id:
                    person.add(fact)
    return people


def _asked(people: Mapping[str, ParticipantFacts], new: Iterable[NewVisit]) -> dict[str, list[Any]]:
    """What to read, as keys. Of visits those to be recorded, which may be stored already, and the first of those from
    which their days are judged; of those that each screening has, all."""
    visits, screenings = set[tuple[str, str, int]](), set[tuple[str, str]]()
    for visit in new:
        if visit.pid in people:
            protocol = people[visit.pid].protocol
            others = ((code, 1) for code in protocol.depends_on(visit.visit_code))
            for code, occurrence in ((visit.visit_code, visit.occurrence), *others):
                if protocol.by_screening(code):
                    screenings.add((visit.pid, code))
                else:
                    visits.add((visit.pid, code, occurrence))
    keys = {pid: {"site_id": person.site_id, "pid": pid} for pid, person in people.items()}
    return {
        "people": [*keys.values()],
        "visits": [{**keys[pid], "visit_code": code, "occurrence": one} for pid, code, one in visits],
        "screenings": [{**keys[pid], "visit_code": code} for pid, code in screenings],
        "sites": sorted({person.site_id for person in people.values()}),
        "pids": [*people],
    }


@cache
def _locked(for_change: bool) -> Any:
    names = ("site_id", "pid", "status", "status_on", "earlier_ends", "protocol_version_id", "voided_at")
    wanted = [_PEOPLE.c[name] for name in names]
    statement = visible(sa.select(*wanted).where(among(_PEOPLE.c.pid, "pids", unseen=True)), None)
    return statement.order_by(_PEOPLE.c.site_id, _PEOPLE.c.pid).with_for_update(
        read=not for_change, key_share=for_change
    )


_FACT: Mapping[str, TypeEngine[Any]] = {
    "kind": sa.String(),
    "site_id": sa.Integer(),
    "pid": sa.String(),
    "name": sa.String(),
    "text": sa.Text(),
    "day": sa.Date(),
    "number": sa.Integer(),
    "id": sa.Uuid(),
    "visit_id": sa.Uuid(),
    "visit_code": sa.String(),
    "at": sa.DateTime(timezone=True),
}


_PERSON = ("site_id", "pid")
_SCREENING = (*_PERSON, "visit_code")
_VISIT = (*_SCREENING, "occurrence")


@cache
def _facts(dialect: str) -> Any:
    """What is stored under the keys that are given; a freeze or lock of a whole site has no pid."""
    given_on = {"name": _CONSENTS.c.version, "day": _CONSENTS.c.given_on, "text": _CONSENTS.c.scopes}
    taken_on = {"name": _WITHDRAWALS.c.scope, "day": _WITHDRAWALS.c.effective_on}
    held_on = {"name": _VISITS.c.visit_code, "day": _VISITS.c.occurred_on, "number": _VISITS.c.occurrence}
    consents = _part("given", _CONSENTS.c, **given_on).where(counts(_CONSENTS))
    withdrawals = _part("taken", _WITHDRAWALS.c, **taken_on).where(counts(_WITHDRAWALS))
    visits = _part("visit", _VISITS.c, **held_on).where(counts(_VISITS))
    locks = closing(dialect).c
    of_lock = {"id": locks.id, "visit_id": locks.visit_id, "visit_code": locks.visit_code, "at": locks.set_at}
    return sa.union_all(
        _under(dialect, "people", _PERSON, {_CONSENTS: consents, _WITHDRAWALS: withdrawals}),
        _under(dialect, "visits", _VISIT, {_VISITS: visits}),
        _under(dialect, "screenings", _SCREENING, {_VISITS: visits}),
        _part("closed", locks, name=locks.kind, text=locks.scope, **of_lock),
    )


def _under(dialect: str, name: str, key: Sequence[str], parts: Mapping[sa.Table, sa.Select[Any]]) -> sa.Select[Any]:
    """What these parts, each of one table, find under the keys given by this name."""
    keys = given(dialect, name, **{one: _VISITS.c[one].type for one in key})
    found = (part.where(*(table.c[one] == keys.c[one] for one in key)).correlate(keys) for table, part in parts.items())
    return for_each(dialect, keys, sa.union_all(*found))


def _part(kind: str, of: Any, **columns: Any) -> sa.Select[Any]:
    """The SELECT of one kind of fact; columns that it does not have are NULL."""
    named = {"kind": literal(kind), "site_id": of.site_id, "pid": of.pid, **columns}
    wanted = (
        (sa.type_coerce(named[name], of) if name in named else sa.cast(null(), of)).label(name)
        for name, of in _FACT.items()
    )
    return sa.select(*wanted)
