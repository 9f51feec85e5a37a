"""When a site reports a serious event: from what its versions say, and when it knew."""

from datetime import timedelta
from zoneinfo import ZoneInfo

import pytest

from app.protocol.expedited import FIRST_REPORT, FOLLOW_UP, Report, Said, clocks, first_due
from tests.protocol.expedited_cases import DIED, HOSPITAL, at, days, facts, found, reported, said

HALF = timedelta(hours=12)
KNOWN = said(0, "hospitalisation", aware=0)
HARMLESS = said(0, aware=-3)
OFF = said(2, version=2)
DIED_UNDATED = said(9, "hospitalisation", "death", version=2, aware=0)
"""Nobody says when the death was known: `aware_at` is still that of before."""

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
        "reported in time, known earlier by a typing error, and called off with the day put right",
        (KNOWN, said(3, "hospitalisation", version=2, aware=-2), said(4, version=3, aware=4)),
        (reported(0.5),),
        (0, 1, 0.5),
    ),
    (
        "reported in time, called off, and known earlier",
        (KNOWN, said(3, version=2, aware=0), said(4, version=3, aware=-20)),
        (reported(0.5),),
        (-20, -19, 0.5),
    ),
    (
        "a further criterion, and the first was known earlier",
        (KNOWN, DIED_UNDATED, said(10, "hospitalisation", "death", version=3, aware=-1)),
        (),
        (-1, 0, None),
    ),
    (
        "a further criterion, and the first is said to have been known after it",
        (KNOWN, DIED_UNDATED, said(10, "hospitalisation", "death", version=3, aware=9.5)),
        (),
        (9, 10, None),
    ),
    (
        "a further criterion, all called off, and on again, and says since when",
        (
            KNOWN,
            DIED_UNDATED,
            said(10, version=3, aware=0),
            said(12, "death", version=4, aware=11),
        ),
        (),
        (11, 12, None),
    ),
    (
        "a further criterion by a protocol with fewer hours",
        (KNOWN, said(0.2, "hospitalisation", "death", version=2, aware=0.1, within=HALF)),
        (),
        (0.1, 0.6, None),
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
    given = facts(*versions, reports=reports)
    assert days(found(given).get(FIRST_REPORT)) == expected
    assert first_due(given) == (at(expected[1]) if expected and versions[-1].criteria else None)


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
        "not told, and the first was known earlier",
        (KNOWN, DIED_UNDATED, said(10, "hospitalisation", "death", version=3, aware=-0.1)),
        (reported(0),),
        (9, 10, None),
    ),
    (
        "told, and the first was known earlier",
        (KNOWN, DIED_UNDATED, said(10, "hospitalisation", "death", version=3, aware=-0.1)),
        (reported(0), reported(9.5, 2)),
        (9, 10, 9.5),
    ),
    (
        "told, and the first was known earlier by a typing error",
        (
            KNOWN,
            DIED_UNDATED,
            said(10, "hospitalisation", "death", version=3, aware=-0.1),
            said(11, "hospitalisation", "death", version=4, aware=0),
        ),
        (reported(0), reported(9.5, 2)),
        (9, 10, 9.5),
    ),
    (
        "told, and nobody knows when the first was known",
        (KNOWN, DIED_UNDATED, said(10, "hospitalisation", "death", version=3)),
        (reported(0), reported(9.5, 2)),
        (9, 10, 9.5),
    ),
    (
        "serious again, and the first was known earlier",
        (
            KNOWN,
            said(9, version=2, aware=0),
            said(12, "disability", version=3, aware=0),
            said(13, "disability", version=4, aware=-1),
        ),
        (reported(0),),
        (12, 13, None),
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


def test_a_criterion_of_which_nobody_says_when_it_was_known_moves_with_no_others() -> None:
    disabled = said(11, "hospitalisation", "death", "disability", version=3, aware=8.5)
    corrected = disabled._replace(version=4, aware_at=at(7))
    given = facts(KNOWN, DIED_KNOWN, disabled, corrected, reports=(reported(0), reported(9, 2)))
    further = [days(one) for one in clocks(given, [], ZoneInfo("UTC")) if one.code == FOLLOW_UP]
    assert further == [(7, 8, 9), (11, 12, None)]
