"""Windows, deviations and study days, worked out on a calendar by hand."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.definition import UnknownVisit, VisitDefinition, VisitKind
from app.protocol.schedule import Window, shipped_protocols, study_day, window_of

GENERIC = shipped_protocols()["mdma-mdd-generic/1"]
days = st.integers(-36_500, 36_500)


def window(code: str, **anchors: date) -> Window | None:
    return window_of(GENERIC, GENERIC.visit(code), {(anchor, 1): on for anchor, on in anchors.items()})


@pytest.mark.parametrize(
    ("code", "anchor", "on", "expected"),
    [
        ("SCR", "BL", date(2026, 3, 15), Window(date(2026, 2, 22), date(2026, 2, 1), date(2026, 3, 14))),
        ("INT1A", "DOS1", date(2024, 2, 28), Window(date(2024, 2, 29), date(2024, 2, 29), date(2024, 3, 2))),
        ("INT1B", "DOS1", date(2025, 2, 25), Window(date(2025, 3, 4), date(2025, 3, 1), date(2025, 3, 7))),
        ("INT1C", "DOS1", date(2025, 12, 20), Window(date(2026, 1, 10), date(2026, 1, 3), date(2026, 1, 17))),
        ("DOS2", "DOS1", date(2025, 12, 10), Window(date(2026, 1, 7), date(2025, 12, 31), date(2026, 1, 14))),
        ("PRIM", "DOS2", date(2024, 1, 15), Window(date(2024, 3, 11), date(2024, 2, 26), date(2024, 3, 25))),
        ("FU7M", "BL", date(2025, 6, 1), Window(date(2025, 12, 31), date(2025, 12, 3), date(2026, 1, 28))),
    ],
)
def test_a_window_counts_calendar_days_from_its_anchor(code: str, anchor: str, on: date, expected: Window) -> None:
    assert window(code, **{anchor: on}) == expected


def test_screening_is_open_from_42_days_to_the_day_before_baseline() -> None:
    baseline = date(2026, 3, 15)
    found = window("SCR", BL=baseline)
    assert found is not None
    assert (found.start, found.end) == (baseline - timedelta(42), baseline - timedelta(1))


@pytest.mark.parametrize(
    ("on", "deviation"),
    [
        (date(2024, 2, 25), -1),
        (date(2024, 2, 26), 0),
        (date(2024, 3, 11), 0),
        (date(2024, 3, 25), 0),
        (date(2024, 3, 26), 1),
        (date(2023, 2, 26), -365),
        (date(2025, 3, 25), 365),
    ],
)
def test_deviation_is_negative_early_and_positive_late(on: date, deviation: int) -> None:
    found = window("PRIM", DOS2=date(2024, 1, 15))
    assert found is not None
    assert found.deviation_days(on) == deviation


def test_there_is_no_window_before_the_anchor_has_taken_place() -> None:
    assert window("PRIM", BL=date(2024, 1, 1), DOS1=date(2024, 1, 8)) is None


@pytest.mark.parametrize("code", ["BL", "DOS1", "PREP1", "UNS", "ET"])
def test_anchors_and_unplanned_visits_have_no_window(code: str) -> None:
    assert window(code, BL=date(2024, 1, 1), DOS1=date(2024, 1, 8), DOS2=date(2024, 2, 5)) is None


@pytest.mark.parametrize(("anchor", "end"), [(date.max, date.max), (date(9999, 12, 1), date.max)])
def test_a_window_past_the_last_day_of_the_calendar_ends_there(anchor: date, end: date) -> None:
    found = window("PRIM", DOS2=anchor)
    assert found is not None
    assert (found.planned, found.end) == (date.max, end)


def test_a_window_before_the_first_day_of_the_calendar_starts_there() -> None:
    assert window("SCR", BL=date(1, 1, 20)) == Window(date.min, date.min, date(1, 1, 19))


def test_of_a_screening_visit_the_one_before_the_enrolment_counts() -> None:
    """Twice in each screening, a week apart. After a failed screening they are held again, as the third and fourth."""
    visit = VisitDefinition(
        code="S", name="s", kind=VisitKind.screening, anchor="A", offset_days=-14, repeats=2, repeat_every_days=7
    )
    held = {("A", 1): date(2026, 6, 15), ("S", 1): date(2026, 1, 5), ("S", 3): date(2026, 6, 1)}
    planned = {occurrence: window_of(GENERIC, visit, held, occurrence) for occurrence in (1, 2, 3, 4)}
    days = {occurrence: found and found.planned for occurrence, found in planned.items()}
    assert days == {1: None, 2: date(2026, 6, 8), 3: date(2026, 6, 1), 4: date(2026, 6, 8)}
    assert window_of(GENERIC, visit.model_copy(update={"kind": VisitKind.treatment}), held, 1) is not None


@given(st.dates(), days, st.integers(0, 36_500), st.integers(0, 36_500), st.dates())
def test_every_window_holds_its_planned_day(on: date, offset: int, before: int, after: int, came: date) -> None:
    visit = VisitDefinition(
        code="V",
        name="v",
        kind=VisitKind.phone,
        anchor="A",
        offset_days=offset,
        window_before=before,
        window_after=after,
    )
    found = window_of(GENERIC, visit, {("A", 1): on})
    assert found is not None
    assert found.start <= found.planned <= found.end
    assert found.deviation_days(found.planned) == 0
    deviation = found.deviation_days(came)
    assert (deviation == 0) == (found.start <= came <= found.end)
    assert found.deviation_days(came - timedelta(deviation)) == 0


@pytest.mark.parametrize(
    ("on", "day"),
    [
        (date(2024, 3, 1), 1),
        (date(2024, 2, 29), -1),
        (date(2024, 2, 28), -2),
        (date(2024, 3, 2), 2),
        (date(2025, 3, 1), 366),
    ],
)
def test_study_day_has_no_day_zero(on: date, day: int) -> None:
    """SDTMIG 3.4, section 4.4.4."""
    assert study_day(date(2024, 3, 1), on) == day


@given(st.dates(), st.dates())
def test_study_day_keeps_the_order_of_days_and_is_never_zero(anchor: date, on: date) -> None:
    assert study_day(anchor, on) != 0
    assert (study_day(anchor, on) > 0) == (on >= anchor)


def test_a_visit_that_is_not_planned_is_unknown() -> None:
    assert GENERIC.visit("PRIM").kind is VisitKind.endpoint
    with pytest.raises(UnknownVisit):
        GENERIC.visit("V99")
