"""Vital signs against the generic protocol: refused, flagged, or still to be taken."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.schedule import shipped_protocols
from app.protocol.vitals import Vitals, open_vitals, vital_findings

PROTOCOL = shipped_protocols()["mdma-mdd-generic/1"]
assert PROTOCOL.vitals is not None
VITALS: Vitals = PROTOCOL.vitals
AT = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("measure", "value", "found"),
    [  # hard and warning limits: domain reference, section 4
        ("SYSBP", 49, "refuse"),
        ("SYSBP", 50, None),
        ("SYSBP", 160, None),
        ("SYSBP", 161, "warn"),
        ("SYSBP", 300, "warn"),
        ("SYSBP", 301, "refuse"),
        ("DIABP", 19, "refuse"),
        ("DIABP", 20, None),
        ("DIABP", 110, None),
        ("DIABP", 111, "warn"),
        ("DIABP", 201, "refuse"),
        ("PULSE", 19, "refuse"),
        ("PULSE", 20, None),
        ("PULSE", 111, "warn"),
        ("PULSE", 251, "refuse"),
        ("TEMP", 29.9, "refuse"),
        ("TEMP", 38.0, None),
        ("TEMP", 38.1, "warn"),
        ("TEMP", 43.1, "refuse"),
        ("TEMP", 98.6, "refuse"),  # Fahrenheit
        ("SPO2", 49, "refuse"),
        ("SPO2", 100, None),
        ("WEIGHT", 24, "refuse"),
        ("WEIGHT", 300, None),
        ("PULSE", float("nan"), "refuse"),
        ("PULSE", float("inf"), "refuse"),
        ("GLUCOSE", 5, "refuse"),
    ],
)
def test_limits_refuse_or_flag(measure: str, value: float, found: str | None) -> None:
    assert [finding.level for finding in vital_findings(VITALS, {measure: value})] == ([found] if found else [])


def test_systolic_lies_above_diastolic() -> None:
    for pair, codes in (((90, 90), ["not_above"]), ((90, 100), ["not_above"]), ((91, 90), [])):
        values = dict(zip(("SYSBP", "DIABP"), pair, strict=True))
        assert [finding.code for finding in vital_findings(VITALS, values)] == codes


def test_a_low_warning() -> None:
    low = VITALS.measures[2].model_copy(update={"warn_below": 45.0})
    vitals = VITALS.model_copy(update={"measures": (low,), "pairs": ()})
    found = {value: [one.code for one in vital_findings(vitals, {"PULSE": value})] for value in (44, 45)}
    assert found == {44: ["below_warning"], 45: []}


@given(st.dictionaries(st.sampled_from(["SYSBP", "DIABP", "PULSE"]), st.integers(1_000_000, 9_000_000)))
def test_a_finding_never_repeats_the_value(values: dict[str, float]) -> None:
    for finding in vital_findings(VITALS, values):
        assert str(values[finding.measure]) not in finding.message


def test_open_vitals_have_their_time() -> None:
    found = open_vitals(VITALS, {"initial_dose": AT}, taken=())
    assert {one.timepoint: (one.due_at - AT).total_seconds() / 60 for one in found} == {
        "PRE": -15,
        "M60": 60,
        "M180": 180,
        "M240": 240,
        "M300": 300,
    }
    assert [one.measure for one in found if one.timepoint == "PRE"] == ["SYSBP", "DIABP", "PULSE", "TEMP"]


def test_vitals_around_a_supplemental_dose_are_asked_for_only_where_it_was_given() -> None:
    second = AT + timedelta(minutes=90)
    found = open_vitals(VITALS, {"initial_dose": AT, "supplemental_dose": second}, taken=())
    assert {one.due_at for one in found if one.timepoint == "PRESUPP"} == {AT + timedelta(minutes=85)}


def test_what_was_taken_is_no_longer_open() -> None:
    everything = [(point.code, measure) for point in VITALS.timepoints for measure in point.measures]
    moments = {"initial_dose": AT, "session_end": AT + timedelta(hours=8)}
    assert open_vitals(VITALS, moments, everything) == []  # type: ignore[arg-type]
    (left,) = open_vitals(VITALS, moments, [one for one in everything if one != ("END", "TEMP")])  # type: ignore[arg-type]
    assert (left.timepoint, left.measure, left.due_at) == ("END", "TEMP", AT + timedelta(hours=8))


def test_a_moment_without_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        open_vitals(VITALS, {"initial_dose": AT.replace(tzinfo=None)}, ())
