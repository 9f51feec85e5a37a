"""How far the protocol's verification plan is carried out, site by site."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Row, and_
from sqlmodel import Session

from app.access import Actor
from app.models.base import table_of
from app.models.participant import Participant
from app.models.verification import CoverageRead, RecordCoverage, Result, SiteCoverage, Verification
from app.protocol.verification import RecordKind
from app.protocol.verification import Verification as Plan
from app.services.studies import protocol_of
from app.services.verifications import SUBJECTS, overtaken, taken_back

_MADE = table_of(Verification)


def coverage(session: Session, actor: Actor, study: str) -> CoverageRead:
    """For each site in reach: who is sampled by the plan of their own protocol version, and how many of their covered
    records are verified as they are now. Raises NotFound."""
    site_ids = actor.sites_of(study)
    people = table_of(Participant)
    wanted = sa.select(people.c.site_id, people.c.pid, people.c.protocol_version_id)
    enrolled = session.execute(wanted.where(people.c.site_id.in_(site_ids)).order_by(people.c.pid)).all()
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


def sampled(session: Session, study: str, people: Iterable[Row[Any]]) -> dict[str, Plan]:
    """By pid, the plan of everybody whom the plan of their own protocol version samples."""
    plans = {row.pid: protocol_of(session, row.protocol_version_id).verification for row in people}
    return {pid: plan for pid, plan in plans.items() if plan is not None and plan.sampled(study, pid)}


def record_coverage(session: Session, site_ids: Sequence[int], plans: Mapping[str, Plan]) -> dict[int, RecordCoverage]:
    """By site, how far the records that these plans cover are verified; one statement for each kind of record."""
    counts: dict[int, Counter[str]] = {site_id: Counter() for site_id in site_ids}
    for kind in RecordKind:
        for group in _counted(session, kind, site_ids):
            plan = plans.get(group.pid)
            critical = plan.of(kind) if plan else None
            if critical is not None and (not critical.instruments or group.instrument in critical.instruments):
                counts[group.site_id].update({name: int(group._mapping[name]) for name in _COUNTS})
    return {site_id: _coverage(numbers) for site_id, numbers in counts.items()}


_COUNTS = ("records", "verified", "discrepant", "needs_reverification")


def _counted(session: Session, kind: RecordKind, site_ids: Sequence[int]) -> Iterator[Row[Any]]:
    """The records of one kind by participant (and instrument), counted by the verification that stands."""
    subject = SUBJECTS[kind]
    stored = table_of(subject.table)
    standing = and_(
        _MADE.c.site_id == stored.c.site_id,
        _MADE.c.subject_type == kind,
        _MADE.c.pid == stored.c.pid,
        _MADE.c[subject.named_by] == stored.c[subject.key],
        ~taken_back(_MADE),
        ~overtaken(_MADE),
    )
    current = _MADE.c.subject_version == stored.c.version
    by = [stored.c.site_id, stored.c.pid]
    instrument = stored.c.instrument if kind is RecordKind.outcome else sa.null()
    counted = [
        sa.func.count().label("records"),
        _number(and_(current, _MADE.c.result == Result.verified)).label("verified"),
        _number(and_(current, _MADE.c.result == Result.discrepant)).label("discrepant"),
        _number(~current).label("needs_reverification"),
    ]
    grouped = [*by, instrument] if kind is RecordKind.outcome else by
    statement = sa.select(*by, instrument.label("instrument"), *counted).select_from(stored.outerjoin(_MADE, standing))
    yield from session.execute(statement.where(stored.c.site_id.in_(site_ids)).group_by(*grouped))


def _number(rule: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
    return sa.func.sum(sa.case((rule, 1), else_=0))


def _coverage(counts: Counter[str]) -> RecordCoverage:
    records = counts["records"]
    seen = counts["verified"] + counts["discrepant"] + counts["needs_reverification"]
    return RecordCoverage(
        **{name: counts[name] for name in _COUNTS},
        unverified=records - seen,
        coverage_percent=round(100 * counts["verified"] / records, 1) if records else None,
    )
