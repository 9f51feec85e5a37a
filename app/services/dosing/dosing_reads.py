"""Dosing sessions as answers, with what is still missing."""

import json
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import Row
from sqlmodel import Session, col

from app.access import Actor, Place, Rows, visible_row
from app.models.base import columns, fields_of, from_json, values
from app.models.dosing_session import Dose, DosingSession, VitalReading
from app.models.dosing_shapes import (
    DoseRead,
    DosingSessionDetail,
    DosingSessionRead,
    LackingRead,
    OpenVitalRead,
    VitalReadingRead,
)
from app.models.visit import Visit
from app.protocol.vitals import open_vitals
from app.services.assessments.outcome_scores import shown_number
from app.services.dosing.discharge import lacking
from app.services.dosing.dosing_day import (
    DosingDay,
    doses_of,
    dosing_day,
    moments,
    readings_of,
    taken,
)
from app.services.participation.participants import Hold
from app.services.safety import safety_signals


def rows() -> Rows:
    """Sessions with the code of their visit; narrow it with `visible`."""
    visit = (col(Visit.site_id) == col(DosingSession.site_id)) & (col(Visit.id) == col(DosingSession.visit_id))
    return sa.select(*columns(DosingSession), col(Visit.visit_code)).select_from(DosingSession).join(Visit, visit)


def read(row: Row[Any], actor: Actor) -> DosingSessionRead:
    values = fields_of(row)
    return DosingSessionRead.of_row(values, **_made(values, row.visit_code, actor.places[row.site_id]))


def detail(session: Session, actor: Actor, session_id: UUID) -> DosingSessionDetail:
    """One session with doses, vital signs and what is missing. Raises NotFound."""
    row = visible_row(session, actor, DosingSession, session_id)
    return detail_of(session, dosing_day(session, actor, row.pid, row.visit_id, Hold.none), row)


def detail_of(session: Session, day: DosingDay, row: DosingSession) -> DosingSessionDetail:
    doses, readings = doses_of(session, row), readings_of(session, row)
    missing = open_vitals(day.vitals, moments(row, doses), taken(readings))
    signals = safety_signals.holding(session, row.site_id, row.pid)
    fields = values(row)
    return DosingSessionDetail.of_row(
        fields,
        **_made(fields, day.visit.visit_code, day.person.place),
        doses=[_dose(dose) for dose in doses],
        vitals=[_reading(reading) for reading in readings],
        voided_vitals=[_reading(reading) for reading in readings_of(session, row, voided=True)],
        open_vitals=[OpenVitalRead(**one._asdict()) for one in missing],
        lacking=[LackingRead(rule=one.rule, message=one.message) for one in lacking(session, day, row)],
        holding=safety_signals.shown(session, day.person.place, signals),
    )


def _made(row: Mapping[str, Any], visit_code: str, place: Place) -> dict[str, Any]:
    return {
        "participant": row["pid"],
        "study": place.study,
        "site": place.site,
        "visit": row["visit_id"],
        "visit_code": visit_code,
        **{name: json.loads(row[name]) for name in ("staff", "confirmations", "discharge", "medications")},
    }


def _dose(row: Dose) -> DoseRead:
    amounts = {"planned_mg": shown_number(row.planned_mg), "given_mg": shown_number(row.given_mg)}
    return DoseRead.of_row(values(row), **amounts, findings=from_json(row.findings))


def _reading(row: VitalReading) -> VitalReadingRead:
    measured = {code: shown_number(value) for code, value in json.loads(row.measured).items()}
    return VitalReadingRead.of_row(values(row), values=measured, findings=from_json(row.findings))
