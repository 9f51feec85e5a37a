"""Studies, protocol versions and sites."""

import json
from typing import Annotated, Any

from fastapi import Body, Depends
from sqlmodel import col, select

from app.access import Actor, found, requires, visible
from app.database import ReadSession, WriteSession
from app.models.base import Code
from app.models.study import (
    ProtocolList,
    ProtocolRead,
    ProtocolSummary,
    ProtocolVersion,
    Site,
    SiteCreate,
    SiteList,
    SiteRead,
    Study,
    StudyCreate,
    StudyList,
    StudyRead,
)
from app.permissions import Permission
from app.services import studies
from app.web.route import Router

router = Router(prefix="/v1/studies", tags=["studies"])
Reader = Annotated[Actor, Depends(requires(Permission.study_read))]
Writer = Annotated[Actor, Depends(requires(Permission.study_write))]


@router.get("")
def list_studies(actor: Reader, session: ReadSession) -> StudyList:
    """The studies where you have a grant."""
    rows = session.exec(visible(select(Study).order_by(col(Study.code)), actor)).all()
    return StudyList(items=[StudyRead(code=row.code, title=row.title, created_at=row.created_at) for row in rows])


@router.post("", status_code=201)
def create_study(body: StudyCreate, actor: Writer, session: WriteSession) -> StudyRead:
    """Create a study. Then add its sites, and the protocol under the same code."""
    row = studies.create_study(session, actor, body)
    return StudyRead(code=row.code, title=row.title, created_at=row.created_at)


@router.get("/{study}/protocols")
def list_protocols(study: Code, actor: Reader, session: ReadSession) -> ProtocolList:
    """The protocol versions of a study."""
    owner = studies.study_by_code(session, actor, study)
    statement = select(ProtocolVersion).where(ProtocolVersion.study_id == owner.id).order_by(col(ProtocolVersion.id))
    rows = session.exec(visible(statement, actor)).all()
    return ProtocolList(items=[studies.protocol_summary(study, row) for row in rows])


@router.post("/{study}/protocols", status_code=201)
def add_protocol(
    study: Code, definition: Annotated[dict[str, Any], Body()], actor: Writer, session: WriteSession
) -> ProtocolSummary:
    """Add a protocol version from its definition (the JSON form of a protocol file). Versions never change."""
    return studies.protocol_summary(study, studies.add_protocol_version(session, actor, study, definition))


@router.get("/{study}/protocols/{version}")
def read_protocol(study: Code, version: Code, actor: Reader, session: ReadSession) -> ProtocolRead:
    """One protocol version with its whole definition."""
    owner = studies.study_by_code(session, actor, study)
    statement = select(ProtocolVersion).where(ProtocolVersion.study_id == owner.id, ProtocolVersion.version == version)
    row = found(session.exec(visible(statement, actor)).first())
    summary = studies.protocol_summary(study, row)
    return ProtocolRead(**summary.model_dump(), definition=json.loads(row.definition))


@router.get("/{study}/sites")
def list_sites(study: Code, actor: Reader, session: ReadSession) -> SiteList:
    """The sites of a study that exist for you."""
    owner = studies.study_by_code(session, actor, study)
    statement = visible(select(Site).where(Site.study_id == owner.id).order_by(col(Site.code)), actor)
    return SiteList(items=[studies.site_read(study, row) for row in session.exec(statement).all()])


@router.post("/{study}/sites", status_code=201)
def add_site(study: Code, body: SiteCreate, actor: Writer, session: WriteSession) -> SiteRead:
    """Add a site to a study."""
    return studies.site_read(study, studies.add_site(session, actor, study, body))
