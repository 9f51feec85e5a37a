"""The rows of an extract, as SQL over the extract's own subject table: no date and no pid ever leaves the database."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any
from uuid import UUID

from sqlalchemy import String, case, true
from sqlmodel import AutoString, col

from app.access import Rows
from app.models.adverse_event import AdverseEvent
from app.models.extract import ExtractSubject
from app.models.outcome import Outcome, OutcomeScore
from app.models.participant import Participant
from app.models.study import ProtocolVersion
from app.models.visit import Visit
from app.privacy.profile import RELEASED_INSTRUMENTS, RELEASED_INTERESTS, Column, Profile
from app.privacy.quasi import ETHNICITIES, OTHER
from app.privacy.suicidality import is_suicidality, is_suicidality_in_english
from app.privacy.treatment import Treatment
from app.protocol.definition import Protocol
from app.services.extracts import as_at, extract_csv
from app.services.extracts.extract_sql import (
    ENDED,
    SHOWN,
    Timing,
    bytewise,
    common,
    full_onset,
    in_stretch,
    of_subject,
    people_of_stretch,
    selected,
    since_dose,
    spread,
    stretches,
    study_day,
    with_outcomes,
)
from app.services.extracts.reading import Pieces, Readers
from app.services.participation.collected import collected
from app.services.studies import protocol_of

STRETCH = 250
"""People of one statement where a table is read in stretches: with twenty scores each, a quarter of a megabyte."""

_SUBJECT = ExtractSubject
_WHO = bytewise(_SUBJECT.subject).label("subject")
_VISIT = (bytewise(Visit.visit_code).label("visit_code"), col(Visit.occurrence))
"""What rows are sorted by is shown as it is sorted: otherwise PostgreSQL sorts rows that hold it twice."""


class ExtractRows:
    """The statements of one extract."""

    def __init__(self, readers: Readers, extract_id: UUID, profile: Profile) -> None:
        self._readers, self._id, self._profile = readers, extract_id, profile
        self._dialect = readers.sessions[0].get_bind().dialect

    def csv(self, file: str, columns: Sequence[Column]) -> Pieces:
        """One file, in the order of its subjects, its columns exactly as the profile declares them."""
        statement = _STATEMENTS[file](self)
        if self._dialect.name == "postgresql":
            return extract_csv.parts(self._readers, columns, statement)
        return extract_csv.parts(self._readers, columns, statement.where(in_stretch()), self._stretches)

    @cached_property
    def _stretches(self) -> extract_csv.Stretches:
        session = self._readers.sessions[0]
        people = STRETCH + as_at.touched(session) // 10  # each statement has all that was touched to read first
        ends = stretches(session, self._id, people)
        return extract_csv.Stretches(people_of_stretch(self._id), ends)

    @cached_property
    def _protocols(self) -> Mapping[int, Protocol]:
        """By which its people go and visits were recorded, by the id of the version. All of both is read for it, so
        only where days become classes."""
        session = self._readers.sessions[0]
        versions = {
            version
            for table in (Participant, Visit)
            for version in session.execute(
                selected(table.protocol_version_id).join(_SUBJECT, of_subject(self._id, table)).distinct()
            ).scalars()
        }
        return {version: protocol_of(session, version) for version in sorted(versions - {None})}

    @cached_property
    def _timing(self) -> Timing:
        return Timing(self._dialect, self._protocols, by_screening=bool(self._profile.treats(Treatment.timing)))

    @property
    def _open(self) -> bool:
        return self._profile.under_agreement

    def participants(self) -> Rows:
        person = Participant
        if self._open:
            enrolled_on = case((collected(ENDED, person.enrolled_on), col(person.enrolled_on)))
            wanted: tuple[Any, ...] = (
                _WHO,
                col(_SUBJECT.site_group).label("site"),
                *SHOWN,
                _ethnicity(),
                col(ProtocolVersion.version).label("protocol_version"),
                person.eligible,
                person.planned_arm,
                person.actual_arm,
                study_day(enrolled_on).label("enrolled_day"),
            )
        else:
            wanted = (_WHO, *SHOWN, *self._codes(person, person.planned_arm, person.actual_arm))
        return (
            selected(*wanted)
            .join(person, of_subject(self._id, person))
            .join(ProtocolVersion, col(ProtocolVersion.id) == col(person.protocol_version_id))
            .order_by(_WHO)
        )

    def _when(self) -> Any:
        return (
            study_day(col(Visit.occurred_on)).label("study_day") if self._open else self._timing.column.label("timing")
        )

    def _timed(self, statement: Rows) -> Rows:
        return statement if self._open else self._timing.joined(statement)

    def visits(self) -> Rows:
        wanted = selected(_WHO, *_VISIT, self._when(), Visit.status)
        return self._timed(wanted.join(Visit, of_subject(self._id, Visit))).order_by(_WHO, *_VISIT)

    def outcomes(self) -> Rows:
        """A row for each score; an outer join, since an instrument without a score was administered all the same (and
        since SQLite then reads the scores by their key)."""
        score = OutcomeScore
        instrument = bytewise(Outcome.instrument).label("instrument")
        name = bytewise(score.name).label("score")
        wanted = selected(
            _WHO,
            *_VISIT,
            self._when(),
            instrument,
            Outcome.instrument_version,
            name,
            score.value,
            score.band,
            Outcome.origin,
        )
        statement = with_outcomes(wanted, self._id, self._dialect)
        if not self._open:
            statement = statement.where(col(Outcome.instrument).in_(sorted(RELEASED_INSTRUMENTS)))
        of_outcome = (col(score.site_id) == col(Outcome.site_id)) & (col(score.outcome_id) == col(Outcome.id))
        return self._timed(statement.outerjoin(score, of_outcome)).order_by(_WHO, *_VISIT, instrument, name)

    def adverse_events(self) -> Rows:
        event = AdverseEvent
        statement = selected(
            _SUBJECT.subject,
            self._term(event.soc),
            self._term(event.pt),
            self._onset(),
            event.severity,
            self._serious(),
            event.relatedness_drug,
            event.relatedness_therapy,
            *self._codes(event, event.action_taken),
            *self._codes(event, event.outcome),
            event.expected,
            self._interest(),
        ).join(event, of_subject(self._id, event))
        texts: Any = String if self._profile.in_locale else (String, AutoString)
        ordered = (bytewise(one) if isinstance(one.type, texts) else one for one in statement.selected_columns)
        return statement.order_by(*(one.nulls_first() for one in ordered))

    def _onset(self) -> Any:
        if self._open:
            return study_day(full_onset()).label("onset_day")
        dosing = frozenset(code for protocol in self._protocols.values() for code in protocol.exposure)
        return since_dose(dosing, given=bool(self._profile.treats(Treatment.since_dose))).label("onset")

    def _term(self, term: Any) -> Any:
        session, event = self._readers.sessions[0], AdverseEvent
        if not self._profile.treats(Treatment.spread_term, Treatment.spread_english_term):
            (shown,) = common(session, self._id, event, term, listed=False)
            return shown
        words = is_suicidality if self._profile.treats(Treatment.spread_term) else is_suicidality_in_english
        told = col(event.special_interest).is_(None) | _watched() if term is event.pt else true()
        return spread(session, self._id, term, told, OTHER, listed=False, of_suicidality=words)

    def _interest(self) -> Any:
        interest = AdverseEvent.special_interest
        if not self._profile.treats(Treatment.spread_interest):
            (shown,) = self._codes(AdverseEvent, interest)
            return shown
        return spread(self._readers.sessions[0], self._id, interest, _watched(), None, listed=True)

    def _codes(self, table: Any, *codes: Any) -> Sequence[Any]:
        return codes if self._open else common(self._readers.sessions[0], self._id, table, *codes, listed=True)

    def _serious(self) -> Any:
        serious = col(AdverseEvent.serious)
        return serious if self._open else case((col(_SUBJECT.serious_shown), serious)).label("serious")


def _watched() -> Any:
    return col(AdverseEvent.special_interest).in_(sorted(RELEASED_INTERESTS))


def _ethnicity() -> Any:
    given = col(Participant.ethnicity)
    typed = case((given.in_(sorted(ETHNICITIES)), given), (given.is_not(None), OTHER))
    return typed.label("ethnicity")


_STATEMENTS: Mapping[str, Callable[[ExtractRows], Rows]] = {
    "participants.csv": ExtractRows.participants,
    "visits.csv": ExtractRows.visits,
    "outcomes.csv": ExtractRows.outcomes,
    "adverse_events.csv": ExtractRows.adverse_events,
}
