"""Extracts: requested by an analyst, approved by a custodian, downloaded by the analyst; each step is in the audit
trail. app/services/extracts/building.py writes the files."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Session, col, select

from app import audit
from app.access import Actor, Rows, found, visible, visible_row
from app.database import one_moment, within
from app.errors import Conflict, Fault, Invalid, SecondPersonNeeded
from app.models.among import among
from app.models.base import canonical_json, columns, from_json, now, utc_text, values
from app.models.extract import (
    RELEASED,
    ApprovalCreate,
    ApprovalDecision,
    Extract,
    ExtractBuild,
    ExtractCreate,
    ExtractFile,
    ExtractFileRead,
    ExtractFormat,
    ExtractRead,
    ExtractStatus,
    WithdrawnSince,
)
from app.models.study import Study
from app.permissions import Permission
from app.privacy.profile import PROFILES
from app.services.extracts import as_at, data_cuts, parquet, receivers, release
from app.services.extracts.bundling import SCHEMA
from app.services.extracts.extract_ends import expiry, require_downloadable
from app.services.extracts.extract_sql import unhurried
from app.services.identity.own_account import require_own_sign_in
from app.services.participation import sharing
from app.services.studies import sites_of, study_by_code
from app.services.trail.history import names_of
from app.services.trail.registry_chain import remember


class ExtractDecided(Conflict):
    """This extract was already approved or refused."""


class ParquetUnavailable(Invalid):
    """This server cannot write Parquet; the operator can install the extra `parquet`."""


def request_extract(session: Session, actor: Actor, body: ExtractCreate) -> ExtractRead:
    """Ask for an extract of a study. Its people are chosen when a custodian approves it.

    Raises NotFound, CutUnknown, ParquetUnavailable.
    """
    study = study_by_code(session, actor, body.study)
    assert study.id is not None
    if ExtractFormat.parquet in body.formats and not parquet.available():
        raise ParquetUnavailable(Fault("/formats", "unavailable", "This server writes csv and ndjson"))
    row = Extract(
        study_id=study.id,
        requested_by=actor.account_id,
        organisation=actor.organisation,
        formats=canonical_json(sorted({ExtractFormat.csv, *body.formats})),
        heads=data_cuts.heads_of(session, study.id, body.cut) if body.cut else None,
        **body.model_dump(include={"profile", "purpose", "agreement", "cut"}),
    )
    session.add(row)
    session.flush()
    remember(session, actor, audit.created("extract:requested", row, row.id))
    return _read(values(row), study.code, [], None, _related(session, actor, [row]))


def decide(session: Session, actor: Actor, extract_id: UUID, body: ApprovalCreate, days: int) -> ExtractRead:
    """Refuse an extract; or approve it, which fixes its people and the moment that it shows, and lets a worker build
    the files. They can be downloaded for `days`.

    Raises PasswordNotOwn, NotFound, ExtractDecided, SecondPersonNeeded, ApprovalUnderWay, CohortEmpty, CohortTooSmall,
    DifferencingRisk, KNotMet.
    """
    require_own_sign_in(session, actor)
    # Not FOR UPDATE: rows that refer to it are inserted meanwhile over another connection.
    statement = visible(select(Extract).where(Extract.id == extract_id), actor).with_for_update(key_share=True)
    row = found(session.exec(statement).first())
    if row.status != ExtractStatus.requested:
        raise ExtractDecided
    if row.requested_by == actor.account_id:
        raise SecondPersonNeeded
    before = audit.snapshot(row)
    row.decided_by, row.decision_reason = actor.account_id, body.reason
    row.version, row.updated_at = row.version + 1, now()
    study = session.get_one(Study, row.study_id)
    if body.decision is ApprovalDecision.approve:
        row.status = ExtractStatus.building
        expiry(row, days)
        release.hold_approvals(session, row.study_id)
        _choose(session, row, body.accept_difference)
        session.add(ExtractBuild(extract_id=row.id))
    else:
        row.status = ExtractStatus.refused
    session.flush()
    action = f"extract:{'approved' if body.decision is ApprovalDecision.approve else 'refused'}"
    remember(session, actor, audit.changed(action, row, row.id, row.version, before, body.reason))
    built_rows = 0 if row.status == ExtractStatus.building else None
    return _read(values(row), study.code, [], built_rows, _related(session, actor, [row]))


def _choose(session: Session, row: Extract, accept_difference: bool) -> None:
    """Choose and store the people of an extract and its moment. It covers the whole study, whatever sites the custodian
    may see."""
    sites = sites_of(session, row.study_id)
    with one_moment(session) as reading, within(reading, sites):
        if reading is not session:
            unhurried(reading)
        heads = as_at.read(row.heads) if row.heads else as_at.heads_of(reading, sites)
        with as_at.as_at(reading, heads, sites):
            cohort = release.choose_people(reading, row, accept_difference)
    with within(session, sites):
        release.store_people(session, row, cohort)
    row.heads = as_at.written(heads)
    form = {"schema": SCHEMA, "profile_version": PROFILES[row.profile].version}
    approved = {name: getattr(cohort, name) for name in ("subjects", "levels", "ledger", "risk")}
    row.manifest = canonical_json({**form, **approved, "created_at": utc_text(row.updated_at)})


def files_of(session: Session, extract_id: UUID) -> list[ExtractFileRead]:
    """The finished files of an extract."""
    names = list(ExtractFileRead.model_fields)
    statement = select(ExtractFile).where(ExtractFile.extract_id == extract_id).order_by(col(ExtractFile.name))
    return [ExtractFileRead(**file.model_dump(include=set(names))) for file in session.exec(statement)]


def read_one(session: Session, actor: Actor, extract_id: UUID) -> ExtractRead:
    row = found(session.execute(visible(rows().where(col(Extract.id) == extract_id), actor)).first())
    return read_all(session, actor, [row])[0]


def download(session: Session, actor: Actor, extract_id: UUID, name: str, *, sent: bool) -> ExtractFile:
    """One file of the actor's own extract. If it is to be sent, the download is in the audit trail before its first
    byte.

    Raises NotFound, ExtractExpired, ExtractRevoked.
    """
    row = visible_row(session, actor, Extract, extract_id)
    require_downloadable(row)
    file = found(
        session.exec(select(ExtractFile).where(ExtractFile.extract_id == row.id, ExtractFile.name == name)).first()
    )
    if sent:
        noted = [{"field": "file", "old": None, "new": f"{file.name} sha256:{file.sha256}"}]
        remember(session, actor, audit.Event("extract:downloaded", "extract", str(row.id), row.version, noted))
    return file


def rows() -> Rows:
    """Extracts with the code of their study and the number of rows built so far; narrow it with `visible`."""
    built = sa.select(col(ExtractBuild.rows)).where(col(ExtractBuild.extract_id) == col(Extract.id)).scalar_subquery()
    wanted = sa.select(*columns(Extract), col(Study.code).label("study"), built.label("built_rows"))
    return wanted.select_from(Extract).join(Study, col(Study.id) == col(Extract.study_id))


def by_withdrawals(session: Session, actor: Actor, statement: Rows, wanted: bool | None) -> Rows:
    """The statement limited to extracts with people who have withdrawn consent since, or with none, as far as the actor
    may know. `wanted` None: not limited."""
    if wanted is None:
        return statement
    since = _withdrawn_since(session, actor)
    return statement.where(among(Extract.id, "wanted", [one for one in since if (since[one] != NOBODY) is wanted]))


NOBODY = WithdrawnSince()


def _withdrawn_since(session: Session, actor: Actor, *which: Any) -> Mapping[UUID, WithdrawnSince]:
    """By approved extract, how many of its people have withdrawn consent since: only extracts that the actor may
    approve or refuse and did not ask for. `which` are further conditions."""
    decides = actor.held.get(Permission.extract_approve, frozenset())
    if not decides:
        return {}
    others = (col(Extract.study_id).in_(sorted(decides)), Extract.requested_by != actor.account_id)
    approved = select(Extract.id, Extract.study_id).where(*others, col(Extract.status).in_(RELEASED), *which)
    found = session.execute(visible(approved, actor)).all()
    sites = [site for study_id in {one.study_id for one in found} for site in sites_of(session, study_id)]
    with within(session, sites):
        since = sharing.withdrawn_since(session, [one.id for one in found])
    return {one.id: since.get(one.id, NOBODY) for one in found}


class _Related(NamedTuple):
    """What other tables hold about some extracts: names of people, the time of each first download, and how many
    participants have withdrawn consent since."""

    names: Mapping[str, str]
    downloads: Mapping[UUID, datetime]
    withdrawn: Mapping[UUID, WithdrawnSince]


def read_all(session: Session, actor: Actor, page: Sequence[Any]) -> list[ExtractRead]:
    related = _related(session, actor, page)
    return [_read(row._asdict(), row.study, files_of(session, row.id), row.built_rows, related) for row in page]


def _related(session: Session, actor: Actor, page: Sequence[Any]) -> _Related:
    ids = [row.id for row in page]
    people = {str(one) for row in page for one in (row.requested_by, row.decided_by) if one is not None}
    withdrawn = _withdrawn_since(session, actor, among(Extract.id, "page", ids))
    return _Related(names_of(session, people), receivers.downloads(session, ids), withdrawn)


def _read(
    values: Mapping[str, Any], study: str, files: list[ExtractFileRead], built_rows: int | None, related: _Related
) -> ExtractRead:
    fixed = json.loads(values["manifest"] or "{}")
    return ExtractRead(
        study=study,
        subjects=fixed.get("subjects"),
        risk=fixed.get("risk"),
        manifest=fixed if "row_content_sha256" in fixed else None,  # before, it holds only what the approval fixed
        files=files,
        formats=from_json(values["formats"]),
        built_rows=built_rows,
        requested_by_name=related.names.get(str(values["requested_by"])),
        decided_by_name=related.names.get(str(values["decided_by"])),
        downloaded_at=related.downloads.get(values["id"]),
        withdrawn_since=related.withdrawn.get(values["id"]),
        **{name: values[name] for name in _SHOWN},
    )


_SHOWN = (
    "id",
    "profile",
    "purpose",
    "organisation",
    "requested_by",
    "agreement",
    "cut",
    "status",
    "decided_by",
    "decision_reason",
    "expires_at",
    "version",
    "created_at",
    "updated_at",
)
