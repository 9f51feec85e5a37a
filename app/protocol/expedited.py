"""The clocks of one serious adverse event: what is due to whom, by when, and when it was met.

They follow from what was recorded and when, so that no correction removes a clock that has begun. A site's clock runs
from when it became aware of what a version of the event added, and is met by the first report of it; until then the
site may correct when that was. The sponsor's clock runs from when its monitors could know, by a report or a review.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from app.protocol.clocks import Clock, SusarKind

FIRST_REPORT, FOLLOW_UP, INFORMATION = "SAE-REPORT", "FOLLOW-UP", "INFORMATION"
"""Codes of the clocks that every study has: the first report, the one about a further criterion, and the answer
to a request for information."""

_FATAL_OR_LIFE_THREATENING = frozenset({"death", "life_threatening"})


class ClockState(StrEnum):
    late = "late"
    met = "met"
    overdue = "overdue"
    running = "running"


class RunningClock(NamedTuple):
    """One deadline; open while `met_at` is None."""

    code: str
    started_at: datetime
    due_at: datetime
    met_at: datetime | None

    def state(self, at: datetime) -> ClockState:
        """The state at a moment. What comes exactly at the due time is in time."""
        if self.met_at is not None:
            return ClockState.late if self.met_at > self.due_at else ClockState.met
        return ClockState.overdue if at > self.due_at else ClockState.running


class Said(NamedTuple):
    """One version of an event, as far as its clocks depend on it."""

    version: int
    at: datetime
    aware_at: datetime | None
    criteria: frozenset[str]
    """The seriousness criteria; without any, it is not serious."""

    suspected: bool
    """Whether the site considers a causal relationship with the drug at least possible."""

    expected: bool | None
    within: timedelta
    """The time limit of the site's report, by the participant's protocol version at that time."""

    @property
    def critical(self) -> bool:
        """Fatal or life-threatening."""
        return not self.criteria.isdisjoint(_FATAL_OR_LIFE_THREATENING)

    @property
    def gravity(self) -> int:
        """0: not serious, 1: serious, 2: fatal or life-threatening. The graver, the sooner somebody has to be told
        (ICH E2A, section III.B)."""
        return bool(self.criteria) + self.critical


_NOTHING = Said(0, datetime.min, None, frozenset(), False, None, timedelta())
"""Before the first version."""


class Report(NamedTuple):
    """A report of the site to the sponsor."""

    version: int
    at: datetime
    nullifies: bool = False
    """It took everything back (ICH E2B(R3), C.1.11.1)."""


class Review(NamedTuple):
    """A review of a version by a monitor, on behalf of the sponsor."""

    version: int
    at: datetime
    suspected: bool | None = None
    """With `expected` the sponsor's assessment; None if the review is no assessment."""

    expected: bool | None = None
    answer_until: datetime | None = None
    """Information was asked for."""

    informed_at: datetime | None = None
    """The authority was told of this version."""


class EventFacts(NamedTuple):
    """The records from which the clocks of an event follow, each list oldest first."""

    said: tuple[Said, ...]
    """Its versions."""

    reports: tuple[Report, ...] = ()
    reviews: tuple[Review, ...] = ()

    def as_of(self, version: int) -> Said:
        return next((one for one in reversed(self.said) if one.version <= version), self.said[0])

    @property
    def first(self) -> Report | None:
        """The first report of it as a serious event; a monitor may have asked about it before it was serious."""
        return next((one for one in self.reports if self.as_of(one.version).criteria), None)


def clocks(facts: EventFacts, expedited: Iterable[Clock], zone: ZoneInfo) -> Iterator[RunningClock]:
    """Every clock of the event."""
    yield from _of_the_site(facts)
    yield from _to_the_authority(facts, expedited, zone)


def to_be_reported(facts: EventFacts) -> list[RunningClock]:
    """The clocks that the next report meets: all open ones between site and sponsor, as it has the present version."""
    return [clock for clock in _of_the_site(facts) if clock.met_at is None]


def _of_the_site(facts: EventFacts) -> Iterator[RunningClock]:
    first = _first_report(facts)
    if first is not None:
        yield first
    yield from _follow_ups(facts)
    for review in facts.reviews:
        if review.answer_until is not None:
            answered = next((report.at for report in facts.reports if report.at >= review.at), None)
            yield RunningClock(INFORMATION, review.at, review.answer_until, answered)


def _first_report(facts: EventFacts) -> RunningClock | None:
    """The first report has one clock for all that it contains, due by the earliest (Regulation (EU) 536/2014, article
    41(2)). Later corrections only bring it forward. None: the event is not serious, and was not when it was
    reported."""
    first = facts.first
    if first is None and not facts.said[-1].criteria:
        return None
    aware = _aware(facts, first)
    due = {version: started + facts.as_of(version).within for version, started in aware.items()}
    earliest = min(due, key=due.__getitem__)
    return RunningClock(FIRST_REPORT, aware[earliest], due[earliest], first.at if first else None)


def first_due(facts: EventFacts) -> datetime | None:
    """When the first report is due, as it is stored with the event. None: the event is not serious."""
    clock = _first_report(facts)
    return clock.due_at if clock and facts.said[-1].criteria else None


def _follow_ups(facts: EventFacts) -> Iterator[RunningClock]:
    """The clocks of criteria that were added after the first report. Each that was reported or still holds has to be
    reported within the same time, as the sponsor's own clock depends on it (Regulation (EU) 536/2014, articles 41(2)
    and 42(2)(c))."""
    for before, said in pairwise(facts.said):
        added = said.criteria - before.criteria
        if added and facts.first and said.version > facts.first.version:
            later = (report for report in facts.reports if report.version >= said.version)
            met = next((report for report in later if added & facts.as_of(report.version).criteria), None)
            if met or added & facts.said[-1].criteria:
                started = _aware(facts, met)[said.version]
                yield RunningClock(FOLLOW_UP, started, started + said.within, met.at if met else None)


def _aware(facts: EventFacts, met: Report | None) -> dict[int, datetime]:
    """When the site became aware of what each version added, up to the version that was first reported. Until that
    report the time can be corrected; afterwards it can only become earlier, so that what was late stays late."""
    now = _as_corrected(facts.said)
    if met is None:
        return now
    then = _as_corrected([one for one in facts.said if one.version <= met.version])
    return {version: min(at, now[version]) for version, at in then.items()}


def _as_corrected(said: Sequence[Said]) -> dict[int, datetime]:
    """The same, by the last of these versions: for each version that added criteria, when it was stored, or
    the `aware_at` that is about it.

    A changed `aware_at` is about the version that has it, if that adds criteria to a serious event. If it adds none, it
    is about the same versions as the `aware_at` before it. Where the event becomes serious, for the first time or
    again, it is about all versions until then.
    """
    aware: dict[int, datetime] = {}
    spoken_of: list[Said] = []
    added: list[Said] = []
    for before, one in pairwise((_NOTHING, *said)):
        changed = one.aware_at != before.aware_at
        if one.criteria - before.criteria:
            added.append(one)
            aware[one.version] = one.at
            if changed or not spoken_of:
                spoken_of = [one] if before.criteria else [*added]
        if changed:
            aware |= {each.version: one.aware_at or each.at for each in spoken_of}
    return aware


def _to_the_authority(facts: EventFacts, expedited: Iterable[Clock], zone: ZoneInfo) -> Iterator[RunningClock]:
    """A suspected unexpected serious adverse reaction: 15 days from the sponsor's awareness of it, 7 if it is fatal or
    life-threatening, and where it turned out to be so later, 7 from the awareness of that (Regulation (EU) 536/2014,
    article 42(2)(a) to (c); 21 CFR 312.32(c)). For an event that was nullified since, nothing is due any more."""
    taken_back = next((one.at for one in facts.reports if one.nullifies), None)
    since, critical_since = _known(facts, taken_back)
    if since is None:
        return
    for clock in expedited:
        fatal = clock.event == SusarKind.fatal_or_life_threatening
        if clock.event is None or (fatal and critical_since is None) or (not fatal and critical_since == since):
            continue
        started = critical_since if fatal and critical_since else since
        informed = [one.informed_at for one in facts.reviews if one.informed_at is not None and one.at >= started]
        met_at = min(informed, default=None)
        if taken_back is None or (met_at is not None and met_at <= taken_back):
            yield RunningClock(clock.code, started, clock.due_at(started, zone), met_at)


def _known(facts: EventFacts, until: datetime | None) -> tuple[datetime | None, datetime | None]:
    """Since when the sponsor has known of such a reaction without a break, and since when that it is fatal or
    life-threatening. What a site corrected since counts once a report or a review has seen it. `until`: when the event
    was nullified, after which nothing is said of it."""
    since = critical_since = None
    said_of_it: list[Report | Review] = [*facts.reports, *facts.reviews]
    seen = [one for one in said_of_it if until is None or one.at < until]
    for one in sorted(seen, key=lambda one: one.at):
        said = facts.as_of(one.version)
        if not said.criteria or not _unexpected_reaction(facts, said, one.at):
            since = critical_since = None
            continue
        since = since or one.at
        critical_since = (critical_since or one.at) if said.critical else None
    return since, critical_since


def _unexpected_reaction(facts: EventFacts, said: Said, at: datetime) -> bool:
    """Suspected by the site or by the sponsor, who does not downgrade what the site suspects (Regulation (EU) 536/2014,
    annex III, 2.1), and not expected by the sponsor. The sponsor's last assessment by then counts; before the first
    assessment that one counts, as it is of the same facts. Until anybody has assessed the event it counts as
    unexpected, unless the site holds it to be expected."""
    assessments = [review for review in facts.reviews if review.expected is not None]
    if not assessments:
        return said.suspected and said.expected is not True
    counts = max((one for one in assessments if one.at <= at), key=lambda one: one.at, default=assessments[0])
    return counts.expected is False and bool(counts.suspected or said.suspected)
