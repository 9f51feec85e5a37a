"""Extracts: asked for by an analyst, approved by somebody else, built at once, downloaded on the record."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import func
from sqlmodel import Session, col, select

from app import __version__, audit
from app.access import Actor, Rows, found, visible
from app.database import one_moment, within
from app.errors import Conflict
from app.models.audit import REGISTRY_CHAIN
from app.models.base import canonical_json, columns, now, utc_text, values
from app.models.extract import (
    ApprovalCreate,
    Decision,
    Extract,
    ExtractCreate,
    ExtractFile,
    ExtractFileRead,
    ExtractProfile,
    ExtractRead,
    ExtractStatus,
)
from app.models.notification import EventType, SubjectType
from app.models.study import Site, Study
from app.privacy import bundle
from app.privacy.profile import PROFILES, codebook
from app.privacy.risk import readable
from app.services import release
from app.services.aggregate import AggregateRows
from app.services.extract_ends import expiry, require_downloadable
from app.services.extract_rows import ExtractRows
from app.services.outbox import tell
from app.services.studies import study_by_code


class ExtractDecided(Conflict):
    """This extract was already approved or refused."""


class SecondPersonNeeded(Conflict):
    """Who asked for an extract cannot decide on it."""


def request_extract(session: Session, actor: Actor, body: ExtractCreate) -> ExtractRead:
    """Ask for an extract of a study. Nothing is built before a custodian approves."""
    study = study_by_code(session, actor, body.study)
    assert study.id is not None
    asked = body.model_dump(include={"profile", "purpose", "agreement"})
    row = Extract(study_id=study.id, requested_by=actor.account_id, **asked)
    session.add(row)
    session.flush()
    _remember(session, actor, audit.created("extract:requested", row, row.id))
    return _read(values(row), study.code, [])


def decide(session: Session, actor: Actor, extract_id: UUID, body: ApprovalCreate, days: int) -> ExtractRead:
    """Approve, which builds the extract to be downloaded within `days`, or refuse it.

    Raises NotFound, ExtractDecided, SecondPersonNeeded, CohortEmpty, CohortTooSmall, DifferencingRisk, KNotMet.
    """
    # not FOR UPDATE: the rows of who is in it refer to it from the connection that reads one moment
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
    if body.decision is Decision.approve:
        row.status = ExtractStatus.ready
        expiry(row, days)
        release.alone(session, row.study_id)
        row.manifest = canonical_json(_build(session, row, study, body.accept_difference))
        tell(session, EventType.extract_ready, None, row.study_id, SubjectType.extract, row.id)
    else:
        row.status = ExtractStatus.refused
    session.flush()
    action = f"extract:{'approved' if body.decision is Decision.approve else 'refused'}"
    _remember(session, actor, audit.changed(action, row, row.id, row.version, before, audit.snapshot(row), body.reason))
    return _read(values(row), study.code, files_of(session, row.id))


def _sites_of(session: Session, study: Study) -> list[int]:
    """An extract is of a whole study, whatever sites its custodian may see."""
    return [
        site_id for site_id in session.exec(select(Site.id).where(Site.study_id == study.id)) if site_id is not None
    ]


def _build(session: Session, row: Extract, study: Study, accept_difference: bool) -> dict[str, Any]:
    """Write the files, all of one moment of the data, and give the manifest."""
    profile, sites = PROFILES[row.profile], _sites_of(session, study)
    origin = bundle.Origin(study.code, str(row.id), utc_text(now()), __version__)
    with one_moment(session) as reading, within(reading, sites):
        cohort = release.choose(reading, row, accept_difference)
        rows = _rows(row, cohort)
        tables = {
            file: bundle.table(file.removesuffix(".csv"), columns, rows.of(reading, file), origin)
            for file, columns in profile.files.items()
        }
    if reading is not session:  # its rows are gone with it
        with within(session, sites):
            release.keep(session, cohort.rows)
    about, book = {"profile": row.profile, "profile_version": profile.version}, codebook(row.profile)
    files = {file: table.csv for file, table in tables.items()}
    files |= {f"{file.removesuffix('.csv')}.ndjson": table.ndjson for file, table in tables.items()}
    files["codebook.json"] = canonical_json({**about, "columns": book}).encode()
    files["codebook.csv"] = bundle.codebook_csv(book)
    if cohort.risk is not None:
        files["risk_report.json"] = canonical_json(cohort.risk).encode()
        files["risk_report.md"] = readable(cohort.risk).encode()
    counts = {
        name: table.rows for file, table in tables.items() for name in (file, f"{file.removesuffix('.csv')}.ndjson")
    }
    manifest = {
        "schema": "research-registry/extract/2",
        "extract": str(row.id),
        "study": study.code,
        **about,
        "agreement": row.agreement,
        "created_at": origin.created_at,
        "subjects": cohort.subjects,
        "levels": cohort.levels,
        "dates": "study days" if profile.under_agreement else "none; visits by name",
        "statement": _UNDER_AGREEMENT if profile.under_agreement else _STATEMENT,
        "software": f"research-registry {__version__}",
        "row_content_sha256": bundle.content_digest(tables),
        "files": [
            _described(name, raw, counts.get(name)).model_dump(mode="json") for name, raw in sorted(files.items())
        ],
    }
    files["README.txt"] = bundle.readme(manifest)
    files["manifest.json"] = canonical_json(manifest).encode()
    files["sha256sums.txt"] = bundle.sums(files)
    for name, raw in {**files, "bundle.zip": bundle.zipped(files)}.items():
        described = _described(name, raw, counts.get(name)).model_dump(exclude={"bytes"})
        session.add(ExtractFile(extract_id=row.id, content=raw, **described))
    return manifest


def _rows(row: Extract, cohort: release.Cohort) -> AggregateRows | ExtractRows:
    if row.profile == ExtractProfile.aggregate:
        return AggregateRows(row.id)
    return ExtractRows(row.id, row.profile, cohort.protocols)


_STATEMENT = "De-identified by the rules of this profile; not anonymous. No attempt at re-identification."
_UNDER_AGREEMENT = "Pseudonymised personal data under the agreement named here. No attempt at re-identification."


def _described(name: str, raw: bytes, rows: int | None) -> ExtractFileRead:
    media_type, digest = bundle.MEDIA_TYPES[name.rpartition(".")[2]], hashlib.sha256(raw).hexdigest()
    return ExtractFileRead(name=name, media_type=media_type, rows=rows, bytes=len(raw), sha256=digest)


def files_of(session: Session, extract_id: UUID) -> list[ExtractFileRead]:
    """The files of an extract, without reading their content."""
    kept = [column for column in columns(ExtractFile) if column.key != "content"]
    size = func.length(ExtractFile.content).label("size")
    statement = sa.select(*kept, size).where(col(ExtractFile.extract_id) == extract_id)
    return [
        ExtractFileRead(name=row.name, media_type=row.media_type, rows=row.rows, bytes=row.size, sha256=row.sha256)
        for row in session.execute(statement.order_by(col(ExtractFile.name)))
    ]


def read_one(session: Session, actor: Actor, extract_id: UUID) -> ExtractRead:
    row = found(session.exec(visible(select(Extract).where(Extract.id == extract_id), actor)).first())
    return _read(values(row), session.get_one(Study, row.study_id).code, files_of(session, row.id))


def download(session: Session, actor: Actor, extract_id: UUID, name: str) -> ExtractFile:
    """One file of an own extract; the download is remembered before the first byte leaves.

    Raises NotFound, ExtractExpired, ExtractRevoked.
    """
    row = found(session.exec(visible(select(Extract).where(Extract.id == extract_id), actor)).first())
    require_downloadable(row)
    file = found(
        session.exec(select(ExtractFile).where(ExtractFile.extract_id == row.id, ExtractFile.name == name)).first()
    )
    noted = [{"field": "file", "old": None, "new": f"{file.name} sha256:{file.sha256}"}]
    _remember(session, actor, audit.Event("extract:downloaded", "extract", str(row.id), row.version, noted))
    return file


def _remember(session: Session, actor: Actor, event: audit.Event) -> None:
    audit.append(session, str(actor.account_id), REGISTRY_CHAIN, [event])


def rows() -> Rows:
    """Extracts with the code of their study; narrow it with `visible`."""
    wanted = sa.select(*columns(Extract), col(Study.code).label("study"))
    return wanted.select_from(Extract).join(Study, col(Study.id) == col(Extract.study_id))


def read_all(session: Session, page: Sequence[Any]) -> list[ExtractRead]:
    return [_read(row._asdict(), row.study, files_of(session, row.id)) for row in page]


def _read(values: Mapping[str, Any], study: str, files: list[ExtractFileRead]) -> ExtractRead:
    manifest = values["manifest"]
    return ExtractRead(
        study=study,
        manifest=json.loads(manifest) if manifest else None,
        files=files,
        **{name: values[name] for name in _SHOWN},
    )


_SHOWN = (
    *("id", "profile", "purpose", "agreement", "status", "decision_reason", "expires_at"),
    *("version", "created_at", "updated_at"),
)
