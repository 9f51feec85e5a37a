"""A participant's schedule on a given day, against calendars worked out by hand."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.clocks import end_of_day, local_day
from app.protocol.planning import HELD, PlannedVisit, Recorded, RecordedTwice, VisitState, plan
from app.protocol.schedule import parse_protocol, shipped_protocols
from tests.protocol.test_protocol_files import SMALL

GENERIC = shipped_protocols()["mdma-mdd-generic/1"]
TRIAL = shipped_protocols()["mdma-mdd-proof-of-principle/1"]
PILOT = shipped_protocols()["cdisc-pilot/1"]
OSLO = ZoneInfo("Europe/Oslo")


def held(visit: str, on: date, *instruments: str, occurrence: int = 1) -> Recorded:
    return Recorded(visit, occurrence, "completed", on, frozenset(instruments))


def by_code(planned: list[PlannedVisit]) -> dict[str, PlannedVisit]:
    return {one.visit: one for one in planned if one.occurrence == 1}


def days(one: PlannedVisit) -> tuple[date, date, date] | None:
    return tuple(one.window) if one.window else None


def states(planned: list[PlannedVisit]) -> str:
    return " ".join(f"{one.visit}:{one.state}" for one in planned)


LEAP_YEAR = [
    held("SCR", date(2024, 1, 10), "CSSRS_LIFE"),
    held("BL", date(2024, 1, 31), "MADRS", "SHEEHAN_SDS", "PHQ9", "GAD7", "ISI", "PCL5", "CSSRS_SLV"),
    held("PREP1", date(2024, 2, 2), "CSSRS_SLV"),
    held("PREP2", date(2024, 2, 9), "CSSRS_SLV"),
    held("PREP3", date(2024, 2, 16), "CSSRS_SLV"),
    held("DOS1", date(2024, 2, 28), "CSSRS_SLV"),
    held("INT1A", date(2024, 3, 3)),
]
"""Somebody in the generic protocol, seen on 5 March 2024. February has 29 days."""


def test_a_telephone_visit_of_the_treatment_is_of_no_screening() -> None:
    """Whoever was screened twice and missed it is not asked for another one."""
    recorded = [held("BL", date(2024, 1, 31)), held("WEEK8", date(2024, 3, 27)), Recorded("WEEK10", 1, "missed")]
    planned = plan(PILOT, recorded, date(2024, 6, 1), screening=2, began=date(2024, 1, 10))
    assert [(one.occurrence, one.state) for one in planned if one.visit == "WEEK10"] == [(1, "missed")]


def test_the_schedule_of_a_leap_year() -> None:
    found = by_code(plan(GENERIC, LEAP_YEAR, date(2024, 3, 5)))
    # Baseline 31 January - 21 = 10 January; window 21 days before (20 December) to 20 after (30 January).
    assert days(found["SCR"]) == (date(2024, 1, 10), date(2023, 12, 20), date(2024, 1, 30))
    # Dosing 28 February + 1 = 29 February, the leap day; window +0/+2 ends on 2 March. Held on 3 March: one day late.
    assert days(found["INT1A"]) == (date(2024, 2, 29), date(2024, 2, 29), date(2024, 3, 2))
    assert found["INT1A"].deviation_days == 1
    # 28 + 7 = day 35 of February, less 29 = 6 March; 3 days either side. Today, the 5th, lies inside.
    assert days(found["INT1B"]) == (date(2024, 3, 6), date(2024, 3, 3), date(2024, 3, 9))
    # 28 + 21 = 49, less 29 = 20 March; 7 either side.
    assert days(found["INT1C"]) == (date(2024, 3, 20), date(2024, 3, 13), date(2024, 3, 27))
    # 28 + 28 = 56, less 29 = 27 March; 7 either side ends on 34 March = 3 April.
    assert days(found["DOS2"]) == (date(2024, 3, 27), date(2024, 3, 20), date(2024, 4, 3))
    # 31 January + 213: February 29, March 60, April 90, May 121, June 151, July 182, August 213 = 31 August.
    assert days(found["FU7M"]) == (date(2024, 8, 31), date(2024, 8, 3), date(2024, 9, 28))
    assert found["PRIM"].window is None
    assert found["PRIM"].waits_for == "DOS2"


def test_how_each_visit_stands() -> None:
    assert states(plan(GENERIC, LEAP_YEAR, date(2024, 3, 5))) == (
        "SCR:done BL:done PREP1:done PREP2:done PREP3:done PREP4:not_applicable DOS1:done INT1A:done INT1B:due "
        "INT1C:upcoming DOS2:upcoming INT2A:waiting INT2B:waiting INT2C:waiting PRIM:waiting FU7M:upcoming "
        "ET:not_applicable"
    )


def test_instruments_still_missing_are_named_where_they_can_be_given() -> None:
    found = by_code(plan(GENERIC, LEAP_YEAR, date(2024, 3, 5)))
    assert {code: one.missing for code, one in found.items() if one.missing} == {
        "BL": ("WHO5", "CTQ_SF"),
        "DOS1": ("CSSRS_SLV_END", "SEVAS_DOSE", "SEVAS_END"),
        "INT1A": ("CSSRS_SLV",),
        "INT1B": ("CSSRS_SLV",),
    }


@pytest.mark.parametrize(
    ("today", "state", "deviation"),
    [
        (date(2024, 3, 2), VisitState.upcoming, None),
        (date(2024, 3, 3), VisitState.due, None),
        (date(2024, 3, 9), VisitState.due, None),
        (date(2024, 3, 10), VisitState.overdue, 1),
        (date(2024, 4, 9), VisitState.overdue, 31),  # 22 more days of March, 9 of April
    ],
)
def test_a_window_opens_closes_and_is_over(today: date, state: VisitState, deviation: int | None) -> None:
    found = by_code(plan(GENERIC, LEAP_YEAR, today))["INT1B"]
    assert (found.state, found.deviation_days) == (state, deviation)


def test_correcting_the_date_of_an_anchor_moves_what_hangs_on_it() -> None:
    corrected = [*(one for one in LEAP_YEAR if one.visit != "DOS1"), held("DOS1", date(2024, 3, 1))]
    before, after = (by_code(plan(GENERIC, one, date(2024, 3, 5))) for one in (LEAP_YEAR, corrected))
    # 28 February to 1 March is two days in a leap year: 29 February lies between.
    for code in ("INT1A", "INT1B", "INT1C", "DOS2"):
        was, now = before[code].window, after[code].window
        assert was is not None
        assert now is not None
        assert now.start - was.start == now.end - was.end == timedelta(2)
    assert after["INT1A"].deviation_days == 0  # 2 to 4 March now; held on the 3rd
    assert before["FU7M"].window == after["FU7M"].window  # hangs on baseline


def test_a_correction_can_take_a_window_away_again() -> None:
    missed = [*(one for one in LEAP_YEAR if one.visit not in ("DOS1", "INT1A")), Recorded("DOS1", 1, "missed")]
    found = by_code(plan(GENERIC, missed, date(2024, 3, 5)))
    assert found["DOS1"].state is VisitState.missed
    for code in ("INT1A", "DOS2", "INT2A", "PRIM"):  # what hangs on it, directly or not, cannot take place
        assert (found[code].state, found[code].window) == (VisitState.not_applicable, None)
    assert found["FU7M"].state is VisitState.upcoming


def test_local_dates_do_not_shift_where_clocks_change() -> None:
    """Norway lost the hour from 2 to 3 on 30 March 2025, and had the hour from 2 to 3 twice on 26 October 2025."""
    spring = by_code(plan(GENERIC, [held("DOS1", date(2025, 3, 29))], date(2025, 3, 30)))
    assert days(spring["INT1A"]) == (date(2025, 3, 30), date(2025, 3, 30), date(2025, 4, 1))
    assert spring["INT1A"].state is VisitState.due
    # 29 March + 28 = day 57 of March, less 31 = 26 April.
    assert spring["DOS2"].window is not None
    assert spring["DOS2"].window.planned == date(2025, 4, 26)
    # 30 September + 28 = day 58, less 30 = 28 October.
    autumn = by_code(plan(GENERIC, [held("DOS1", date(2025, 9, 30))], date(2025, 10, 26)))
    assert autumn["DOS2"].window is not None
    assert autumn["DOS2"].window.planned == date(2025, 10, 28)


@pytest.mark.parametrize(
    ("at", "day"),
    [
        (datetime(2025, 3, 29, 22, 59, tzinfo=UTC), date(2025, 3, 29)),  # 23:59, still UTC+1
        (datetime(2025, 3, 29, 23, 0, tzinfo=UTC), date(2025, 3, 30)),  # 00:00
        (datetime(2025, 3, 30, 21, 59, tzinfo=UTC), date(2025, 3, 30)),  # 23:59, by now UTC+2
        (datetime(2025, 3, 30, 22, 0, tzinfo=UTC), date(2025, 3, 31)),
        (datetime(2025, 10, 26, 22, 59, tzinfo=UTC), date(2025, 10, 26)),  # 23:59, UTC+1 again
        (datetime(2025, 10, 26, 23, 0, tzinfo=UTC), date(2025, 10, 27)),
    ],
)
def test_today_is_the_day_on_the_calendar_of_the_site(at: datetime, day: date) -> None:
    assert local_day(at, OSLO) == day


@pytest.mark.parametrize(("day", "hours"), [(date(2025, 3, 29), 24), (date(2025, 3, 30), 23), (date(2025, 10, 26), 25)])
def test_a_day_on_which_clocks_change_has_23_or_25_hours(day: date, hours: int) -> None:
    assert end_of_day(day, OSLO) - end_of_day(day - timedelta(1), OSLO) == timedelta(hours=hours)


WEEKLY = {
    "code": "WEEKLY",
    "name": "Weekly session",
    "kind": "treatment",
    "anchor": "BL",
    "offset_days": 7,
    "window_before": 1,
    "window_after": 2,
    "repeats": 3,
    "repeat_every_days": 7,
}


def weekly(*more: Any, **changes: Any) -> Any:
    return parse_protocol({**SMALL, "visits": [*SMALL["visits"], WEEKLY | changes, *more]})


def test_repeats_have_a_window_each() -> None:
    recorded = [held("BL", date(2026, 5, 20)), held("WEEKLY", date(2026, 6, 4), occurrence=2)]
    found = [one for one in plan(weekly(), recorded, date(2026, 6, 9)) if one.visit == "WEEKLY"]
    assert [(one.occurrence, days(one), one.state, one.deviation_days) for one in found] == [
        # 20 + 7 = 27 May. The third is open from the 9th: 20 May + 21 = day 41, less 31 = 10 June, less 1.
        (1, (date(2026, 5, 27), date(2026, 5, 26), date(2026, 5, 29)), VisitState.overdue, 11),  # 2 in May, 9 in June
        (2, (date(2026, 6, 3), date(2026, 6, 2), date(2026, 6, 5)), VisitState.done, 0),
        (3, (date(2026, 6, 10), date(2026, 6, 9), date(2026, 6, 12)), VisitState.due, None),
    ]


def test_repeats_without_an_interval_share_one_window() -> None:
    found = plan(weekly(repeat_every_days=None), [held("BL", date(2026, 5, 20))], date(2026, 5, 20))
    assert {days(one) for one in found if one.visit == "WEEKLY"} == {
        (date(2026, 5, 27), date(2026, 5, 26), date(2026, 5, 29))
    }


def test_windows_count_from_the_first_occurrence_of_an_anchor() -> None:
    after = {**SMALL["visits"][1], "code": "AFTER", "anchor": "WEEKLY", "offset_days": 14}
    protocol = weekly(after)
    recorded = [held("BL", date(2026, 5, 20)), held("WEEKLY", date(2026, 6, 4), occurrence=2)]
    assert by_code(plan(protocol, recorded, date(2026, 6, 5)))["AFTER"].waits_for == "WEEKLY"
    found = by_code(plan(protocol, [*recorded, held("WEEKLY", date(2026, 5, 27))], date(2026, 6, 5)))["AFTER"]
    assert found.window is not None
    assert found.window.planned == date(2026, 6, 10)  # 27 May + 14


def test_unscheduled_visits_appear_as_often_as_they_took_place() -> None:
    recorded = [held("UNS", date(2026, 6, 1), occurrence=2), held("UNS", date(2026, 5, 1))]
    found = [one for one in plan(GENERIC, recorded, date(2026, 7, 1)) if one.visit == "UNS"]
    assert [(one.occurrence, one.on, one.window) for one in found] == [
        (1, date(2026, 5, 1), None),
        (2, date(2026, 6, 1), None),
    ]


def test_a_visit_that_must_precede_another_is_overdue_from_the_day_after() -> None:
    recorded = [held("DOS1", date(2026, 3, 1))]
    on_the_day, later = (by_code(plan(GENERIC, recorded, day))["PREP3"] for day in (date(2026, 3, 1), date(2026, 3, 4)))
    assert on_the_day.state is VisitState.due
    assert (later.state, later.deviation_days) == (VisitState.overdue, 3)
    assert by_code(plan(GENERIC, [], date(2026, 3, 4)))["PREP3"].state is VisitState.upcoming


def test_early_termination_ends_what_was_still_to_come() -> None:
    recorded = [one for one in LEAP_YEAR if one.visit != "INT1A"] + [held("ET", date(2024, 3, 8))]
    found = by_code(plan(GENERIC, recorded, date(2024, 6, 1)))
    assert found["ET"].state is VisitState.done
    assert found["INT1A"].state is VisitState.overdue  # its window was over on 2 March, before the end
    for code in ("INT1B", "INT1C", "DOS2", "INT2A", "PRIM", "FU7M"):
        assert found[code].state is VisitState.not_applicable
    assert found["FU7M"].window is not None  # known, though nobody expects the visit


def test_a_protocol_can_keep_a_visit_after_early_termination() -> None:
    """CDISC pilot: retrieval at week 24 for those who stopped treatment. 1 January + 168 = 18 June in 2013."""
    recorded = [held("BL", date(2013, 1, 1)), held("AE_FU", date(2013, 3, 1))]
    found = by_code(plan(PILOT, recorded, date(2013, 6, 18)))
    assert found["RETRIEVAL"].state is VisitState.due
    assert found["RETRIEVAL"].window is not None
    assert found["RETRIEVAL"].window.planned == date(2013, 6, 18)
    assert found["WEEK24"].state is VisitState.not_applicable


def test_nothing_is_due_for_a_participant_who_left() -> None:
    found = by_code(plan(PILOT, [held("BL", date(2013, 1, 1))], date(2014, 1, 1), left_on=date(2013, 2, 1)))
    assert found["WEEK2"].state is VisitState.overdue  # 15 January, window over on the 18th
    assert found["WEEK4"].state is VisitState.not_applicable  # 29 January, open until 1 February, the day of leaving
    assert found["RETRIEVAL"].state is VisitState.not_applicable


def test_a_visit_under_a_scope_not_agreed_to_is_not_applicable() -> None:
    for scopes, state in ((("main",), VisitState.not_applicable), (("main", "long_follow_up"), VisitState.upcoming)):
        found = by_code(plan(GENERIC, LEAP_YEAR, date(2024, 3, 5), scopes=scopes))
        assert found["FU7M"].state is state
        assert found["INT1B"].state is VisitState.due


def test_a_withdrawal_of_dosing_ends_the_doses_and_what_depends_on_them() -> None:
    """INT1C ends on 27 March and DOS2 on 3 April 2024; the first dose was given."""
    for since, second_dose in ((date(2024, 4, 3), "not_applicable"), (date(2024, 4, 4), "overdue")):
        found = by_code(plan(GENERIC, LEAP_YEAR, date(2024, 9, 1), withdrawn={"dosing": since}))
        assert found["DOS2"].state == second_dose
        assert found["PRIM"].state == ("waiting" if second_dose == "overdue" else "not_applicable")
        assert (found["INT1C"].state, found["FU7M"].state) == (VisitState.overdue, VisitState.due)


def test_a_withdrawal_of_collection_ends_the_course() -> None:
    found = by_code(plan(GENERIC, LEAP_YEAR, date(2024, 9, 1), withdrawn={"collection": date(2024, 3, 10)}))
    assert found["INT1B"].state is VisitState.overdue  # its window ended on 9 March
    for code in ("INT1C", "DOS2", "PRIM", "FU7M"):
        assert found[code].state is VisitState.not_applicable


def test_an_optional_visit_is_never_overdue() -> None:
    recorded = [held("BL", date(2013, 1, 1))]
    on = {day: by_code(plan(PILOT, recorded, day))["RETRIEVAL"].state for day in (date(2013, 6, 18), date(2013, 8, 1))}
    assert list(on.values()) == [VisitState.due, VisitState.not_applicable]


def test_a_visit_of_an_earlier_version_stays_in_sight() -> None:
    recorded = [*LEAP_YEAR, held("OLDVISIT", date(2024, 2, 1)), Recorded("GONE", 1, "missed")]
    *_, gone, old = plan(GENERIC, recorded, date(2024, 3, 5))
    assert (gone.visit, gone.name, gone.state) == ("GONE", None, VisitState.missed)
    assert (old.visit, old.on, old.state) == ("OLDVISIT", date(2024, 2, 1), VisitState.done)


def test_the_same_occurrence_twice_is_no_course() -> None:
    with pytest.raises(RecordedTwice):
        plan(GENERIC, [held("BL", date(2024, 1, 1)), held("BL", date(2024, 1, 2))], date(2024, 1, 3))


def test_the_trials_own_schedule_ends_13_weeks_after_baseline() -> None:
    recorded = [held("V4", date(2023, 3, 1)), held("V5", date(2023, 3, 8)), held("V9", date(2023, 4, 5))]
    found = by_code(plan(TRIAL, recorded, date(2023, 4, 6)))
    # 5 April + 56: 25 left in April, 31 in May = 31 May. 1 March + 91: 30 left in March, 60, 91 = 31 May too.
    for code in ("V13", "V14"):
        window = found[code].window
        assert window is not None
        assert window.planned == date(2023, 5, 31)
    # 1 March + 213: March 30, April 60, May 91, June 121, July 152, August 183, September 213 = 30 September.
    assert found["FU7"].window is not None
    assert found["FU7"].window.planned == date(2023, 9, 30)
    assert found["V10"].state is VisitState.due  # the day after V9
    assert found["SCR"].waits_for == "V0"


CODES = [visit.code for visit in GENERIC.visits]


@st.composite
def courses(draw: st.DrawFn) -> list[Recorded]:
    recorded = []
    for code in draw(st.lists(st.sampled_from(CODES), unique=True)):
        status = draw(st.sampled_from(["completed", "partially_done", "missed", "not_applicable"]))
        on = draw(st.dates(date(2020, 1, 1), date(2030, 1, 1))) if status in HELD else None
        recorded.append(Recorded(code, 1, status, on))
    return recorded


today = st.dates(date(2019, 1, 1), date(2031, 1, 1))


@given(courses(), today, st.integers(-3_000, 3_000), st.none() | today)
def test_shifting_every_date_shifts_every_window_and_nothing_else(
    course: list[Recorded], day: date, by: int, left: date | None
) -> None:
    shift = timedelta(by)
    moved = [one._replace(on=one.on + shift if one.on else None) for one in course]
    before, after = plan(GENERIC, course, day, left), plan(GENERIC, moved, day + shift, left + shift if left else None)
    assert [
        one._replace(
            on=one.on + shift if one.on else None,
            window=type(one.window)(*(edge + shift for edge in one.window)) if one.window else None,
            closes=one.closes + shift if one.closes else None,
        )
        for one in before
    ] == after


@given(st.data(), courses(), today)
def test_the_order_in_which_visits_are_recorded_does_not_matter(data: st.DataObject, course: Any, day: date) -> None:
    assert plan(GENERIC, data.draw(st.permutations(course)), day) == plan(GENERIC, course, day)


@given(courses(), today, st.none() | today)
def test_open_visits_are_those_of_the_schedule_of_which_nothing_is_recorded(
    course: list[Recorded], day: date, left_on: date | None
) -> None:
    recorded = {(one.visit, one.occurrence) for one in course}
    planned = [one for one in plan(GENERIC, course, day, left_on) if (one.visit, one.occurrence) not in recorded]
    assert plan(GENERIC, course, day, left_on, open_only=True) == planned


@given(courses(), today, st.none() | today)
def test_every_visit_has_one_state_that_fits_its_dates(course: list[Recorded], day: date, left: date | None) -> None:
    recorded = {one.visit: one for one in course}
    planned = plan(GENERIC, course, day, left)
    assert [one.visit for one in planned] == [code for code in CODES if code != "UNS" or code in recorded]
    for one in planned:
        record = recorded.get(one.visit)
        match one.state:
            case VisitState.done:
                assert record is not None
                assert record.status in HELD
            case VisitState.missed:
                assert record is not None
                assert record.status == "missed"
            case VisitState.due:
                assert record is None
                assert one.window is None or one.window.start <= day <= one.window.end
            case VisitState.overdue:
                assert record is None
                assert not one.optional
                assert one.deviation_days is not None
                assert one.deviation_days > 0
            case VisitState.upcoming:
                assert record is None
                assert one.window is None or day < one.window.start
            case VisitState.waiting:
                assert record is None
                assert one.waits_for is not None
                assert one.waits_for not in {code for code, other in recorded.items() if other.status in HELD}
            case VisitState.not_applicable:
                assert record is None or record.status == "not_applicable"
