"""Therapy sessions of preparation and integration visits: minutes, mode and staff, stored with the visit."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from sqlmodel import Session

from app.errors import Fault, Invalid
from app.models.base import canonical_json, values
from app.models.therapy_session import Therapy, TherapyRead, TherapySession
from app.models.visit import Visit
from app.protocol.definition import VisitDefinition, VisitKind
from app.services.assessments.raters import require_not_raters
from app.services.participation.participant_facts import ParticipantFacts
from app.services.participation.participants import Person
from app.writing import Writes

_KINDS = frozenset({VisitKind.preparation, VisitKind.integration})
CSSRS = frozenset({"CSSRS_LIFE", "CSSRS_SLV"})


class NotATherapyVisit(Invalid):
    """Only preparation and integration visits have a therapy session."""


def record(
    session: Session,
    writes: Writes,
    person: ParticipantFacts,
    visit: Mapping[str, Any],
    kind: VisitKind,
    asked: Therapy,
) -> dict[str, Any]:
    """Add the therapy session of a new visit to `writes`; gives its fields. The participant's row must be locked for
    change. Raises NotATherapyVisit, TherapistIsRater."""
    _require_fitting(session, person, kind, asked)
    fields = {"minutes": asked.minutes, "mode": asked.mode, "staff": canonical_json(asked.staff)}
    writes.add(TherapySession, {"site_id": person.site_id, "visit_id": visit["id"], "pid": person.pid, **fields})
    return _fields(fields)


def _require_fitting(session: Session, person: Person | ParticipantFacts, kind: VisitKind, asked: Therapy) -> None:
    if kind not in _KINDS:
        raise NotATherapyVisit(Fault("/therapy", "other_kind", "The protocol has no therapy session at this visit"))
    require_not_raters(session, person, asked.staff, "/therapy/staff")


def store(session: Session, person: Person, visit: Visit, definition: VisitDefinition, asked: Therapy | None) -> None:
    """Replace the therapy session of a visit, or delete it (None). The participant's row must be locked for change.

    Raises NotATherapyVisit, TherapistIsRater.
    """
    if asked is not None:
        _require_fitting(session, person, definition.kind, asked)
        fields = {**asked.model_dump(), "staff": canonical_json(asked.staff)}
        session.merge(TherapySession(site_id=visit.site_id, visit_id=visit.id, pid=visit.pid, **fields))
    elif (row := session.get(TherapySession, (visit.site_id, visit.id))) is not None:
        session.delete(row)
    session.flush()


def of(session: Session, visit: Visit) -> dict[str, Any] | None:
    """Minutes, mode and staff of a visit's therapy session."""
    row = session.get(TherapySession, (visit.site_id, visit.id))
    return None if row is None else _fields(values(row))


def _fields(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"minutes": row["minutes"], "mode": row["mode"], "staff": json.loads(row["staff"])}


def remembered(therapy: Mapping[str, Any] | None) -> dict[str, Any]:
    """A therapy session as fields of the visit's audit entry."""
    return {f"therapy.{name}": value for name, value in (therapy or {}).items()}


def read(therapy: Mapping[str, Any] | None, visit: VisitDefinition, done: Collection[str]) -> TherapyRead | None:
    """A therapy session as answered; `done` are the instruments done at its visit. The C-SSRS has two forms, lifetime
    and since the last visit: where the protocol plans one of them for the visit, only that one counts."""
    wanted = CSSRS.intersection(visit.instruments) or CSSRS
    return None if therapy is None else TherapyRead(**therapy, cssrs_done=not wanted.isdisjoint(done))
