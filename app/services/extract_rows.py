"""The rows of an extract, as SQL over the extract's own subject table: no date and no pid ever leaves the database."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Integer, case, distinct, func, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction
from sqlmodel import Session, col

from app.access import Rows
from app.models.adverse_event import AdverseEvent
from app.models.extract import ExtractSubject
from app.models.outcome import Outcome, OutcomeScore
from app.models.participant import Participant
from app.models.study import ProtocolVersion
from app.models.visit import Visit
from app.privacy.profile import FILES, OTHER, RARE_TERM_PERSONS, RELEASED_INSTRUMENTS


class days_between(GenericFunction[int]):  # noqa: N801 - a SQL function
    """Whole days from the second date to the first, on both databases."""

    type = Integer()
    inherit_cache = True


@compiles(days_between, "postgresql")
def _on_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    later, earlier = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({later} - {earlier})"


@compiles(days_between, "sqlite")
def _on_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    later, earlier = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST(julianday({later}) - julianday({earlier}) AS INTEGER)"


def _select(*wanted: Any) -> Rows:
    return select(*wanted)


def _study_day(on: Any) -> ColumnElement[Any]:
    """CDISC SDTM IG 3.2, section 4.1.4.4: day 1 is the reference day, the day before is -1."""
    days = days_between(on, col(ExtractSubject.anchor_on))
    return case((days >= 0, days + 1), else_=days)


def _of(extract_id: UUID, table: Any) -> ColumnElement[bool]:
    subject = ExtractSubject
    same = (col(subject.site_id) == col(table.site_id)) & (col(subject.pid) == col(table.pid))
    return (col(subject.extract_id) == extract_id) & same


def participants(extract_id: UUID) -> Rows:
    return (
        _select(
            ExtractSubject.subject,
            col(ProtocolVersion.version).label("protocol_version"),
            Participant.status,
            Participant.eligible,
            Participant.planned_arm,
            Participant.actual_arm,
            _study_day(col(Participant.enrolled_on)).label("enrolled_day"),
        )
        .join(Participant, _of(extract_id, Participant))
        .join(ProtocolVersion, col(ProtocolVersion.id) == col(Participant.protocol_version_id))
        .order_by(col(ExtractSubject.subject))
    )


def _visit_columns() -> tuple[Any, ...]:
    return Visit.visit_code, Visit.occurrence, _study_day(col(Visit.occurred_on)).label("study_day")


def visits(extract_id: UUID) -> Rows:
    return (
        _select(ExtractSubject.subject, *_visit_columns(), Visit.status)
        .join(Visit, _of(extract_id, Visit))
        .order_by(col(ExtractSubject.subject), col(Visit.visit_code), col(Visit.occurrence))
    )


def outcomes(extract_id: UUID) -> Rows:
    """A row for each score; an outer join, since an instrument without a score was administered all the same (and since
    SQLite then reads the scores by their key)."""
    score = OutcomeScore
    return (
        _select(
            ExtractSubject.subject,
            *_visit_columns(),
            Outcome.instrument,
            Outcome.instrument_version,
            col(score.name).label("score"),
            score.value,
            score.band,
            Outcome.origin,
        )
        .join(Outcome, _of(extract_id, Outcome))
        .join(Visit, (col(Visit.site_id) == col(Outcome.site_id)) & (col(Visit.id) == col(Outcome.visit_id)))
        .where(col(Outcome.instrument).in_(sorted(RELEASED_INSTRUMENTS)))
        .outerjoin(score, (col(score.site_id) == col(Outcome.site_id)) & (col(score.outcome_id) == col(Outcome.id)))
        .order_by(
            col(ExtractSubject.subject),
            col(Visit.visit_code),
            col(Visit.occurrence),
            col(Outcome.instrument),
            col(score.name),
        )
    )


def _common(extract_id: UUID, term: Any) -> ColumnElement[Any]:
    """The term where enough participants of the extract share it, else OTHER."""
    shared = (
        select(term)
        .join(ExtractSubject, _of(extract_id, AdverseEvent))
        .group_by(term)
        .having(func.count(distinct(col(ExtractSubject.subject))) >= RARE_TERM_PERSONS)
    )
    return case((col(term).is_(None), None), (col(term).in_(shared), term), else_=OTHER)


def adverse_events(extract_id: UUID) -> Rows:
    event = AdverseEvent
    full_date = case((func.length(event.onset) == len("2024-03-05"), col(event.onset_earliest)))
    statement = _select(
        ExtractSubject.subject,
        _common(extract_id, event.soc).label("soc"),
        _common(extract_id, event.pt).label("pt"),
        _study_day(full_date).label("onset_day"),
        event.severity,
        event.serious,
        event.relatedness_drug,
        event.relatedness_therapy,
        event.action_taken,
        event.outcome,
        event.expected,
        event.special_interest,
    ).join(event, _of(extract_id, event))
    return statement.order_by(*(column.nulls_first() for column in statement.selected_columns))


STATEMENTS = {
    "participants.csv": participants,
    "visits.csv": visits,
    "outcomes.csv": outcomes,
    "adverse_events.csv": adverse_events,
}


def rows_of(session: Session, extract_id: UUID, file: str) -> Iterator[tuple[Any, ...]]:
    """The rows of one file, in a fixed order, its columns exactly as the profile declares them."""
    statement = STATEMENTS[file](extract_id)
    names = [column.name for column in FILES[file]]
    assert [column.name for column in statement.selected_columns] == names
    yield from (tuple(row) for row in session.execute(statement.execution_options(yield_per=1000)))
