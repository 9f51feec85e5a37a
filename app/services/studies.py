"""Studies, protocol versions and sites: set up by an admin, read by everybody who has a grant there."""

import json
from typing import Any
from weakref import WeakKeyDictionary
from zoneinfo import ZoneInfo

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Place, found, visible
from app.database import unique_or
from app.errors import Conflict, Fault, Invalid
from app.models.audit import REGISTRY_CHAIN
from app.models.base import canonical_json, values
from app.models.study import (
    ProtocolSummary,
    ProtocolVersion,
    Site,
    SiteCreate,
    SiteRead,
    Study,
    StudyCreate,
)
from app.protocol.base import ProtocolFault, ProtocolInvalid
from app.protocol.definition import Protocol
from app.protocol.schedule import parse_protocol, stored_protocol
from app.services.trail.registry_chain import remember
from app.web.problems import shown


class StudyExists(Conflict):
    """There is a study with this code already."""


class SiteExists(Conflict):
    """This study has a site with this code already."""


class ProtocolVersionExists(Conflict):
    """This study has that protocol version already; versions never change."""


class ProtocolRefused(Invalid):
    """The protocol definition contradicts itself, or is of another protocol than the study's; see errors."""


def study_by_code(session: Session, actor: Actor, code: str) -> Study:
    """The study with this code, if it exists for the actor. Raises NotFound."""
    return found(session.exec(visible(select(Study).where(Study.code == code), actor)).first())


def study_asked(session: Session, actor: Actor, code: str | None) -> int | None:
    """The key of the study that a list was asked for, None for all of them. Raises NotFound."""
    return None if code is None else study_by_code(session, actor, code).id


def sites_of(session: Session, study_id: int) -> list[int]:
    """The keys of all sites of a study."""
    statement = select(Site.id).where(Site.study_id == study_id).order_by(col(Site.id))
    return [site_id for site_id in session.exec(statement) if site_id is not None]


def every_site(session: Session) -> list[int]:
    """The keys of all sites, for `within` where there is no actor."""
    return [site_id for site_id in session.exec(select(Site.id)) if site_id is not None]


def every_chain(session: Session) -> list[int]:
    """All sites and the registry's own chain, which belongs to none: for reading the whole audit trail."""
    return [REGISTRY_CHAIN, *every_site(session)]


def zone_of(session: Session, site_id: int) -> ZoneInfo:
    """The time zone of a site's calendar days."""
    return ZoneInfo(session.get_one(Site, site_id).timezone)


def places(session: Session) -> dict[int, Place]:
    """The codes of study and site, by the key of each site: small reference data, read whole."""
    named = select(Site.id, Study.code, Site.code).join(Study, col(Study.id) == col(Site.study_id))
    return {site_id: Place(study, site) for site_id, study, site in session.exec(named) if site_id is not None}


def site_by_code(session: Session, actor: Actor, study: str, site: str) -> Site:
    """The site with this code in a study, if it exists for the actor. Raises NotFound."""
    statement = (
        select(Site).join(Study, col(Study.id) == col(Site.study_id)).where(Study.code == study, Site.code == site)
    )
    return found(session.exec(visible(statement, actor)).first())


def protocol_of(session: Session, version_id: int) -> Protocol:
    """The protocol of a stored version. Kept in memory for good: versions are immutable."""
    known = _PROTOCOLS.setdefault(session.get_bind().engine, {})
    if version_id not in known:
        text = session.exec(select(ProtocolVersion.definition).where(ProtocolVersion.id == version_id)).one()
        known[version_id] = stored_protocol(json.loads(text))
    return known[version_id]


def newest_protocol(session: Session, site_id: int) -> Protocol:
    """The protocol of the newest version of a site's study. The study must have one."""
    of_study = col(Site.study_id) == col(ProtocolVersion.study_id)
    versions: Any = select(ProtocolVersion.id).join(Site, of_study).where(Site.id == site_id)
    newest: int = session.exec(versions.order_by(col(ProtocolVersion.id).desc()).limit(1)).one()
    return protocol_of(session, newest)


_PROTOCOLS: WeakKeyDictionary[Engine, dict[int, Protocol]] = WeakKeyDictionary()


def create_study(session: Session, actor: Actor, body: StudyCreate) -> Study:
    study = Study(code=body.code, title=body.title)
    session.add(study)
    with unique_or(StudyExists):
        session.flush()
    remember(session, actor, audit.created("study:created", study, study.code))
    return study


def add_protocol_version(
    session: Session, actor: Actor, study_code: str, definition: dict[str, Any]
) -> ProtocolVersion:
    """Store a validated protocol. Raises ProtocolRefused with every fault, ProtocolVersionExists."""
    study = study_by_code(session, actor, study_code)
    try:
        protocol = parse_protocol(definition)
    except ProtocolInvalid as refused:
        raise ProtocolRefused(*(_fault(fault) for fault in refused.faults)) from None
    assert study.id is not None
    _require_same_protocol(session, study.id, protocol)
    version = ProtocolVersion(
        study_id=study.id,
        version=protocol.version,
        title=protocol.title,
        definition=canonical_json(definition),
    )
    session.add(version)
    with unique_or(ProtocolVersionExists):
        session.flush()
    remember(session, actor, audit.created("protocol:added", version, f"{study.code}/{version.version}"))
    return version


def _require_same_protocol(session: Session, study_id: int, protocol: Protocol) -> None:
    """All versions of a study are of one protocol, as enrolments follow the newest one. Raises ProtocolRefused."""
    stored = session.exec(select(ProtocolVersion.id).where(ProtocolVersion.study_id == study_id)).all()
    codes = {protocol_of(session, one).code for one in stored if one is not None}
    if codes and protocol.code not in codes:
        raise ProtocolRefused(Fault("/code", "another_protocol", "The study's versions are of another protocol"))


def _fault(fault: ProtocolFault) -> Fault:
    """The place and the rule of a fault, without its message, which may quote what was sent."""
    pointer = "".join(f"/{shown(part)}" for part in fault.path.split("/")[1:])
    return Fault(pointer, fault.code, fault.code.replace("_", " ").capitalize())


def add_site(session: Session, actor: Actor, study_code: str, body: SiteCreate) -> Site:
    study = study_by_code(session, actor, study_code)
    assert study.id is not None
    site = Site(study_id=study.id, **body.model_dump())
    session.add(site)
    with unique_or(SiteExists):
        session.flush()
    remember(session, actor, audit.created("site:added", site, f"{study.code}/{site.code}"))
    return site


def protocol_summary(study: str, version: ProtocolVersion) -> ProtocolSummary:
    return ProtocolSummary.of_row(values(version), study=study)


def site_read(study: str, site: Site) -> SiteRead:
    return SiteRead.of_row(values(site), study=study)
