"""The clocks of a serious event: from what versions, reports and reviews say, and when they say it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.protocol.clocks import Clock, SusarKind
from app.protocol.expedited import (
    FIRST_REPORT,
    FOLLOW_UP,
    ClockState,
    EventFacts,
    Report,
    Review,
    RunningClock,
    Said,
    clocks,
    first_due,
)

NOON = datetime(2026, 3, 27, 12, tzinfo=UTC)
"""A Friday; on the Sunday after it clocks go forward in Berlin."""

WITHIN = timedelta(hours=24)
FATAL, OTHER = (
    Clock(code=code, label="x", starts="sponsor_informed", event=kind, calendar_days=days, source="t")
    for code, kind, days in (("FATAL", SusarKind.fatal_or_life_threatening, 7), ("OTHER", SusarKind.other, 15))
)
SUSAR, EXPECTED, UNLIKELY = (True, False), (True, True), (False, False)
"""Assessments: whether the sponsor suspects the drug, and expects the event."""


def at(day: float) -> datetime:
    return NOON + timedelta(days=day)


def said(
    day: float,
    *criteria: str,
    version: int = 1,
    suspected: bool = False,
    aware: float | None = None,
    within: timedelta = WITHIN,
) -> Said:
    aware_at = None if aware is None else at(aware)
    return Said(version, at(day), aware_at, frozenset(criteria), suspected, None, None, within)


def reported(day: float, version: int = 1) -> Report:
    return Report(version, at(day))


def assessed(day: float, verdict: tuple[bool, bool], version: int = 1) -> Review:
    return Review(version, at(day), *verdict)


def informed(day: float, version: int = 1) -> Review:
    return Review(version, at(day), informed_at=at(day))


def facts(*versions: Said, reports: tuple[Report, ...] = (), reviews: tuple[Review, ...] = ()) -> EventFacts:
    """Each version stored with the due time that it had then."""
    stored: tuple[Said, ...] = ()
    for one in versions:
        sent = tuple(report for report in reports if report.version < one.version)
        stored += (one._replace(due_at=first_due(EventFacts((*stored, one), sent))),)
    return EventFacts(stored, reports, reviews)


def found(given: EventFacts, zone: str = "UTC") -> dict[str, RunningClock]:
    return {one.code: one for one in clocks(given, [FATAL, OTHER], ZoneInfo(zone))}


HOSPITAL, DEATH = said(0, "hospitalisation"), said(0, "death")
DIED = (HOSPITAL, said(9, "hospitalisation", "death", version=2))

TO_THE_AUTHORITY: list[tuple[str, EventFacts, dict[str, tuple[float, float | None]]]] = [
    ("nobody told the sponsor", facts(said(0, "death", suspected=True)), {}),
    (
        "the first report, though it is assessed later",
        facts(DEATH, reports=(reported(0),), reviews=(assessed(3, SUSAR),)),
        {"FATAL": (0, None)},
    ),
    ("the assessment, if that came first", facts(HOSPITAL, reviews=(assessed(2, SUSAR),)), {"OTHER": (2, None)}),
    (
        "assessed again, it runs on",
        facts(HOSPITAL, reviews=(assessed(0, SUSAR), assessed(6, SUSAR))),
        {"OTHER": (0, None)},
    ),
    ("expected", facts(DEATH, reports=(reported(0),), reviews=(assessed(1, EXPECTED),)), {}),
    ("held unlikely by both", facts(DEATH, reports=(reported(0),), reviews=(assessed(1, UNLIKELY),)), {}),
    (
        "held unlikely by the sponsor alone",
        facts(said(0, "death", suspected=True), reports=(reported(0),), reviews=(assessed(1, UNLIKELY),)),
        {"FATAL": (0, None)},
    ),
    (
        "new information, after it was held unlikely",
        facts(
            HOSPITAL,
            reports=(reported(0), reported(20)),
            reviews=(assessed(1, UNLIKELY), assessed(21, SUSAR)),
        ),
        {"OTHER": (21, None)},
    ),
    (
        "suspected by the site since the follow-up",
        facts(
            HOSPITAL,
            said(19, "hospitalisation", version=2, suspected=True),
            reports=(reported(0), reported(20, 2)),
            reviews=(assessed(1, UNLIKELY),),
        ),
        {"OTHER": (20, None)},
    ),
    (
        "turned fatal, and the sponsor knows",
        facts(*DIED, reports=(reported(0), reported(10, 2)), reviews=(assessed(1, SUSAR), informed(5))),
        {"OTHER": (0, 5), "FATAL": (10, None)},
    ),
    (
        "turned fatal, and the authority knows",
        facts(*DIED, reports=(reported(0), reported(10, 2)), reviews=(assessed(1, SUSAR), informed(12, 2))),
        {"OTHER": (0, 12), "FATAL": (10, 12)},
    ),
    (
        "turned fatal, and the sponsor does not know",
        facts(*DIED, reports=(reported(0),), reviews=(assessed(1, SUSAR),)),
        {"OTHER": (0, None)},
    ),
    (
        "the death taken back, unseen",
        facts(DEATH, said(4, "hospitalisation", version=2), reports=(reported(0),), reviews=(assessed(1, SUSAR),)),
        {"FATAL": (0, None)},
    ),
    (
        "the death taken back, and seen",
        facts(
            DEATH,
            said(4, "hospitalisation", version=2),
            reports=(reported(0),),
            reviews=(assessed(1, SUSAR), Review(2, at(5))),
        ),
        {"OTHER": (0, None)},
    ),
    (
        "assessed before it was serious",
        facts(said(0), said(5, "death", version=2), reports=(reported(6, 2),), reviews=(assessed(0, SUSAR),)),
        {"FATAL": (6, None)},
    ),
    (
        "suspected by the site, and assessed by nobody",
        facts(said(0, "death", suspected=True), reports=(reported(0),)),
        {"FATAL": (0, None)},
    ),
    (
        "expected by the site, and assessed by nobody",
        facts(said(0, "death", suspected=True)._replace(expected=True), reports=(reported(0),)),
        {},
    ),
]


@pytest.mark.parametrize(
    ("given", "expected"), [row[1:] for row in TO_THE_AUTHORITY], ids=[row[0] for row in TO_THE_AUTHORITY]
)
def test_the_authority_is_told_from_when_the_sponsor_knew(given: EventFacts, expected: dict[str, Any]) -> None:
    running = {code: one for code, one in found(given).items() if code in ("FATAL", "OTHER")}
    days = {
        code: ((one.started_at - NOON).days, one.met_at and (one.met_at - NOON).days) for code, one in running.items()
    }
    assert days == expected


def test_calendar_days_end_with_the_sites_day_whatever_its_clocks_did() -> None:
    susar = facts(DEATH, reports=(reported(0),), reviews=(assessed(1, SUSAR),))
    # Day 0 is Friday 27 March; day 7 is Friday 3 April, over at midnight summer time.
    assert found(susar, "Europe/Berlin")["FATAL"].due_at == datetime(2026, 4, 3, 22, tzinfo=UTC)
    assert found(susar)["FATAL"].due_at == datetime(2026, 4, 4, 0, tzinfo=UTC)


def test_what_comes_exactly_at_its_time_is_in_time() -> None:
    on_time = Report(1, NOON + WITHIN)
    assert found(facts(HOSPITAL, reports=(on_time,)))["SAE-REPORT"].state(NOON) is ClockState.met
    late = on_time._replace(at=on_time.at + timedelta(microseconds=1))
    assert found(facts(HOSPITAL, reports=(late,)))["SAE-REPORT"].state(NOON) is ClockState.late


HALF = timedelta(hours=12)
KNOWN = said(0, "hospitalisation", aware=0)
HARMLESS = said(0, aware=-3)
OFF = said(2, version=2)

FIRST: list[tuple[str, tuple[Said, ...], tuple[Report, ...], tuple[float, float, float | None] | None]] = [
    ("known before it was stored", (said(0, "death", aware=-1),), (), (-1, 0, None)),
    ("nobody says when it was known", (HOSPITAL,), (), (0, 1, None)),
    ("became serious", (HARMLESS, said(5, "death", version=2, aware=-3)), (), (5, 6, None)),
    ("became serious, and says since when", (HARMLESS, said(5, "death", version=2, aware=4)), (), (4, 5, None)),
    ("became serious, and takes the old day back", (HARMLESS, said(5, "death", version=2)), (), (5, 6, None)),
    (
        "became serious, and takes the old day back later",
        (HARMLESS, said(5, "death", version=2, aware=-3), said(6, "death", version=3)),
        (),
        (5, 6, None),
    ),
    ("typed wrongly", (said(0, "death", aware=-4), said(0.1, "death", version=2, aware=0)), (), (0, 1, None)),
    ("called off", (KNOWN, OFF), (), None),
    ("called off and on", (KNOWN, OFF, said(4, "disability", version=3)), (), (0, 1, None)),
    ("on again, and says since when", (KNOWN, OFF, said(4, "death", version=3, aware=3)), (), (3, 4, None)),
    (
        "a further criterion, known later",
        (KNOWN, said(0.9, "hospitalisation", "death", version=2, aware=0.8)),
        (),
        (0, 1, None),
    ),
    (
        "a further criterion, known later, and typed wrongly",
        (
            KNOWN,
            said(0.9, "hospitalisation", "death", version=2, aware=0.7),
            said(0.9, "hospitalisation", "death", version=3, aware=0.8),
        ),
        (),
        (0, 1, None),
    ),
    (
        "a further criterion, known earlier",
        (KNOWN, said(0.9, "hospitalisation", "death", version=2, aware=-2)),
        (),
        (-2, -1, None),
    ),
    ("reported, and called off", (KNOWN, said(3, version=2)), (reported(2),), (0, 1, 2)),
    ("reported late", (KNOWN, said(3, "hospitalisation", version=2, aware=2)), (reported(2),), (0, 1, 2)),
    (
        "reported in time, and known earlier",
        (KNOWN, said(3, "hospitalisation", version=2, aware=-2)),
        (reported(0.5),),
        (-2, -1, 0.5),
    ),
    (
        "reported in time, known earlier, and called off",
        (KNOWN, said(3, "hospitalisation", version=2, aware=-2), said(4, version=3, aware=-2)),
        (reported(0.5),),
        (-2, -1, 0.5),
    ),
    (
        "reported in time, and known earlier by a typing error",
        (
            KNOWN,
            said(3, "hospitalisation", version=2, aware=-2),
            said(3, "hospitalisation", version=3, aware=0),
        ),
        (reported(0.5),),
        (0, 1, 0.5),
    ),
    (
        "reported only as not serious",
        (KNOWN, OFF, said(4, "hospitalisation", version=3)),
        (reported(3, 2),),
        (0, 1, None),
    ),
    (
        "reported as not serious, then as serious",
        (KNOWN, OFF, said(4, "hospitalisation", version=3)),
        (reported(3, 2), reported(5, 3)),
        (0, 1, 5),
    ),
    ("reported, and serious only since", (said(0), said(4, "death", version=2)), (reported(1),), (4, 5, None)),
    (
        "goes on by a protocol with fewer hours",
        (KNOWN, said(0.2, "hospitalisation", version=2, aware=0.1, within=HALF)),
        (),
        (0.1, 1.1, None),
    ),
]


@pytest.mark.parametrize(("versions", "reports", "expected"), [row[1:] for row in FIRST], ids=[row[0] for row in FIRST])
def test_the_first_report_is_due_from_when_the_site_knew_that_it_is_serious(
    versions: tuple[Said, ...], reports: tuple[Report, ...], expected: tuple[float, float, float | None] | None
) -> None:
    assert days(found(facts(*versions, reports=reports)).get(FIRST_REPORT)) == expected


def days(clock: RunningClock | None) -> tuple[float | None, ...] | None:
    """Start, due time and end of a clock in days since noon."""
    if clock is None:
        return None
    return tuple(one and round((one - NOON) / timedelta(days=1), 6) for one in clock[1:])


DIED_KNOWN = said(9, "hospitalisation", "death", version=2, aware=8.5)

FURTHER: list[tuple[str, tuple[Said, ...], tuple[Report, ...], tuple[float, float, float | None] | None]] = [
    ("nothing reported", DIED, (), None),
    ("not told", DIED, (reported(0),), (9, 10, None)),
    ("the old version told", DIED, (reported(0), reported(9.5)), (9, 10, None)),
    ("told", DIED, (reported(0), reported(9.5, 2)), (9, 10, 9.5)),
    ("taken back", (*DIED, said(10, "hospitalisation", version=3)), (reported(0),), None),
    (
        "taken back before the report",
        (*DIED, said(10, "hospitalisation", version=3)),
        (reported(0), reported(12, 3)),
        None,
    ),
    (
        "told late, and taken back",
        (*DIED, said(13, "hospitalisation", version=3)),
        (reported(0), reported(12, 2)),
        (9, 10, 12),
    ),
    (
        "serious again",
        (HOSPITAL, said(9, version=2), said(12, "disability", version=3)),
        (reported(0),),
        (12, 13, None),
    ),
    ("known earlier", (KNOWN, DIED_KNOWN), (reported(0),), (8.5, 9.5, None)),
    (
        "typed wrongly",
        (KNOWN, DIED_KNOWN._replace(aware_at=at(-20)), DIED_KNOWN._replace(version=3)),
        (reported(0),),
        (8.5, 9.5, None),
    ),
    (
        "its day taken back",
        (KNOWN, DIED_KNOWN, said(10, "hospitalisation", "death", version=3)),
        (reported(0),),
        (9, 10, None),
    ),
    (
        "told late, and corrected",
        (KNOWN, DIED_KNOWN, DIED_KNOWN._replace(version=3, aware_at=at(9))),
        (reported(0), reported(9.6, 2)),
        (8.5, 9.5, 9.6),
    ),
    (
        "told in time, and known earlier",
        (KNOWN, DIED_KNOWN, DIED_KNOWN._replace(version=3, aware_at=at(7))),
        (reported(0), reported(9, 2)),
        (7, 8, 9),
    ),
    (
        "goes on by a protocol with fewer hours",
        (KNOWN, DIED_KNOWN, said(10, "hospitalisation", "death", version=3, aware=8.5, within=HALF)),
        (reported(0),),
        (8.5, 9.5, None),
    ),
    (
        "goes by a protocol with fewer hours",
        (KNOWN, DIED_KNOWN._replace(within=HALF)),
        (reported(0),),
        (8.5, 9, None),
    ),
]


@pytest.mark.parametrize(
    ("versions", "reports", "expected"), [row[1:] for row in FURTHER], ids=[row[0] for row in FURTHER]
)
def test_a_further_criterion_is_reported_too(
    versions: tuple[Said, ...], reports: tuple[Report, ...], expected: tuple[float, float, float | None] | None
) -> None:
    assert days(found(facts(*versions, reports=reports)).get(FOLLOW_UP)) == expected


def test_when_one_criterion_was_known_moves_no_others_clock() -> None:
    disabled = said(11, "hospitalisation", "death", "disability", version=3, aware=7)
    given = facts(KNOWN, DIED_KNOWN, disabled, reports=(reported(0), reported(9, 2)))
    further = [days(one) for one in clocks(given, [], ZoneInfo("UTC")) if one.code == FOLLOW_UP]
    assert further == [(8.5, 9.5, 9), (7, 8, None)]
