"""How far the protocol's verification plan is carried out, site by site."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import ColumnElement, Row, and_
from sqlmodel import Session

from app.access import Actor
from app.models.adverse_event import CRITERIA
from app.models.among import among
from app.models.audit import AuditEntry
from app.models.base import table_of
from app.models.participant import Participant
from app.models.verification import CoverageRead, RecordCoverage, SiteCoverage, Verification
from app.models.voided import counts
from app.protocol.verification import CriticalFields, RecordKind
from app.protocol.verification import Verification as Plan
from app.services.quality.verifications import SUBJECTS, overtaken, recorded, taken_back
from app.services.studies import protocol_of

_MADE = table_of(Verification)


def coverage(session: Session, actor: Actor, study: str) -> CoverageRead:
    """For each site in reach: who is sampled by the plan of their own protocol version, and how many of their covered
    records are verified in the critical fields. Raises NotFound."""
    site_ids = actor.sites_at(study)
    enrolled = people_of(session, site_ids)
    plans = sampled(session, study, enrolled)
    numbers = record_coverage(session, site_ids, plans)
    sites = [
        SiteCoverage(
            site=actor.places[site_id].site,
            participants=sum(row.site_id == site_id for row in enrolled),
            sampled=[row.pid for row in enrolled if row.site_id == site_id and row.pid in plans],
            **dict(numbers[site_id]),
        )
        for site_id in site_ids
    ]
    return CoverageRead(study=study, sites=sorted(sites, key=lambda site: site.site))


def people_of(session: Session, site_ids: Sequence[int]) -> Sequence[Row[Any]]:
    """All participants of these sites, with their protocol version."""
    people = table_of(Participant)
    wanted = sa.select(people.c.site_id, people.c.pid, people.c.protocol_version_id)
    return session.execute(wanted.where(people.c.site_id.in_(site_ids), counts(people)).order_by(people.c.pid)).all()


def sampled(session: Session, study: str, people: Iterable[Row[Any]]) -> dict[str, Plan]:
    """By pid, the plan of everybody whom the plan of their own protocol version samples."""
    plans = {row.pid: protocol_of(session, row.protocol_version_id).verification for row in people}
    return {pid: plan for pid, plan in plans.items() if plan is not None and plan.sampled(study, pid)}


def record_coverage(session: Session, site_ids: Sequence[int], plans: Mapping[str, Plan]) -> dict[int, RecordCoverage]:
    """By site, how far the records that these plans cover are verified. One statement for each kind of record, and one
    for what was corrected since."""
    covered = []
    for kind in RecordKind:
        for group in _grouped(session, kind, site_ids):
            plan = plans.get(group.pid)
            critical = plan.of(kind) if plan else None
            if critical is not None and (not critical.instruments or group.instrument in critical.instruments):
                covered.append((critical, group))
    trail = trail_of(session, covered)
    counts: dict[int, Counter[str]] = {site_id: Counter() for site_id in site_ids}
    for critical, group in covered:
        counts[group.site_id][state_of(critical, group, trail)] += group.records
    return {site_id: _coverage(numbers) for site_id, numbers in counts.items()}


def _grouped(session: Session, kind: RecordKind, site_ids: Sequence[int]) -> Iterator[Row[Any]]:
    """The records of one kind by participant, instrument and what the verification that stands says; each that has
    moved on since (`moved`) by itself."""
    subject = SUBJECTS[kind]
    stored = table_of(subject.table)
    moved = _MADE.c.subject_version != stored.c.version
    by = {
        "site_id": stored.c.site_id,
        "pid": stored.c.pid,
        "result": _MADE.c.result,
        "moved": sa.case((moved, stored.c[subject.key])),
        "verified_version": sa.case((moved, _MADE.c.subject_version)),
        "version": sa.case((moved, stored.c.version)),
        **({"instrument": stored.c.instrument} if kind is RecordKind.outcome else {}),
    }
    wanted = [column.label(name) for name, column in by.items()]
    statement = sa.select(*wanted, sa.func.count().label("records")).select_from(stored.outerjoin(_MADE, stands(kind)))
    here = stored.c.site_id.in_(site_ids), recorded(kind)
    yield from session.execute(statement.where(*here).group_by(*by.values()))


def stands(kind: RecordKind) -> ColumnElement[bool]:
    """Joins a record with the verification of it that stands, if there is one."""
    subject = SUBJECTS[kind]
    stored = table_of(subject.table)
    return and_(
        _MADE.c.site_id == stored.c.site_id,
        _MADE.c.subject_type == kind,
        _MADE.c.pid == stored.c.pid,
        _MADE.c[subject.named_by] == stored.c[subject.key],
        ~taken_back(_MADE),
        ~overtaken(_MADE),
    )


_Trail = Mapping[tuple[str, str, int], set[str]]


def trail_of(session: Session, covered: Iterable[tuple[CriticalFields, Any]]) -> _Trail:
    """Of each record that has moved on, by kind, id and version, the columns that the version changed."""
    moved = [(critical.record, group) for critical, group in covered if group.moved is not None]
    entry = table_of(AuditEntry).c
    wanted = sa.select(entry.subject_type, entry.subject_id, entry.subject_version, entry.changes).where(
        entry.site_id.in_({group.site_id for _, group in moved}),
        entry.subject_type.in_({record for record, _ in moved}),
        among(entry.subject_id, "ids", [str(group.moved) for _, group in moved]),
        entry.action != "outcome:rescored",  # by another rule, from the same answers
    )
    changed: dict[tuple[str, str, int], set[str]] = defaultdict(set)
    for *version, changes in session.execute(wanted):
        changed[tuple(version)] |= {one["field"].partition(".")[0] for one in json.loads(changes)}
    return changed


def state_of(critical: CriticalFields, group: Any, trail: _Trail) -> str:
    """A verification stands while no critical field is corrected, whatever else is."""
    if group.result is None:
        return "unverified"
    columns = {column for field in critical.fields for column in _COLUMNS.get(field, (field,))}
    again = group.moved is not None and any(
        columns & trail.get((critical.record, str(group.moved), version), _OF_ITS_PARTS)
        for version in range(group.verified_version + 1, group.version + 1)
    )
    return "needs_reverification" if again else str(group.result)


_COLUMNS = {"criteria": CRITERIA, "items": ("items", "scores")}
"""The fields that the trail has under other names. Scores are of themselves where they are historical totals."""


_OF_ITS_PARTS = frozenset({"doses", "vitals"})
"""What changes where a version has no entry of its own: a dose or reading moves its session on."""


def _coverage(counts: Counter[str]) -> RecordCoverage:
    records = counts.total()
    return RecordCoverage(
        records=records,
        **{name: counts[name] for name in ("verified", "discrepant", "needs_reverification", "unverified")},
        coverage_percent=round(100 * counts["verified"] / records, 1) if records else None,
    )
