"""Who is in an extract, and under which subject ids: consent to sharing, k-anonymity, and the ledger, which is the
comparison with the people of earlier extracts."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import Row, Subquery, func
from sqlmodel import Session, col, select

from app.database import Turn
from app.errors import Conflict, Invalid, Unavailable
from app.models.adverse_event import AdverseEvent
from app.models.base import as_compared, now, table_of, utc_text
from app.models.extract import RELEASED, Extract, ExtractProfile, ExtractStatus, ExtractSubject
from app.models.participant import Participant
from app.models.study import Site
from app.models.visit import Visit
from app.privacy.hiding import rounded
from app.privacy.lattice import K, generalise
from app.privacy.profile import PROFILES
from app.privacy.quasi import QUASI_IDENTIFIERS
from app.privacy.risk import risk_report
from app.privacy.subjects import site_groups, subject_ids
from app.protocol.definition import Protocol
from app.services.extracts import as_at
from app.services.extracts.chunks import Background
from app.services.extracts.fingerprints import fingerprints
from app.services.extracts.quasi_identifiers import CLASS, exact_traits, of_person, shown_at
from app.services.participation import collected
from app.services.participation.screening_visits import counted, in_each_screening
from app.services.participation.sharing import shares
from app.services.studies import protocol_of
from app.writing import Writes, store

APART = timedelta(days=90)
"""Minimum time between two aggregate extracts of different people: their difference must not show one new participant,
nor the data of one whose consent to collection was withdrawn."""

BATCH = 5_000
"""People read or stored at a time."""

_SUBJECTS = table_of(ExtractSubject)


class CohortTooSmall(Invalid):
    """Fewer people share their data than a group of k needs; ask for a pseudonymised extract, under an agreement."""


class CohortEmpty(Invalid):
    """Nobody in this study consented to data sharing."""


class DifferencingRisk(Conflict):
    """An earlier extract, for the same organisation or of public tables, has almost the same people, or tables by an
    earlier version that count other scores of a few of them: comparing the two could reveal these few. `extracts`
    names each such one. Wait until more people differ, or accept it with a reason."""


class KNotMet(Conflict):
    """The finished rows failed the last check that every person looks like at least k - 1 others. Nothing was released;
    report it."""


class ApprovalUnderWay(Unavailable):
    """Another extract of this study is being approved; try again."""


class Cohort(NamedTuple):
    """The people chosen for an extract. A pseudonymised one has no `ledger`; only a deidentified one has `risk` and
    `levels`."""

    subjects: int | None
    """How many people are in it; of tables the rounded number, None if that is hidden."""

    ledger: Mapping[str, Any] | None
    risk: Mapping[str, Any] | None
    levels: Mapping[str, int] | None
    rows: Iterator[dict[str, Any]]
    """The rows of ExtractSubject to store, each made when it is read."""


def hold_approvals(session: Session, study_id: int) -> None:
    """Allow one approval of a study at a time: of two at once, neither would see the other in the ledger. A second one
    is refused, as it would occupy a connection while it waited. The approval's own connection is idle while another one
    reads, which takes long for a large study, so its idle timeout is turned off. Raises ApprovalUnderWay."""
    if session.get_bind().dialect.name == "postgresql":
        session.connection().exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
        if not session.execute(sa.select(func.pg_try_advisory_xact_lock(Turn.approval.value, study_id))).scalar_one():
            raise ApprovalUnderWay


def choose_people(session: Session, row: Extract, accept_difference: bool) -> Cohort:
    """The people of an extract, with their subject ids and the traits that its profile shows. `accept_difference`: a
    custodian accepts the risk of a small difference from an earlier extract.

    Raises CohortEmpty, CohortTooSmall, DifferencingRisk.
    """
    later_consents = as_at.consents_since(session, as_at.read(row.heads or "{}"))
    ended = collected.ended(later_consents)
    people = _sharing(session, row.study_id, later_consents, ended)
    if not people:
        raise CohortEmpty
    protocols = {
        version: protocol_of(session, version) for version in {person.protocol_version_id for person in people}
    }
    if PROFILES[row.profile].under_agreement:
        return Cohort(len(people), None, None, None, _subject_rows(session, row, people, protocols, ended, None))
    if len(people) < K:
        raise CohortTooSmall
    earlier, exact = _comparable(session, row), [exact_traits(person) for person in people]
    serious = _had_serious_event(session, row.study_id, people, ended)
    generalised = generalise(exact, QUASI_IDENTIFIERS, _coarsest_released(earlier), serious)
    kept = [index for index, stays in enumerate(generalised.kept) if stays]
    released = [people[index] for index in kept]
    new = {person.pid: person.since for person in released}
    tables = row.profile == ExtractProfile.aggregate
    twice = _measured_twice(session, row.study_id, protocols.values(), ended) if tables else set()
    ledger = _ledger(session, row, earlier, new, twice, accept_difference)
    if tables:
        rows = _subject_rows(session, row, released, protocols, ended, None)
        return Cohort(rounded(len(released)), ledger, None, None, rows)
    serious_shown = len({serious[index] for index in kept}) > 1
    rows = _subject_rows(session, row, released, protocols, ended, generalised.levels, serious_shown)
    unique = fingerprints(session, row.study_id, {person.pid for person in released}, ended)
    report = risk_report(exact, QUASI_IDENTIFIERS, generalised, serious_shown, ledger, unique)
    return Cohort(len(released), ledger, report, generalised.levels, rows)


def _sharing(session: Session, study_id: int, later_consents: Sequence[str], ended: Subquery) -> Sequence[Row[Any]]:
    """Everybody who shares data; ordered by pid, which discloses nothing."""
    person = table_of(Participant).c
    wanted = (person.site_id, person.pid, person.protocol_version_id, *of_person(ended.c.since), ended.c.since)
    statement = sa.select(*wanted).join(Site, col(Site.id) == person.site_id)
    statement = statement.outerjoin(ended, (ended.c.site_id == person.site_id) & (ended.c.pid == person.pid))
    sharing = (col(Site.study_id) == study_id, shares(later_consents))
    return session.execute(statement.where(*sharing).order_by(person.pid)).all()


def _released(session: Session, row: Extract, *profiles: ExtractProfile) -> list[Extract]:
    """Other extracts of the same study that somebody has or may still get, oldest first. A failed one is included, as
    it can be built again. One that ended before it was built (its manifest has no digest of rows) is not."""
    same = (col(Extract.study_id) == row.study_id, col(Extract.profile).in_(profiles))
    others = (col(Extract.status).in_(RELEASED), col(Extract.id) != row.id)
    found = session.exec(select(Extract).where(*same, *others).order_by(col(Extract.created_at))).all()
    ended = (ExtractStatus.expired, ExtractStatus.revoked)
    return [one for one in found if one.status not in ended or "row_content_sha256" in (one.manifest or "")]


def _received_by_same_organisation(session: Session, row: Extract) -> list[Extract]:
    """Released extracts of the same profile that the requester's organisation received, also those whose files were
    deleted here, as the recipient may have a copy. Names of organisations are compared in a normal form
    (`as_compared`). All names under which the requesting account ever asked count as the organisation's, as accounts
    are renamed and people change jobs."""
    released = _released(session, row, row.profile)
    asked = [row, *(one for one in released if one.requested_by == row.requested_by)]
    names = {as_compared(one.organisation) for one in asked}
    return [one for one in released if as_compared(one.organisation) in names]


def _comparable(session: Session, row: Extract) -> list[Extract]:
    """The released extracts that a recipient could compare with this one; aggregates are open to everybody."""
    if row.profile == ExtractProfile.aggregate:
        return _released(session, row, ExtractProfile.aggregate, ExtractProfile.deidentified)
    return [*_received_by_same_organisation(session, row), *_released(session, row, ExtractProfile.aggregate)]


People = Mapping[str, date | None]
"""The people of an extract, by pid, with the day on which the collection of their data ended (None: it goes on)."""


def _people_of(session: Session, extract: Extract) -> People:
    wanted = sa.select(_SUBJECTS.c.pid, _SUBJECTS.c.collection_ended_on)
    found = session.execute(wanted.where(_SUBJECTS.c.extract_id == extract.id))
    return {one.pid: one.collection_ended_on for one in found}


def _close(one: Set[str], other: Set[str]) -> bool:
    """Whether one of the two sets has some people that the other lacks, but fewer than K."""
    return any(0 < len(difference) < K for difference in (one - other, other - one))


def _coarsest_released(earlier: Sequence[Extract]) -> dict[str, int]:
    """The coarsest level at which each quasi-identifier was released before. Aggregates have no levels."""
    levels: dict[str, int] = {}
    for extract in earlier:
        for name, level in (json.loads(extract.manifest or "{}").get("levels") or {}).items():
            levels[name] = max(level, levels.get(name, 0))
    return levels


def _measured_twice(session: Session, study_id: int, protocols: Iterable[Protocol], ended: Subquery) -> set[str]:
    """The people with a visit of a further screening that tables may count, by pid: of these, versions of the tables
    before 5 count the scores of another visit (`screening_visits.counted`)."""
    each = in_each_screening(protocols).items()
    further = (sa.and_(col(Visit.visit_code) == code, col(Visit.occurrence) > many) for code, many in each)
    of_study = (col(Site.study_id) == study_id, col(Visit.occurred_on).is_not(None))
    held = sa.select(col(Visit.pid)).join(Site, col(Site.id) == col(Visit.site_id))
    held = held.where(*of_study, sa.or_(sa.false(), *further))
    return set(session.execute(collected.while_collected(held, ended, Visit, *collected.OF_VISIT)).scalars())


def _ledger(
    session: Session, row: Extract, earlier: Sequence[Extract], new: People, twice: Set[str], accepted: bool
) -> dict[str, Any]:
    """Compare the people of the extract (`new`) with those of each earlier one; gives what the manifest says of it.
    Raises DifferencingRisk if it is `_too_close` to any, unless a custodian `accepted` that."""
    old = {one.id: _people_of(session, one) for one in earlier}
    same_profile = [one for one in earlier if one.profile == row.profile]
    if row.profile != ExtractProfile.aggregate and any(old[one.id].keys() == new.keys() for one in same_profile):
        earlier = same_profile  # tables add nothing: the recipient has the rows of these people already
    close = [f"/v1/extracts/{one.id}" for one in earlier if _too_close(row, new, one, old[one.id], twice)]
    if close and not accepted:
        raise DifferencingRisk(extracts=close)
    verdict = "accepted with a reason" if close else "ok"
    return {"earlier_extracts": len(earlier), "needed_difference": K, "verdict": verdict}


def _too_close(row: Extract, new: People, earlier: Extract, old: People, twice: Set[str]) -> bool:
    """Whether the two differ by some people, but fewer than K; or are both tables, and either less than APART in time
    and differ in any person or in the day on which the collection of somebody's data ended, or are of different
    versions of the profile, which count other scores of those measured `twice`, and these are fewer than K."""
    if _close(new.keys(), old.keys()):
        return True
    if not row.profile == earlier.profile == ExtractProfile.aggregate:
        return False
    fixed = json.loads(earlier.manifest or "{}")  # `updated_at` of the row also changes when its files are deleted
    soon = fixed["created_at"] > utc_text(now() - APART)
    by_other_rules = fixed.get("profile_version") != PROFILES[row.profile].version
    return (soon and new != old) or (by_other_rules and 0 < len(twice & new.keys() & old.keys()) < K)


def _had_serious_event(session: Session, study_id: int, people: Sequence[Row[Any]], ended: Subquery) -> list[bool]:
    """For each of `people`, whether they had a serious adverse event."""
    event = table_of(AdverseEvent).c
    statement = sa.select(event.pid).join(Site, col(Site.id) == event.site_id).where(col(Site.study_id) == study_id)
    statement = collected.while_collected(statement.where(event.serious), ended, AdverseEvent, *collected.OF_EVENT)
    serious = set(session.execute(statement).scalars())
    return [person.pid in serious for person in people]


def _subject_rows(
    session: Session,
    row: Extract,
    people: Sequence[Row[Any]],
    protocols: Mapping[int, Protocol],
    ended: Subquery,
    levels: Mapping[str, int] | None,
    serious_shown: bool = True,
) -> Iterator[dict[str, Any]]:
    """The rows of ExtractSubject. `levels`: how coarse each quasi-identifier is; None: exact."""
    anchors = _anchors(session, row.study_id, people, protocols, ended)
    known_subjects, known_sites = _ids_of_project(session, row)
    subjects = subject_ids((person.pid for person in people), known_subjects)
    groups = site_groups(Counter(person.site_id for person in people), known_sites, K)
    shown, same = shown_at(levels), {"extract_id": row.id, "serious_shown": serious_shown}

    @cache  # many people are equal
    def traits(exact: tuple[Any, ...]) -> dict[str, Any]:
        return {**same, **dict(zip(CLASS, shown(exact), strict=True))}

    return (
        {
            "site_id": person.site_id,
            "pid": person.pid,
            "subject": subjects[person.pid],
            "anchor_on": anchors.get(person.pid),
            "collection_ended_on": person.since,
            "site_group": groups[person.site_id],
            **traits(exact_traits(person)),
        }
        for person in people
    )


def store_people(session: Session, row: Extract, cohort: Cohort) -> None:
    """Store the people of an extract, in a thread while the next rows are made, and count their classes once more.
    Raises KNotMet."""
    session.flush()
    with ThreadPoolExecutor(1, "extract-people") as thread:
        storing = Background(thread)
        while batch := list(islice(cohort.rows, BATCH)):
            subjects = Writes()
            subjects.add(ExtractSubject, *batch)
            storing.do(store, session, subjects)
        storing.finish()
    if cohort.levels is not None:
        _require_k(session, row)


def _ids_of_project(session: Session, row: Extract) -> tuple[dict[str, str], dict[int, str]]:
    """The subject ids and site codes that the organisation already has under the same agreement, to be used again: data
    of one project can be linked over time, data of different projects cannot."""
    if row.agreement is None:
        return {}, {}
    earlier = [one.id for one in _received_by_same_organisation(session, row) if one.agreement == row.agreement]
    ids = sa.select(*(_SUBJECTS.c[name] for name in ("pid", "subject", "site_id", "site_group"))).distinct()
    known = session.execute(ids.where(_SUBJECTS.c.extract_id.in_(earlier))).all()
    return {one.pid: one.subject for one in known}, {one.site_id: one.site_group for one in known if one.site_group}


def _anchors(
    session: Session, study_id: int, people: Sequence[Row[Any]], protocols: Mapping[int, Protocol], ended: Subquery
) -> dict[str, date | None]:
    """Study day 1 of each person who has one: the first of the protocol's anchor visits that took place; of a screening
    visit, the one of the last screening."""
    used = [protocols[version] for version in sorted(protocols)]
    orders = sorted({protocol.study_day_anchors for protocol in used})
    held_on = {
        code: func.max(sa.case((col(Visit.visit_code) == code, col(Visit.occurred_on))))
        for code in sorted({code for order in orders for code in order})
    }
    first = (func.coalesce(*(held_on[code] for code in order), sa.null()) for order in orders)
    held = (
        sa.select(col(Visit.pid), *first)
        .join(Site, col(Site.id) == col(Visit.site_id))
        .where(col(Site.study_id) == study_id, col(Visit.visit_code).in_([*held_on]), counted(used, ended.c.since))
        .group_by(col(Visit.site_id), col(Visit.pid))  # in the order of the index
    )
    held = collected.while_collected(held, ended, Visit, *collected.OF_VISIT)
    place = {version: orders.index(protocol.study_day_anchors) for version, protocol in protocols.items()}
    places = {person.pid: place[person.protocol_version_id] for person in people}
    found = session.execute(held).yield_per(BATCH)
    return {pid: days[places[pid]] for pid, *days in found if pid in places}


def _require_k(session: Session, row: Extract) -> None:
    """Let the database count the classes of the stored rows once more. Raises KNotMet."""
    sizes = sa.select(func.count().label("size")).where(_SUBJECTS.c.extract_id == row.id)
    grouped = sizes.group_by(*(_SUBJECTS.c[name] for name in CLASS)).subquery()
    smallest = session.execute(sa.select(func.min(grouped.c.size))).scalar()
    if smallest is None or smallest < K:
        raise KNotMet
