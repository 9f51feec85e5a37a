"""The rows of an aggregate extract: the declared tables, counted over the people of the extract (ExtractSubject)."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, distinct, func
from sqlmodel import Session, col

from app.models.adverse_event import AdverseEvent
from app.models.extract import ExtractSubject
from app.models.outcome import Outcome, OutcomeScore
from app.models.participant import Participant
from app.models.study import Site
from app.models.visit import Visit
from app.privacy import bundle, tables
from app.privacy.profile import RELEASED_INSTRUMENTS, Column, Profile
from app.privacy.tables import NOT_GIVEN, Cell
from app.privacy.treatment import SECONDARY_SUPPRESSION, Treatment
from app.protocol.instruments import instrument
from app.services.extracts.extract_sql import ENDED, at_visit, common, of_subject, selected
from app.services.extracts.quasi_identifiers import CLASS, exact_traits, of_person, shown_at
from app.services.extracts.reading import Pieces
from app.services.participation import screening_visits
from app.services.studies import protocol_of

NONE = "none"


class AggregateRows:
    """The tables of one extract, under the version of the profile with which it was approved."""

    def __init__(self, session: Session, extract_id: UUID, profile: Profile) -> None:
        self._session, self._id = session, extract_id
        self._secondary = bool(profile.treats(*SECONDARY_SUPPRESSION))
        self._by_screening = bool(profile.treats(Treatment.secondary_suppression))

    def csv(self, _file: str, columns: Sequence[Column]) -> Pieces:
        """All tables, one figure a row."""
        yield bundle.header(columns)
        yield from bundle.csv_parts(self._figures())

    def _figures(self) -> Iterator[Cell]:
        people = self._people()
        for table in tables.COUNTS:
            column = table.column or table.row
            counted = tables.counted(table, [(one[table.row], one[column]) for one in people])
            yield from counted.secondary_suppression() if self._secondary else counted.primary_suppression()
        yield from self._events(len(people) if self._secondary else None)
        yield from self._scores()

    def _people(self) -> list[dict[str, str]]:
        """The traits of each person that the tables count by."""
        shown = shown_at(None)
        serious = {name for name, _ in self._severities(col(AdverseEvent.serious))}
        worst = tables.worst((name, severity) for name, severity in self._severities() if severity)
        arms: tuple[Any, ...] = (Participant.planned_arm, Participant.actual_arm)
        if self._secondary:  # the same arms that `deidentified` rows of these people show
            arms = (*common(self._session, self._id, Participant, *arms, listed=True),)
        wanted = (
            selected(ExtractSubject.subject, arms[0], *of_person(ENDED))
            .join(Participant, of_subject(self._id, Participant))
            .join(Site, col(Site.id) == col(Participant.site_id))
        )
        return [
            {
                **{name: value or NOT_GIVEN for name, value in zip(CLASS, traits, strict=True)},
                "age": tables.age_band(traits[0]),
                "planned_arm": row.planned_arm or NOT_GIVEN,
                "serious_event": "yes" if row.subject in serious else "no",
                "worst_event": worst.get(row.subject, NONE),
            }
            for row, traits in ((row, shown(exact_traits(row))) for row in self._session.execute(wanted))
        ]

    def _severities(self, *conditions: Any) -> Iterator[tuple[str, str]]:
        """Each person's severities of events under these conditions, each severity once."""
        wanted = selected(ExtractSubject.subject, AdverseEvent.severity)
        wanted = wanted.join(AdverseEvent, of_subject(self._id, AdverseEvent)).where(*conditions)
        for row in self._session.execute(wanted.distinct().execution_options(yield_per=1000)):
            yield row.subject, row.severity

    def _events(self, of: int | None) -> Iterator[Cell]:
        """People with events by organ class, among `of` people."""
        soc, subject = col(AdverseEvent.soc), col(ExtractSubject.subject)
        statement = selected(soc, func.count(distinct(subject))).join(AdverseEvent, of_subject(self._id, AdverseEvent))
        found = self._session.execute(statement.where(soc.is_not(None)).group_by(soc)).all()
        return tables.with_events(((name, people) for name, people in found), of)

    def _scores(self) -> Iterator[Cell]:
        """Scores by visit and instrument. The database counts equal values, and Python adds them up: a sum of floats in
        SQL depends on the order of the rows."""
        score, value = OutcomeScore, col(OutcomeScore.value)
        statement = (
            selected(Visit.visit_code, Outcome.instrument, value, func.count())
            .select_from(ExtractSubject)
            .join(Outcome, of_subject(self._id, Outcome))
            .join(Visit, at_visit())
            .join(score, (col(score.site_id) == col(Outcome.site_id)) & (col(score.outcome_id) == col(Outcome.id)))
            .where(col(Outcome.instrument).in_(sorted(RELEASED_INSTRUMENTS)), col(score.name) == "total")
            .where(value.is_not(None), self._counted())
        )
        group = (col(Visit.visit_code), col(Outcome.instrument))
        found = self._session.execute(statement.group_by(*group, value).order_by(*group))
        for (visit, code), rows in groupby(found, key=itemgetter(0, 1)):
            yield from tables.scores(visit, code, _reach(code), {number: people for _, _, number, people in rows})

    def _counted(self) -> ColumnElement[bool]:
        """Whether the scores of a visit count: of the first occurrence; of a screening visit, of the one in the last
        screening, which earlier versions of the profile did not look at."""
        if not self._by_screening:
            return col(Visit.occurrence) == 1
        used = selected(Participant.protocol_version_id).join(Participant, of_subject(self._id, Participant))
        versions = sorted(self._session.execute(used.select_from(ExtractSubject).distinct()).scalars())
        return screening_visits.counted((protocol_of(self._session, version) for version in versions), ENDED)


def _reach(code: str) -> float:
    """The highest possible total of an instrument minus its lowest, in points."""
    lowest, highest = instrument(code).bounds("total")
    return float(highest - lowest)
