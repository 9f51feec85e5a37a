"""What a signature covers: the clinical content of a visit or of a participant's record, in one canonical form.

The fields are listed, not taken from the tables, so that a new column breaks no signature (docs/signatures.md).
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, select
from sqlmodel import Session, SQLModel, col

from app.access import Actor, Place
from app.audit import plain
from app.models.adverse_event import CRITERIA, AdverseEvent
from app.models.base import canonical_json, table_of
from app.models.outcome import Outcome, OutcomeScore
from app.models.participant import Consent, Participant
from app.models.visit import Visit

FORM = 1
"""Raise it when the fields below change; older signatures are then recomputed by their own form."""

_FIELDS: Mapping[type[SQLModel], tuple[str, ...]] = {
    Participant: (
        *("pid", "status", "status_on", "age_at_consent", "sex", "race", "ethnicity", "planned_arm", "actual_arm"),
        *("screened_on", "enrolled_on", "eligible", "unmet_criteria"),
    ),
    Consent: ("version", "given_on", "scopes"),
    Visit: ("id", "visit_code", "occurrence", "occurred_on", "ended_on", "status", "deviation_reason"),
    Outcome: ("id", "instrument", "instrument_version", "collected_on", "items"),
    OutcomeScore: ("name", "value", "band", "reason", "rule"),
    AdverseEvent: (
        *("id", "term", "codings", "onset", "end", "severity", *CRITERIA, "relatedness_drug", "relatedness_therapy"),
        *("action_taken", "outcome", "expected", "special_interest", "aware_at"),
    ),
}
_JSON = frozenset({"codings", "items", "scopes", "unmet_criteria"})


class Subject(NamedTuple):
    """What is signed: a visit, or with `visit_id` None the participant's whole record."""

    pid: str
    visit_id: UUID | None


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def contents(session: Session, actor: Actor, subjects: Collection[Subject]) -> dict[Subject, str]:
    """The canonical content of each subject that exists for the actor, in six queries however many they are."""
    pids = sorted({subject.pid for subject in subjects})
    stored = _Stored(session, sorted(actor.site_ids), pids)
    people = {row.pid: (row, actor.places[row.site_id]) for row in stored.rows(Participant)}
    texts: dict[Subject, str] = {}
    for subject in subjects:
        content = stored.content(subject, *people[subject.pid]) if subject.pid in people else None
        if content is not None:
            texts[subject] = canonical_json({"form": FORM, **content})
    return texts


class _Stored:
    """All clinical rows of some participants."""

    def __init__(self, session: Session, site_ids: list[int], pids: list[str]) -> None:
        self._session, self._site_ids, self._pids = session, site_ids, pids
        self._consents = _by(self.rows(Consent), "pid")
        self._visits = _by(self.rows(Visit), "pid")
        self._outcomes = _by(self.rows(Outcome), "visit_id")
        self._events = _by(self.rows(AdverseEvent), "pid")
        self._scores = _by(self._score_rows(), "outcome_id")

    def rows(self, model: type[SQLModel]) -> Iterable[Row[Any]]:
        table = table_of(model)
        theirs = select(table).where(table.c.site_id.in_(self._site_ids), table.c.pid.in_(self._pids))
        return self._session.execute(theirs).all()

    def _score_rows(self) -> Iterable[Row[Any]]:
        scores, outcomes = table_of(OutcomeScore), table_of(Outcome)
        joined = select(scores).join(
            outcomes, (outcomes.c.site_id == scores.c.site_id) & (outcomes.c.id == scores.c.outcome_id)
        )
        theirs = joined.where(col(Outcome.site_id).in_(self._site_ids), col(Outcome.pid).in_(self._pids))
        return self._session.execute(theirs).all()

    def content(self, subject: Subject, person: Row[Any], place: Place) -> dict[str, Any] | None:
        """None for a visit that this participant does not have."""
        about = {"study": place.study, "site": place.site, "pid": subject.pid}
        visits = self._visits[subject.pid]
        if subject.visit_id is not None:
            visit = next((row for row in visits if row.id == subject.visit_id), None)
            return None if visit is None else {**about, "visit": self._visit(visit)}
        consents = _sorted(self._consents[subject.pid], "version")
        events = _sorted(self._events[subject.pid], "id")
        return {
            **about,
            "participant": _shown(Participant, person),
            "consents": [_shown(Consent, row) for row in consents],
            "visits": [self._visit(row) for row in _sorted(visits, "visit_code", "occurrence")],
            "adverse_events": [_shown(AdverseEvent, row) for row in events],
        }

    def _visit(self, visit: Row[Any]) -> dict[str, Any]:
        outcomes = _sorted(self._outcomes[visit.id], "instrument")
        return {**_shown(Visit, visit), "outcomes": [self._outcome(row) for row in outcomes]}

    def _outcome(self, outcome: Row[Any]) -> dict[str, Any]:
        scores = _sorted(self._scores[outcome.id], "name")
        return {**_shown(Outcome, outcome), "scores": [_shown(OutcomeScore, row) for row in scores]}


def _by(rows: Iterable[Row[Any]], name: str) -> Mapping[Any, list[Row[Any]]]:
    grouped = defaultdict(list)
    for row in rows:
        grouped[getattr(row, name)].append(row)
    return grouped


def _sorted(rows: Iterable[Row[Any]], *names: str) -> list[Row[Any]]:
    return sorted(rows, key=lambda row: [getattr(row, name) for name in names])


def _shown(model: type[SQLModel], row: Row[Any]) -> dict[str, Any]:
    fields = {name: row._mapping[name] for name in _FIELDS[model]}
    return {name: json.loads(value) if name in _JSON else plain(value) for name, value in fields.items()}
