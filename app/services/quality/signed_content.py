"""What a signature covers: the clinical content of a visit or of a participant's record, in one canonical form.

The fields are listed here and not taken from the tables, so that a new column breaks no signature (docs/signatures.md).
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, select
from sqlmodel import Session, SQLModel

from app.access import Actor
from app.audit import JSON_TEXT, plain
from app.models.adverse_event import CRITERIA, AdverseEvent
from app.models.base import canonical_json, table_of
from app.models.consent import Consent, Withdrawal
from app.models.dosing_session import Dose, DosingSession, VitalReading
from app.models.outcome import Outcome, OutcomeScore
from app.models.participant import Participant
from app.models.screening import Screening
from app.models.therapy_session import TherapySession
from app.models.treatment import TreatmentTrial
from app.models.visit import Visit
from app.models.voided import counts

FORM = 1
"""The version of the canonical form. Increase it when the parts below change; older signatures are then recomputed by
their own form."""


class Part(NamedTuple):
    """A list in the content: the rows of one table in a fixed order, under the row that the column `of` refers to."""

    name: str
    model: type[SQLModel]
    of: str
    order: tuple[str, ...]
    fields: str
    parts: tuple["Part", ...] = ()


_SCORES = Part("scores", OutcomeScore, "outcome_id", ("name",), "name value band reason rule")
_OUTCOMES = Part(
    "outcomes",
    Outcome,
    "visit_id",
    ("instrument",),
    "id instrument instrument_version collected_on items rater origin",
    (_SCORES,),
)
_THERAPY = Part("therapy", TherapySession, "visit_id", ("visit_id",), "minutes mode staff")
_DOSES = Part("doses", Dose, "session_id", ("kind",), "id kind planned_mg given_mg given_at deviation_reason")
_READINGS = Part("vitals", VitalReading, "session_id", ("taken_at", "id"), "id timepoint taken_at measured")
_DOSING = Part(
    "dosing_sessions",
    DosingSession,
    "visit_id",
    ("id",),
    "id state started_at ended_at released_at staff confirmations discharge medications",
    (_DOSES, _READINGS),
)
_VISITS = Part(
    "visits",
    Visit,
    "pid",
    ("visit_code", "occurrence"),
    "id visit_code occurrence occurred_on ended_on status deviation_reason",
    (_OUTCOMES, _THERAPY, _DOSING),
)
_EVENT_FIELDS = (
    f"id term codings onset end severity {' '.join(CRITERIA)} relatedness_drug relatedness_therapy action_taken "
    "outcome expected special_interest aware_at"
)
_RECORD = (
    Part("consents", Consent, "pid", ("version", "number"), "version given_on scopes"),
    Part("withdrawals", Withdrawal, "pid", ("number",), "number scope effective_on reason"),
    Part("screenings", Screening, "pid", ("number",), "number screened_on answers eligible unmet"),
    Part("treatments", TreatmentTrial, "pid", ("id",), "id atc weeks maximum_mg adequate this_episode outcome"),
    _VISITS,
    Part("adverse_events", AdverseEvent, "pid", ("id",), _EVENT_FIELDS),
)
_PERSON = (
    "pid status status_on age_at_consent sex race ethnicity planned_arm actual_arm screened_on enrolled_on eligible "
    "unmet_criteria"
)


class Subject(NamedTuple):
    """What is signed: a visit, or with `visit_id` None the participant's whole record."""

    pid: str
    visit_id: UUID | None


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def contents(session: Session, actor: Actor, subjects: Collection[Subject]) -> dict[Subject, str]:
    """The canonical content of each subject that exists for the actor. One statement for each table, however many
    subjects there are."""
    if not subjects:
        return {}
    stored = _Stored(session, sorted(actor.site_ids), sorted({subject.pid for subject in subjects}))
    people = {row.pid: row for row in stored.rows(Participant)}
    texts: dict[Subject, str] = {}
    for subject in subjects:
        person = people.get(subject.pid)
        content = None if person is None else stored.content(subject, person)
        if person is not None and content is not None:
            place = actor.places[person.site_id]
            about = {"form": FORM, "study": place.study, "site": place.site, "pid": subject.pid}
            texts[subject] = canonical_json({**about, **content})
    return texts


class _Stored:
    """All clinical rows of some participants, by the row that they belong to."""

    def __init__(self, session: Session, site_ids: list[int], pids: list[str]) -> None:
        self._session, self._site_ids, self._pids = session, site_ids, pids
        self._rows = {part.name: _by(self.rows(part.model), part.of) for part in _every(_RECORD)}

    def rows(self, model: type[SQLModel]) -> Iterable[Row[Any]]:
        """The rows of a table, without voided ones. Scores have no pid and are found by their outcomes; doses and vital
        signs count with their dosing session."""
        table, outcomes, dosing = table_of(model), table_of(Outcome), table_of(DosingSession)
        theirs = select(table).where(table.c.site_id.in_(self._site_ids))
        if model is OutcomeScore:  # not a join, for which SQLite would read the scores of all participants
            own = select(outcomes.c.id).where(
                outcomes.c.site_id.in_(self._site_ids), outcomes.c.pid.in_(self._pids), counts(outcomes)
            )
            theirs = theirs.where(table.c.outcome_id.in_(own))
        else:
            theirs = theirs.where(table.c.pid.in_(self._pids))
        if model in (Dose, VitalReading):
            own = select(dosing.c.id).where(
                dosing.c.site_id.in_(self._site_ids), dosing.c.pid.in_(self._pids), counts(dosing)
            )
            theirs = theirs.where(table.c.session_id.in_(own))
        if "voided_at" in table.c:
            theirs = theirs.where(counts(table))
        return self._session.execute(theirs).all()

    def content(self, subject: Subject, person: Row[Any]) -> dict[str, Any] | None:
        """The content of a subject; None if the participant has no such visit."""
        if subject.visit_id is None:
            return {"participant": _shown(_PERSON, person), **self._below(_RECORD, subject.pid)}
        row = next((row for row in self._rows["visits"][subject.pid] if row.id == subject.visit_id), None)
        return None if row is None else {"visit": self._whole(_VISITS, row)}

    def _whole(self, part: Part, row: Row[Any]) -> dict[str, Any]:
        return {**_shown(part.fields, row), **(self._below(part.parts, row.id) if part.parts else {})}

    def _below(self, parts: Iterable[Part], key: Any) -> dict[str, Any]:
        return {
            part.name: [self._whole(part, row) for row in _sorted(self._rows[part.name][key], part.order)]
            for part in parts
        }


def _every(parts: Iterable[Part]) -> Iterable[Part]:
    for part in parts:
        yield part
        yield from _every(part.parts)


def _by(rows: Iterable[Row[Any]], name: str) -> Mapping[Any, list[Row[Any]]]:
    grouped = defaultdict(list)
    for row in rows:
        grouped[getattr(row, name)].append(row)
    return grouped


def _sorted(rows: Iterable[Row[Any]], names: Iterable[str]) -> list[Row[Any]]:
    return sorted(rows, key=lambda row: [getattr(row, name) for name in names])


def _shown(fields: str, row: Row[Any]) -> dict[str, Any]:
    named = {name: row._mapping[name] for name in fields.split()}
    return {name: json.loads(value) if name in JSON_TEXT else plain(value) for name, value in named.items()}
