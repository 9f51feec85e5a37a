"""When a sponsor has to inform the authority of a serious event: by the reports and reviews, and their times."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.protocol.expedited import ClockState, EventFacts, Report, Review
from tests.protocol.expedited_cases import (
    DEATH,
    DIED,
    EXPECTED,
    HOSPITAL,
    NOON,
    SUSAR,
    UNLIKELY,
    WITHIN,
    assessed,
    at,
    facts,
    found,
    informed,
    nullified,
    reported,
    said,
)

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
        "nullified by the site, whatever is said after that",
        facts(
            DEATH, reports=(reported(0), nullified(2)), reviews=(assessed(1, SUSAR), informed(3), assessed(4, SUSAR))
        ),
        {},
    ),
    (
        "nullified by the site after the authority was told",
        facts(DEATH, reports=(reported(0), nullified(9)), reviews=(assessed(1, SUSAR), informed(8), informed(10))),
        {"FATAL": (0, 8)},
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
def test_the_clock_of_the_authority_runs_from_when_the_sponsor_knew(
    given: EventFacts, expected: dict[str, Any]
) -> None:
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
