"""What is remarked on a visit's day. It hangs on other visits and on when the participant left, so it is judged again
when one of these is recorded or corrected. That is no change of the visit itself: its version stays, and so does what
was verified or signed of it."""

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
from app.protocol.definition import VisitDefinition
from app.protocol.schedule import Held, window_of
from app.services.rule_queries import Doubt, Turned, settle_all, turned
from app.services.studies import protocol_of

_PEOPLE, _VISITS = table_of(Participant), table_of(Visit)
_Row = TypeVar("_Row", bound=Mapping[str, Any])


class Judged(NamedTuple):
    """What to remember, and the data queries to raise and to close."""

    events: list[audit.Event]
    turned: Turned


NOTHING = Judged([], Turned([], set()))


def remarks(
    visit: VisitDefinition,
    occurrence: int,
    on: date | None,
    held: Held,
    left: date | None,
    coming: Collection[str] = (),
) -> list[Finding]:
    """On a visit's day; `held` has the days of the visits that it hangs on, as far as they took place, and `left` that
    on which the participant withdrew or died. Nobody is asked for an anchor that is `coming` with the same upload."""
    if on is None:
        return []
    window, found = window_of(visit, held, occurrence), []
    if window and (days := window.deviation_days(on)):
        early = "before" if days < 0 else "after"
        found.append(_finding("visit_outside_window", f"{abs(days)} day(s) {early} the window"))
    if visit.follows_anchor and (visit.anchor, 1) not in held and visit.anchor not in coming:
        found.append(_finding("anchor_missing", f"Without {visit.anchor}, which it can only follow"))
    if visit.before and on > held.get((visit.before, 1), on):
        found.append(_finding("visit_out_of_order", f"After {visit.before}, which it must precede"))
    if left is not None and on > left:
        found.append(_finding("visit_after_leaving", "After the day on which the participant withdrew or died"))
    return found


def _finding(code: str, message: str) -> Finding:
    return Finding(code=code, field="/occurred_on", message=message)


def hold(session: Session, people: Collection[tuple[int, str]]) -> None:
    """Hold the visits of several participants before they are judged again, in the order in which `refresh` does."""
    if session.get_bind().dialect.name == "sqlite":
        return  # has one writer
    sites, pids = ({one[side] for one in people} for side in (0, 1))
    theirs = _VISITS.c.site_id.in_(sites), among(_VISITS.c.pid, "pids", sorted(pids)), counts(_VISITS)
    wanted = sa.select(_VISITS.c.id).where(*theirs).order_by(_VISITS.c.pid, _VISITS.c.id)
    session.execute(wanted.with_for_update(key_share=True))


def judged_again(
    session: Session,
    site_id: int,
    pid: str,
    left: date | None,
    code: str | None = None,
    new: Sequence[dict[str, Any]] = (),
) -> Judged:
    """Judge a participant's visits (those of this `code`, and those that hang on it), each by its own protocol version:
    those that are stored, and `new` ones that are going to be. `left`: see `remarks`."""
    theirs = _SEEN.where(_VISITS.c.site_id == site_id, _VISITS.c.pid == pid).order_by(_VISITS.c.id)
    rows = [dict(fields_of(row)) for row in session.execute(theirs.with_for_update(key_share=True))]
    events: list[audit.Event] = []
    came: list[Doubt] = []
    gone: set[str] = set()
    for row, has in _differing(session, [*rows, *new], left, code):
        had, row["findings"] = row["findings"], has
        mine = (_VISITS.c.site_id == site_id) & (_VISITS.c.id == row["id"])
        session.execute(sa.update(_VISITS).where(mine).values(findings=has, updated_at=now()))
        before, after = {"findings": from_json(had)}, {"findings": from_json(has)}
        events.append(audit.event("visit:flagged", "visit", row["id"], row["version"], before, after))
        one = turned(SubjectType.visit, pid, row["id"], *before.values(), *after.values())
        came, gone = came + one.came, gone | one.gone
    return Judged(events, Turned(came, gone))


def refresh(session: Session, site_id: int) -> int:
    """Judge all visits of a site: a visit and the one that it hangs on may have been recorded at the same moment, or
    before visits were judged again. The number of data queries that changed. The days of leaving are read once more
    when the visits are held, as whoever tells one judges the visits after it."""
    found = session.execute(_SEEN.where(_VISITS.c.site_id == site_id).order_by(_VISITS.c.pid))
    rows = [fields_of(row) for row in found]
    left, people = _left(session, site_id), groupby(rows, key=itemgetter("pid"))
    doubted = [pid for pid, theirs in people if any(_differing(session, list(theirs), left[pid]))]
    if doubted:
        hold(session, [(site_id, pid) for pid in doubted])
        left = _left(session, site_id)
    judged = [judged_again(session, site_id, pid, left[pid]) for pid in doubted]
    events = [event for one in judged for event in one.events]
    if not events:
        return 0
    changed = settle_all(session, site_id, *(one.turned for one in judged))
    audit.append(session, audit.SYSTEM, site_id, events)
    return changed


def _left(session: Session, site_id: int) -> dict[str, date | None]:
    """By participant of a site: the day of leaving."""
    names = ("pid", "status", "status_on", "earlier_ends")
    people = sa.select(*(_PEOPLE.c[name] for name in names)).where(_PEOPLE.c.site_id == site_id)
    return {row.pid: left_study_on(row) for row in session.execute(people)}


_SEEN = sa.select(
    *(_VISITS.c[name] for name in ("id", "pid", "visit_code", "occurrence", "occurred_on", "findings", "version")),
    _VISITS.c.protocol_version_id,
).where(counts(_VISITS))


def _differing(
    session: Session, rows: Sequence[_Row], left: date | None, code: str | None = None
) -> Iterator[tuple[_Row, str]]:
    """Of one participant's visits those of which something else is said than is so, with that."""
    held = {(row["visit_code"], row["occurrence"]): row["occurred_on"] for row in rows if row["occurred_on"]}
    for row in rows:
        visit = planned(session, row["protocol_version_id"], row["visit_code"])
        if visit is None or (code is not None and code not in {visit.code, *visit.hangs_on}):
            continue
        has = findings_text(remarks(visit, row["occurrence"], row["occurred_on"], held, left))
        if has != row["findings"]:
            yield row, has


def planned(session: Session, version_id: int | None, code: str) -> VisitDefinition | None:
    visits = () if version_id is None else protocol_of(session, version_id).visits
    return next((visit for visit in visits if visit.code == code), None)
