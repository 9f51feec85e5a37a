"""The stored data against which a new record of a participant is checked: the participant, consents, withdrawals, locks
of data, and visits.

They are read by two statements, for one participant as for a hundred; the checks themselves use no database. The first
statement locks the participants' rows until the commit. The second one then reads data that nobody can change any more.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import literal, null
from sqlalchemy.types import TypeEngine
from sqlmodel import Session

from app.access import Actor, Place, reach, visible
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
from app.services.consent_history import ConsentHistory, ConsentWithdrawal, GivenConsent, history_of
from app.services.participants import Person
from app.services.studies import protocol_of
from app.services.unlocked import Closed, closing, require_open

_PEOPLE, _CONSENTS, _WITHDRAWALS, _VISITS = (table_of(one) for one in (Participant, Consent, Withdrawal, Visit))


class ConsentMissing(Conflict):
    """No consent of the participant was in force on that day, or none with the scope that the visit needs."""


class ParticipantLeft(Conflict):
    """The participant had left the study before that day; no new data are taken."""


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
        asked = {**_asked(people), **_needed(people, new)}
        for fact in connection.execute(_facts(connection.dialect.name), asked):
            for person in people.values() if fact.pid is None else (people[fact.pid],):
                if person.site_id == fact.site_id:
                    person.add(fact)
    return people


def _asked(people: Mapping[str, ParticipantFacts]) -> dict[str, list[Any]]:
    keys = [{"site_id": person.site_id, "pid": pid} for pid, person in people.items()]
    return {"people": keys, "pids": [*people], "sites": sorted({person.site_id for person in people.values()})}


def _needed(people: Mapping[str, ParticipantFacts], new: Iterable[NewVisit]) -> dict[str, list[Any]]:
    """The codes and occurrences to read: the visits themselves, which may be stored already, and those from which their
    windows are counted; of screening visits those of all screenings."""
    codes, screenings, occurrences = set[str](), set[str](), {1}
    for visit in new:
        if visit.pid in people:
            protocol = people[visit.pid].protocol
            theirs = {visit.visit_code, *protocol.depends_on(visit.visit_code)}
            codes |= theirs
            screenings |= {code for code in theirs if protocol.by_screening(code)}
            occurrences.add(visit.occurrence)
    return {"codes": sorted(codes), "screenings": sorted(screenings), "occurrences": sorted(occurrences)}


@cache
def _locked(for_change: bool) -> Any:
    names = ("site_id", "pid", "status", "status_on", "earlier_ends", "protocol_version_id")
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


@cache
def _facts(dialect: str) -> Any:
    """What is stored of the people given as `people`; of a freeze or lock of their whole site the pid is NULL."""
    people = given(dialect, "people", site_id=_PEOPLE.c.site_id.type, pid=_PEOPLE.c.pid.type)

    def theirs(kind: str, table: sa.Table, **columns: Any) -> sa.Select[Any]:
        of_one = table.c.site_id == people.c.site_id, table.c.pid == people.c.pid
        return _part(kind, table.c, **columns).where(*of_one).correlate(people)

    visit_code, occurrence, day = _VISITS.c.visit_code, _VISITS.c.occurrence, _VISITS.c.occurred_on
    found = sa.union_all(
        theirs("given", _CONSENTS, name=_CONSENTS.c.version, day=_CONSENTS.c.given_on, text=_CONSENTS.c.scopes).where(
            counts(_CONSENTS)
        ),
        theirs("taken", _WITHDRAWALS, name=_WITHDRAWALS.c.scope, day=_WITHDRAWALS.c.effective_on).where(
            counts(_WITHDRAWALS)
        ),
        theirs("visit", _VISITS, name=visit_code, day=day, number=occurrence).where(
            counts(_VISITS),
            among(visit_code, "codes", unseen=True),
            sa.or_(among(occurrence, "occurrences", unseen=True), among(visit_code, "screenings", unseen=True)),
        ),
    )
    locks = closing(dialect).c
    of_lock = {"id": locks.id, "visit_id": locks.visit_id, "visit_code": locks.visit_code, "at": locks.set_at}
    closed = _part("closed", locks, name=locks.kind, text=locks.scope, **of_lock)
    return sa.union_all(for_each(dialect, people, found), closed)


def _part(kind: str, of: Any, **columns: Any) -> sa.Select[Any]:
    """The SELECT of one kind of fact; columns that it does not have are NULL."""
    named = {"kind": literal(kind), "site_id": of.site_id, "pid": of.pid, **columns}
    wanted = (
        (sa.type_coerce(named[name], of) if name in named else sa.cast(null(), of)).label(name)
        for name, of in _FACT.items()
    )
    return sa.select(*wanted)
