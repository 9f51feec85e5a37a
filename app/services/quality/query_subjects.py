"""What a data query is about: the record as the asking monitor sees it, and whether it has the field."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from sqlmodel import Session, col, select

from app.access import Actor, Rows, found, visible
from app.errors import Conflict, Fault, Invalid
from app.models.adverse_event import AdverseEvent
from app.models.base import Answer
from app.models.data_query import SubjectType
from app.models.data_query_shapes import DataQueryCreate
from app.models.visit import Visit
from app.models.voided import counts
from app.services.assessments import outcome_reads, visits
from app.services.dosing import dosing_reads
from app.services.participation import consents, screenings, treatments
from app.services.participation.participants import Person, read_one, visible_person
from app.services.safety import adverse_events
from app.services.unlocked import require_not_voided


class FieldUnknown(Invalid):
    """The record that the data query is about has no such field."""


class VisitNotMissing(Conflict):
    """That visit is recorded; ask about the record itself."""


_BOOKKEEPING = frozenset(
    {"created_at", "findings", "id", "participant", "pid", "site", "study", "updated_at", "version"}
)
_AT_ENROLMENT = {"consent": {"version": 0, "given_on": 0, "scopes": 0}, "eligibility": {"met": 0, "unmet": 0}}
"""What enrolment takes beside the fields that a participant is answered with."""

_LISTS: Mapping[str, Callable[[Session, Actor, Person], Iterable[Answer]]] = {
    "consents": lambda session, _actor, person: consents.state(session, person).consents,
    "screenings": lambda session, _actor, person: screenings.read_all(session, person),
    "treatments": lambda session, actor, person: treatments.of(session, actor, person.pid).items,
    "withdrawals": lambda session, _actor, person: consents.state(session, person).withdrawals,
}
"""What a participant has lists of, in the order of their routes. Each is read when it is asked about."""

_OWN_ROUTE: Mapping[SubjectType, Callable[[Session, Actor, UUID], Answer]] = {
    SubjectType.visit: visits.detail,
    SubjectType.adverse_event: adverse_events.detail,
}
"""What tells more of a record than lists do, and takes longer: it is read when that is asked about."""

_RECORDS_OF_THEIR_OWN = frozenset({"outcomes"})
"""Of a visit, which stand there in an order that the next one changes."""


class About(NamedTuple):
    """What a question is about, as it is kept."""

    site_id: int
    field: str | None
    """With the name of a dose, reading, treatment or consent for its place in the list, which changes when an earlier
    one is told later."""


def asked_about(session: Session, actor: Actor, asked: DataQueryCreate) -> About:
    """The site and the field that a question is about. Raises NotFound, RecordVoided, VisitUnknown, VisitNotMissing,
    FieldUnknown."""
    person = visible_person(session, actor, asked.participant)
    if asked.subject_type is SubjectType.missing_visit:
        _require_missing(session, person, asked)
        return About(person.site_id, None)
    record = _record(session, actor, person, asked)
    return About(person.site_id, asked.field and _kept(record, asked.field))


def _require_missing(session: Session, person: Person, asked: DataQueryCreate) -> None:
    assert asked.visit_code is not None
    assert asked.occurrence is not None
    require_not_voided(person.row)
    planned = visits.planned_visit(person.protocol, asked.visit_code)
    visits.require_planned(session, person.site_id, person.row.pid, planned, asked.occurrence)
    recorded = select(Visit.id).where(
        Visit.site_id == person.site_id,
        Visit.pid == person.row.pid,
        counts(Visit),
        Visit.visit_code == asked.visit_code,
        Visit.occurrence == asked.occurrence,
    )
    if session.exec(recorded).first() is not None:
        raise VisitNotMissing


def _record(session: Session, actor: Actor, person: Person, asked: DataQueryCreate) -> dict[str, Any]:
    """The record as its own route answers it, of a participant with what else the site recorded about the person."""
    if asked.subject_type is SubjectType.participant:
        read_too = [name for name in _LISTS if asked.field and asked.field.split("/")[1] == name]
        lists = {name: [one.model_dump() for one in _LISTS[name](session, actor, person)] for name in read_too}
        return {**read_one(session, actor, asked.participant).model_dump(mode="json"), **_AT_ENROLMENT, **lists}
    assert asked.subject is not None
    read: Any = _read_record(session, actor, asked.subject_type, asked.subject)
    found(read if read.participant == asked.participant else None)
    document: dict[str, Any] = read.model_dump(mode="json")
    of_all = _OWN_ROUTE.get(asked.subject_type)
    if of_all is None or asked.field is None or asked.field.split("/")[1] in document:
        return document
    return of_all(session, actor, asked.subject).model_dump(mode="json", exclude=set(_RECORDS_OF_THEIR_OWN))


def _read_record(session: Session, actor: Actor, subject_type: SubjectType, subject: UUID) -> Answer:
    def one(rows: Rows, column: Any) -> Any:
        return found(session.execute(visible(rows.where(col(column) == subject), actor)).first())

    if subject_type is SubjectType.visit:
        return visits.read(one(visits.rows(), Visit.id), actor)
    if subject_type is SubjectType.adverse_event:
        return adverse_events.read(one(adverse_events.rows(), AdverseEvent.id), actor)
    if subject_type is SubjectType.dosing_session:
        return dosing_reads.detail(session, actor, subject)
    return outcome_reads.read_one(session, actor, subject)


def _kept(document: Any, pointer: str) -> str:
    """The pointer, with names for places. Raises FieldUnknown."""
    kept, place = "", document
    for name in pointer.split("/")[1:]:
        entry = _entry(place, name)
        if entry is None or (place is document and name in _BOOKKEEPING):
            message = "The record has no such field; an outcome of a visit is asked about as a record of its own"
            raise FieldUnknown(Fault("/field", "unknown_field", message))
        step, place = entry
        kept += f"/{step}"
    return kept


def _entry(place: Any, name: str) -> tuple[str, Any] | None:
    """A field or an entry of a list, by its place or its name, and how it is named for good."""
    if isinstance(place, dict) and name in place:
        return name, place[name]
    if not isinstance(place, list):
        return None
    names = [_name(one) or str(at) for at, one in enumerate(place)]
    by_place = int(name) if name.isascii() and name.isdecimal() else None
    if by_place is not None and by_place < len(place):
        return names[by_place], place[by_place]
    return next(((one, place[at]) for at, one in enumerate(names) if one in (name, name.lower())), None)


def _name(one: Any) -> str | None:
    """How an entry of a list is called for good: by its id, or a consent by its version and number."""
    if not isinstance(one, dict):
        return None
    if "id" in one:
        return str(one["id"])
    return f"{one['version']}.{one['number']}" if {"version", "number"} <= one.keys() else None
