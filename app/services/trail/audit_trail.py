"""The audit trail as one flat table: one row for each changed field."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Row, and_, or_
from sqlmodel import Session, SQLModel, col, select

from app import audit
from app.access import Actor, Place, Rows, narrowed, visible
from app.database import Database, within
from app.models.adverse_event import AdverseEvent
from app.models.audit import REGISTRY_CHAIN, AuditEntry, AuditFilter, AuditRow
from app.models.base import columns, table_of, utc_text
from app.models.consent import Consent, Withdrawal, consent_name
from app.models.data_lock import DataLock
from app.models.data_query import DataQuery
from app.models.dosing_session import Dose, DosingSession, VitalReading
from app.models.label_disclosure import LabelDisclosure
from app.models.outcome import Outcome
from app.models.participant import Participant
from app.models.safety_report import AeReview, AeReviewWithdrawal, SaeReport
from app.models.safety_signal import SafetySignal
from app.models.screening import Screening
from app.models.signature import Signature
from app.models.treatment import TreatmentTrial
from app.models.verification import Verification, VerificationWithdrawal
from app.models.visit import Visit
from app.pid import PidChecksum, PidFormat, normalise
from app.services.csv_lines import blocks, lines_of
from app.services.studies import places
from app.services.trail.history import names_of

COLUMNS = tuple(AuditRow.model_fields)
_AS_JSON = frozenset({"actor_name", "old", "new", "reason", "request_id"})
"""Cells that hold what somebody typed. Written as JSON, a text begins with a quotation mark and so is never a
spreadsheet formula, and it is read back exactly, which the hash needs."""

_ENTRY = table_of(AuditEntry)

NAMED_BY: Mapping[type[SQLModel], tuple[str, ...]] = {
    **dict.fromkeys((AdverseEvent, DataLock, DataQuery, Dose, DosingSession, LabelDisclosure, Outcome), ("id",)),
    **dict.fromkeys((SafetySignal, Signature, TreatmentTrial, Verification, Visit, VitalReading), ("id",)),
    **dict.fromkeys((Screening, Withdrawal), ("pid", "number")),
    Consent: ("pid", "version", "number"),
    **dict.fromkeys((AeReview, AeReviewWithdrawal, SaeReport), ("adverse_event_id", "number")),
    VerificationWithdrawal: ("verification_id",),
}
"""The records of a person that have entries of their own, with the columns by which an entry names them."""

_PART_OF: Mapping[type[SQLModel], type[SQLModel]] = {
    AeReview: AdverseEvent,
    AeReviewWithdrawal: AdverseEvent,
    SaeReport: AdverseEvent,
    VerificationWithdrawal: Verification,
}


def asked(session: Session, actor: Actor, query: AuditFilter) -> Rows:
    """The entries that `actor` may see and asked for."""
    statement = narrowed(
        visible(sa.select(*columns(AuditEntry)), actor),
        (_ENTRY.c.subject_type, query.subject_type),
        (_ENTRY.c.actor, query.actor),
        (_ENTRY.c.action, query.action),
    )
    if query.subject_id is not None:
        statement = statement.where(_ENTRY.c.subject_id.in_(_spellings(query.subject_id)))
    if query.study is not None or query.site is not None:
        statement = statement.where(_ENTRY.c.site_id.in_(actor.sites_at(query.study, query.site)))
    if query.participant is not None:
        statement = statement.where(_about(session, actor, query.participant))
    if query.at_from is not None:
        statement = statement.where(_ENTRY.c.at >= query.at_from)
    if query.at_to is not None:
        statement = statement.where(_ENTRY.c.at <= query.at_to)
    return statement


def _spellings(subject_id: str) -> list[str]:
    """As it was sent; and as entries hold it, where it begins with a pid as answers show it."""
    pid, slash, rest = subject_id.partition("/")
    with suppress(PidFormat, PidChecksum):
        return [subject_id, f"{normalise(pid)}{slash}{rest}"]
    return [subject_id]


def in_sight(session: Session, actor: Actor) -> AbstractContextManager[None]:
    """The second wall opened for the registry's own chain too; which of its entries are shown, `asked` decides."""
    return within(session, _chains(actor))


def _chains(actor: Actor) -> set[int]:
    return {REGISTRY_CHAIN, *actor.clinical_sites}


def _about(session: Session, actor: Actor, symbols: str) -> ColumnElement[bool]:
    """Entries about a participant and every record of theirs. The records are asked for first, as an entry names its
    record and not the person: a pid beside the hash could be forged, and the index finds records quickly."""
    owner = session.exec(
        select(Participant.site_id).where(Participant.pid == symbols, col(Participant.site_id).in_(actor.site_ids))
    ).first()
    if owner is None:
        return sa.false()
    subjects = {"participant": [symbols]}
    for model, key in NAMED_BY.items():
        names = session.execute(sa.select(*(table_of(model).c[name] for name in key)).where(_of(model, owner, symbols)))
        subjects[table_of(model).name] = [
            audit.fitting(consent_name(*name) if model is Consent else "/".join(map(str, name))) for name in names
        ]
    named = [
        and_(_ENTRY.c.subject_type == kind, _ENTRY.c.subject_id.in_(sorted(ids))) for kind, ids in subjects.items()
    ]
    return and_(_ENTRY.c.site_id == owner, or_(*named))


def _of(model: type[SQLModel], owner: int, symbols: str) -> ColumnElement[bool]:
    """Rows of one person. A part is theirs by the record that it belongs to."""
    table = table_of(model)
    if model in _PART_OF:
        whole = table_of(_PART_OF[model])
        theirs = sa.select(whole.c.id).where(whole.c.site_id == owner, whole.c.pid == symbols)
        return and_(table.c.site_id == owner, table.c[NAMED_BY[model][0]].in_(theirs))
    at_site = table.c.site_id == owner if "site_id" in table.c else sa.true()
    return and_(at_site, table.c.pid == symbols)


def rows_of(session: Session, entries: Sequence[Row[Any]]) -> list[AuditRow]:
    """The rows of some entries, one for each changed field."""
    names = names_of(session, {entry.actor for entry in entries})
    at = places(session)
    return [row for entry in entries for row in _rows_of_one(entry, names, at.get(entry.site_id))]


def _rows_of_one(entry: Row[Any], names: Mapping[str, str], place: Place | None) -> Iterator[AuditRow]:
    same = {name: value for name, value in entry._mapping.items() if name not in {"site_id", "changes"}}
    for change in json.loads(entry.changes) or [{"field": None, "old": None, "new": None}]:
        yield AuditRow(
            chain=entry.site_id,
            study=place.study if place else None,
            site=place.site if place else None,
            actor_name=names.get(entry.actor),
            **same,
            **change,
        )


def csv_of(database: Database, actor: Actor, statement: Rows) -> Iterator[str]:
    """The whole table as CSV, oldest first in each chain. Entries never change, so its blocks fit together."""
    yield lines_of([COLUMNS])
    for entries in blocks(database, _chains(actor), statement, (_ENTRY.c.site_id, _ENTRY.c.seq)):
        with database.read() as session, in_sight(session, actor):
            rows = rows_of(session, entries)
        if rows:
            yield lines_of([[_cell(name, getattr(row, name)) for name in COLUMNS] for row in rows])


def _cell(name: str, value: Any) -> Any:
    if name in _AS_JSON:
        return json.dumps(value, ensure_ascii=False)
    return utc_text(value) if name == "at" else value
