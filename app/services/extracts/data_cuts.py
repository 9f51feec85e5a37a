"""Data cuts: a custodian names a moment of a study, and analysts ask for extracts of it by that name."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Rows
from app.database import unique_or, within
from app.errors import Conflict, Fault, Invalid
from app.models.base import columns, fields_of, values
from app.models.data_cut import DataCut, DataCutCreate, DataCutRead
from app.models.study import Study
from app.services.extracts import as_at
from app.services.studies import sites_of, study_by_code
from app.services.trail.registry_chain import remember


class CutExists(Conflict):
    """This study has a data cut of this name already; a cut never changes."""


class CutUnknown(Invalid):
    """This study has no data cut of this name."""


def make(session: Session, actor: Actor, body: DataCutCreate) -> DataCutRead:
    """Name the present moment. The cut contains what is committed now; a write that is not committed yet comes after
    it, as its entries are not in the chains yet. Raises NotFound, CutExists."""
    study = study_by_code(session, actor, body.study)
    assert study.id is not None
    sites = sites_of(session, study.id)
    with within(session, sites):
        heads = as_at.written(as_at.heads_of(session, sites))
    row = DataCut(study_id=study.id, name=body.name, purpose=body.purpose, heads=heads, created_by=actor.account_id)
    session.add(row)
    with unique_or(CutExists):
        session.flush()
    remember(session, actor, audit.created("cut:made", row, row.id))
    return _read(values(row), study.code)


def heads_of(session: Session, study_id: int, name: str) -> str:
    """The moment of a cut. Raises CutUnknown."""
    heads = session.exec(select(DataCut.heads).where(DataCut.study_id == study_id, DataCut.name == name)).first()
    if heads is None:
        raise CutUnknown(Fault("/cut", "unknown_cut", "No data cut of this name"))
    return heads


def rows() -> Rows:
    """Cuts with the code of their study; narrow it with `visible`."""
    wanted = sa.select(*columns(DataCut), col(Study.code).label("study"))
    return wanted.select_from(DataCut).join(Study, col(Study.id) == col(DataCut.study_id))


def read_all(page: Sequence[Any]) -> list[DataCutRead]:
    return [_read(fields_of(row), row.study) for row in page]


def _read(values: Any, study: str) -> DataCutRead:
    return DataCutRead(study=study, **{name: values[name] for name in ("id", "name", "purpose", "created_at")})
