"""The clocks of a serious event: from what versions, reports and reviews say, and when they say it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from app.protocol.clocks import Clock, SusarKind
from app.protocol.expedited import FOLLOW_UP, ClockState, EventFacts, Report, Review, RunningClock, Said, clocks

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


def said(day: float, *criteria: str, version: int = 1, suspected: bool = False) -> Said:
    return Said(version, at(day), None, frozenset(criteria), suspected, None)


def reported(day: float, version: int = 1) -> Report:
    return Report(version, at(day), at(day) + WITHIN)


def assessed(day: float, verdict: tuple[bool, bool], version: int = 1) -> Review:
    return Review(version, at(day), *verdict)


def informed(day: float, version: int = 1) -> Review:
    return Review(version, at(day), informed_at=at(day))


def facts(*versions: Said, reports: tuple[Report, ...] = (), reviews: tuple[Review, ...] = ()) -> EventFacts:
    return EventFacts(NOON + WITHIN, WITHIN, versions, reports, reviews)


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
    on_time = Report(1, NOON + WITHIN, NOON + WITHIN)
    assert found(facts(HOSPITAL, reports=(on_time,)))["SAE-REPORT"].state(NOON) is ClockState.met
    late = on_time._replace(at=on_time.at + timedelta(microseconds=1))
    assert found(facts(HOSPITAL, reports=(late,)))["SAE-REPORT"].state(NOON) is ClockState.late


@pytest.mark.parametrize(
    ("versions", "reports", "expected"),
    [
        (DIED, (), None),
        (DIED, (reported(0),), (9, None)),
        (DIED, (reported(0), reported(9.5)), (9, None)),
        (DIED, (reported(0), reported(9.5, 2)), (9, 9.5)),
        ((*DIED, said(10, "hospitalisation", version=3)), (reported(0),), None),
        ((HOSPITAL, said(9, version=2), said(12, "disability", version=3)), (reported(0),), (12, None)),
        ((HOSPITAL, said(9, "death", version=2)._replace(aware_at=at(7))), (reported(0),), (7, None)),
    ],
    ids=[
        "nothing reported",
        "not told",
        "the old version told",
        "told",
        "taken back",
        "serious again",
        "known earlier",
    ],
)
def test_a_further_criterion_is_reported_too(
    versions: tuple[Said, ...], reports: tuple[Report, ...], expected: tuple[float, float | None] | None
) -> None:
    clock = found(facts(*versions, reports=reports)).get(FOLLOW_UP)
    if expected is None:
        assert clock is None
        return
    assert clock is not None
    told, met = expected
    assert (clock.started_at, clock.due_at) == (at(told), at(told) + WITHIN)
    assert clock.met_at == (at(met) if met is not None else None)
