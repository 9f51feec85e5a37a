"""Findings on the day of a visit. They depend on other visits, on the consents and on the day on which the participant
left, so they are worked out again when one of these is recorded, corrected or voided (dependent_findings.py). That is
no change of the visit itself: its version stays, and so does what was verified or signed of it."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlmodel import Session

from app import audit
from app.models.among import among
from app.models.base import fields_of, from_json, now, table_of
from app.models.data_query import SubjectType
from app.models.finding import Finding, findings_text
from app.models.participant import Participant, left_study_on
from app.models.visit import Visit
from app.models.voided import counts
from app.protocol.definition import Protocol, VisitDefinition
from app.protocol.schedule import Held, day_beside, window_of
from app.services.participation.consent_history import ConsentHistory, histories_of
from app.services.quality.rule_queries import Judged, Turned, settle_all, together, turned
from app.services.studies import protocol_of

_PEOPLE, _VISITS = table_of(Participant), table_of(Visit)
_Row = TypeVar("_Row", bound=Mapping[str, Any])


class Course(NamedTuple):
    """The parts of a participant's course that a visit is compared with."""

    left: date | None
    """The day on which the participant withdrew or died."""

    consents: ConsentHistory


def course_of(person: Any, consents: ConsentHistory) -> Course:
    """`person` is what has `status`, `status_on` and `earlier_ends`."""
    return Course(left_study_on(person), consents)


def findings(
    protocol: Protocol,
    visit: VisitDefinition,
    occurrence: int,
    on: date | None,
    held: Held,
    course: Course,
    sent: Collection[str] = (),
) -> list[Finding]:
    """The findings on the day `on` of a visit. `held`: the days of the visits that it depends on, as far as they took
    place; `sent`: the codes of visits in the same upload, which are not missing though they are not stored yet. A visit
    without consent is not recorded, but its consent may have been voided or corrected since; consent comes before
    taking part (ICH E6(R2), 4.8.8)."""
    if on is None:
        return []
    window, remarks = window_of(protocol, visit, held, occurrence, on), []
    anchor, later = (day_beside(protocol, visit, one, held, occurrence, on) for one in (visit.anchor, visit.before))
    if window and (days := window.deviation_days(on)):
        early = "before" if days < 0 else "after"
        remarks.append(_finding("visit_outside_window", f"{abs(days)} day(s) {early} the window"))
    if visit.follows_anchor and anchor is None and visit.anchor not in sent:
        remarks.append(_finding("anchor_missing", f"Without {visit.anchor}, which it can only follow"))
    if later is not None and on > later:
        remarks.append(_finding("visit_out_of_order", f"After {visit.before}, which it must precede"))
    if not course.consents.allows(on, visit.needs_scope):
        remarks.append(_finding("visit_without_consent", "No consent that was given by that day allows it"))
    if course.left is not None and on > course.left:
        remarks.append(_finding("visit_after_leaving", "After the day on which the participant withdrew or died"))
    return remarks


def _finding(code: str, message: str) -> Finding:
    return Finding(code=code, field="/occurred_on", message=message)


def lock_visits(session: Session, people: Collection[tuple[int, str]]) -> None:
    """Lock the visits of several participants (site and pid) in one order, before their findings are worked out."""
    if session.get_bind().dialect.name == "sqlite":
        return  # which has only one writer
    sites, pids = {site_id for site_id, _ in people}, {pid for _, pid in people}
    theirs = _VISITS.c.site_id.in_(sites), among(_VISITS.c.pid, "pids", sorted(pids)), counts(_VISITS)
    wanted = sa.select(_VISITS.c.id).where(*theirs).order_by(_VISITS.c.pid, _VISITS.c.id)
    session.execute(wanted.with_for_update(key_share=True))


def judged_again(
    session: Session,
    site_id: int,
    pid: str,
    course: Course,
    code: str | None = None,
    new: Sequence[dict[str, Any]] = (),
) -> Judged:
    """Work out again the findings of a participant's visits, each by its own protocol version: of all visits, or of
    those with this `code` and those that depend on them; of stored visits and of `new` ones, whose rows are not stored
    yet."""
    theirs = _JUDGED.where(_VISITS.c.site_id == site_id, _VISITS.c.pid == pid).order_by(_VISITS.c.id)
    rows = [dict(fields_of(row)) for row in session.execute(theirs.with_for_update(key_share=True))]
    events: list[audit.Event] = []
    turns: list[Turned] = []
    for row, new_findings in _differing(session, [*rows, *new], course, code):
        old, row["findings"] = from_json(row["findings"]), new_findings
        of_row = (_VISITS.c.site_id == site_id) & (_VISITS.c.id == row["id"])
        session.execute(sa.update(_VISITS).where(of_row).values(findings=new_findings, updated_at=now()))
        before, after = {"findings": old}, {"findings": from_json(new_findings)}
        events.append(audit.event("visit:flagged", "visit", row["id"], row["version"], before, after))
        turns.append(turned(SubjectType.visit, pid, row["id"], before["findings"], after["findings"]))
    return Judged(events, turns)


def refresh(session: Session, site_id: int) -> int:
    """Work out again the findings of all visits of a site; gives the number of data queries that changed. It finds
    visits that were recorded at the same time as a visit that they depend on, or by an older version of the registry.
    Courses are read once more when the visits are locked, as a status or a consent may have changed meanwhile."""
    visits = session.execute(_JUDGED.where(_VISITS.c.site_id == site_id).order_by(_VISITS.c.pid))
    rows = [fields_of(row) for row in visits]
    courses, people = _courses(session, site_id), groupby(rows, key=itemgetter("pid"))
    stale = [pid for pid, theirs in people if any(_differing(session, list(theirs), courses[pid]))]
    if stale:
        lock_visits(session, [(site_id, pid) for pid in stale])
        courses = _courses(session, site_id)
    judged = together(*(judged_again(session, site_id, pid, courses[pid]) for pid in stale))
    if not judged.events:
        return 0
    changed = settle_all(session, site_id, *judged.turned)
    audit.append(session, audit.SYSTEM, site_id, judged.events)
    return changed


def _courses(session: Session, site_id: int) -> dict[str, Course]:
    """The course of each participant of a site, by pid."""
    names = ("pid", "status", "status_on", "earlier_ends")
    people = session.execute(sa.select(*(_PEOPLE.c[name] for name in names)).where(_PEOPLE.c.site_id == site_id)).all()
    consents = histories_of(session, [site_id], [row.pid for row in people])
    return {row.pid: course_of(row, consents[row.pid]) for row in people}


_JUDGED = sa.select(
    *(_VISITS.c[name] for name in ("id", "pid", "visit_code", "occurrence", "occurred_on", "findings", "version")),
    _VISITS.c.protocol_version_id,
).where(counts(_VISITS))


def _differing(
    session: Session, rows: Sequence[_Row], course: Course, code: str | None = None
) -> Iterator[tuple[_Row, str]]:
    """Those of one participant's visits whose stored findings are out of date, with the present ones."""
    held = {(row["visit_code"], row["occurrence"]): row["occurred_on"] for row in rows if row["occurred_on"]}
    for row in rows:
        if row["protocol_version_id"] is None:
            continue
        protocol, number, on = protocol_of(session, row["protocol_version_id"]), row["occurrence"], row["occurred_on"]
        visit = protocol.planned(row["visit_code"])
        if visit is None or (code is not None and code not in {visit.code, *visit.depends_on}):
            continue
        present = findings_text(findings(protocol, visit, number, on, held, course))
        if present != row["findings"]:
            yield row, present
