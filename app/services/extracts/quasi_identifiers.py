"""The quasi-identifiers of an extract's people, as the extract shows them. They are stored when it is approved; when it
is verified, they are worked out again and compared."""

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import Row, case
from sqlmodel import Session, col

from app.models.base import table_of
from app.models.extract import ExtractSubject
from app.models.participant import Participant, ParticipantStatus
from app.models.study import Site
from app.privacy import lattice
from app.privacy.quasi import QUASI_IDENTIFIERS, RACES, coded
from app.services.extracts.extract_sql import ENDED, of_subject, selected
from app.services.participation.collected import collected

OLDEST = 90
"""Ages from here on are one group, even under an agreement (45 CFR 164.514(b)(2)(i)(C))."""

Class = tuple[str | None, ...]
CLASS = ("age_group", "sex", "race", "country", "status")
_PERSON, _SUBJECT = table_of(Participant).c, table_of(ExtractSubject).c


def of_person(since: Any) -> tuple[Any, ...]:
    """The columns of a person's exact values, in the order of the quasi-identifiers. `since` is the day on which
    consent to the collection was withdrawn: a status of that day or later is shown as withdrawn."""
    status = case((collected(since, _PERSON.status_on), _PERSON.status), else_=ParticipantStatus.withdrawn)
    return _PERSON.age_at_consent, _PERSON.sex, _PERSON.race, col(Site.country), status.label("status")


def shown_at(levels: Mapping[str, int] | None) -> Callable[[tuple[Any, ...]], Class]:
    """The function that gives a person's exact traits as shown: generalised to these levels, or exact (with ages from
    OLDEST in one group) if there are none."""
    if levels is None:
        return _shown_exactly
    node = [levels[one.name] for one in QUASI_IDENTIFIERS]
    return lambda exact: lattice.shown(exact, node, QUASI_IDENTIFIERS)


def exact_traits(person: Row[Any]) -> tuple[Any, ...]:
    """The exact values of a row with the columns of `of_person`."""
    return person.age_at_consent, person.sex, person.race, person.country, person.status


def _shown_exactly(exact: tuple[Any, ...]) -> Class:
    age, sex, race, country, status = exact
    group = None if age is None else f"GE{OLDEST}" if age >= OLDEST else str(age)
    return group, sex, coded(race, RACES), country, status


def changed(session: Session, extract_id: UUID, levels: Mapping[str, int] | None) -> bool:
    """Whether anybody in an extract would now be shown otherwise than was stored. Study day 1 is not compared: it
    follows from visits, which are rows of the extract themselves."""
    stored = (_SUBJECT[name].label(f"stored_{name}") for name in CLASS)
    wanted = of_person(ENDED)
    people = (
        selected(*wanted, *stored)
        .select_from(ExtractSubject)
        .join(Participant, of_subject(extract_id, Participant))
        .join(Site, col(Site.id) == col(Participant.site_id))
    )
    shown = shown_at(levels)
    with session.execute(people.execution_options(yield_per=1000)) as found:
        return any(shown(exact_traits(person)) != person[len(wanted) :] for person in found)
