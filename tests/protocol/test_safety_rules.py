"""Safety rules: what raises a signal, and by when it must be reviewed. Limits and sources: the generic protocol."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.protocol.instruments import instrument
from app.protocol.safety import (
    ItemReached,
    OutcomeSeen,
    SafetyRule,
    ScoreReached,
    Signal,
    VitalBeyond,
    VitalsSeen,
    evaluate,
)
from app.protocol.schedule import shipped_protocols
from app.protocol.scoring import score

RULES = shipped_protocols()["mdma-mdd-generic/1"].safety_rules
OSLO, UTC_ZONE = ZoneInfo("Europe/Oslo"), ZoneInfo("UTC")


def raised(code: str, **items: int | None) -> list[Signal]:
    full = {f"{code}_{name[1:]}": value for name, value in items.items()}
    scores = {one.name: one.value for one in score(instrument(code), full)}
    return evaluate(RULES, OutcomeSeen(code, full, scores))


def codes(signals: list[Signal]) -> list[str]:
    return [signal.rule for signal in signals]


@pytest.mark.parametrize(
    ("item", "rule"),
    [  # C-SSRS: ideation 4 or 5, or any behaviour, is reviewed on the same day (domain reference, instruments table)
        ("_01", None),
        ("_02", None),
        ("_03", None),
        ("_04", "CSSRS-IDEATION"),
        ("_05", "CSSRS-IDEATION"),
        ("_06", "CSSRS-BEHAVIOUR"),
        ("_07", "CSSRS-BEHAVIOUR"),
        ("_08", "CSSRS-BEHAVIOUR"),
        ("_09", "CSSRS-BEHAVIOUR"),
        ("_10", "CSSRS-SELF-INJURY"),
    ],
)
def test_one_yes_raises_its_signal_whatever_else_is_blank(item: str, rule: str | None) -> None:
    everything_else_no = {f"_{number:02}": 0 for number in range(1, 11)}
    for others in ({}, everything_else_no):
        assert codes(raised("CSSRS_SLV", **{**others, item: 1})) == ([rule] if rule else [])


def test_a_yes_to_4_counts_also_where_the_question_before_it_says_no() -> None:
    """A contradiction between items is a query to the site; it does not silence the trigger."""
    assert codes(raised("CSSRS_SLV", _02=0, _04=1)) == ["CSSRS-IDEATION"]


@pytest.mark.parametrize(("form", "rule"), [("CSSRS_SLV", "CSSRS-BEHAVIOUR"), ("CSSRS_LIFE", "CSSRS-LIFETIME")])
@pytest.mark.parametrize(("lethality", "found"), [(0, False), (1, True), (5, True)])
def test_a_rated_lethality_counts_also_where_no_attempt_is_marked(
    form: str, rule: str, lethality: int, found: bool
) -> None:
    assert codes(raised(form, _06=0, _07=0, _08=0, _09=0, _16=lethality)) == ([rule] if found else [])


def test_yes_on_2_and_4_is_one_signal_that_names_what_raised_it() -> None:
    (signal,) = raised("CSSRS_SLV", _01=1, _02=1, _03=0, _04=1, _05=0)
    assert signal.because == ("CSSRS_SLV_04",)
    assert (signal.severity, signal.holds_dosing, signal.version) == ("high", True, "1")


def test_ideation_and_behaviour_are_two_signals() -> None:
    assert codes(raised("CSSRS_SLV", _05=1, _06=1)) == ["CSSRS-IDEATION", "CSSRS-BEHAVIOUR"]


def test_a_lifetime_history_is_reviewed_and_does_not_hold_dosing() -> None:
    (signal,) = raised("CSSRS_LIFE", _06=1)
    assert (signal.rule, signal.holds_dosing) == ("CSSRS-LIFETIME", False)


@pytest.mark.parametrize(("answer", "found"), [(None, []), (0, []), (3, []), (4, ["MADRS-10"]), (6, ["MADRS-10"])])
def test_madrs_item_10_from_4_on(answer: int | None, found: list[str]) -> None:
    assert codes(raised("MADRS", _10=answer)) == found


@pytest.mark.parametrize(("answer", "found"), [(None, []), (0, []), (1, ["PHQ9-9"]), (3, ["PHQ9-9"])])
def test_phq9_item_9_above_0(answer: int | None, found: list[str]) -> None:
    assert codes(raised("PHQ9", _09=answer)) == found


def test_the_highest_madrs_without_item_10_raises_nothing() -> None:
    assert raised("MADRS", **{f"_{number:02}": 6 for number in range(1, 10)}, _10=0) == []


@pytest.mark.parametrize(
    ("values", "found"),
    [  # more than 160 or 110 mmHg, pulse more than 110, temperature more than 38.0 (domain reference, section 4)
        ({"SYSBP": 160, "DIABP": 110}, []),
        ({"SYSBP": 161, "DIABP": 110}, ["BLOOD-PRESSURE"]),
        ({"SYSBP": 160, "DIABP": 110.5}, ["BLOOD-PRESSURE"]),
        ({"SYSBP": 161, "DIABP": 111}, ["BLOOD-PRESSURE"]),
        ({"PULSE": 110}, []),
        ({"PULSE": 111}, ["PULSE"]),
        ({"TEMP": 38.0}, []),
        ({"TEMP": 38.1}, ["TEMPERATURE"]),
        ({"SPO2": 50}, []),
        ({}, []),
    ],
)
def test_vital_signs_beyond_their_action_limits(values: dict[str, float], found: list[str]) -> None:
    assert codes(evaluate(RULES, VitalsSeen(values))) == found


def test_both_pressures_are_named_in_one_signal() -> None:
    (signal,) = evaluate(RULES, VitalsSeen({"SYSBP": 180, "DIABP": 120}))
    assert signal.because == ("SYSBP", "DIABP")


def test_a_value_can_be_too_low() -> None:
    slow = RULES[0].model_copy(update={"when": (VitalBeyond(kind="vital", measure="PULSE", below=45),)})
    assert [bool(evaluate([slow], VitalsSeen({"PULSE": value}))) for value in (44.9, 45, 180)] == [True, False, False]


def test_a_rule_can_read_a_score() -> None:
    condition = ScoreReached(kind="score", instrument="CSSRS_SLV", score="ideation_level", at_least=4)
    rule = RULES[0].model_copy(update={"when": (condition,)})
    seen = OutcomeSeen("CSSRS_SLV", {}, {"ideation_level": 4})
    assert codes(evaluate([rule], seen)) == ["CSSRS-IDEATION"]
    assert evaluate([rule], seen._replace(scores={"ideation_level": None})) == []
    assert evaluate([rule], seen._replace(instrument="CSSRS_LIFE")) == []


@given(st.fixed_dictionaries({f"_{number:02}": st.sampled_from([None, 0, 1]) for number in range(1, 11)}))
def test_any_trigger_among_any_answers_raises_a_signal_that_holds_dosing(items: dict[str, int | None]) -> None:
    triggered = any(items[f"_{number:02}"] for number in (4, 5, 6, 7, 8, 9, 10))
    signals = raised("CSSRS_SLV", **items)
    assert bool(signals) is triggered
    assert all(signal.holds_dosing for signal in signals)


def test_every_item_a_rule_reads_is_one_that_its_instrument_has() -> None:
    conditions = [condition for rule in RULES for condition in rule.when if isinstance(condition, ItemReached)]
    read = [(condition.instrument, code) for condition in conditions for code in condition.items]
    assert len(read) == 17
    assert all(code in instrument(name).by_code for name, code in read)


def rule(code: str) -> SafetyRule:
    return next(one for one in RULES if one.code == code)


@pytest.mark.parametrize(
    ("code", "raised_at", "zone", "due"),
    [
        # Same day: midnight in Oslo is 22:00 UTC in summer and 23:00 UTC in winter.
        ("MADRS-10", datetime(2025, 7, 1, 9, 0, tzinfo=UTC), OSLO, datetime(2025, 7, 1, 22, 0, tzinfo=UTC)),
        ("MADRS-10", datetime(2025, 1, 7, 9, 0, tzinfo=UTC), OSLO, datetime(2025, 1, 7, 23, 0, tzinfo=UTC)),
        # 23:30 UTC is the next day there already.
        ("MADRS-10", datetime(2025, 1, 7, 23, 30, tzinfo=UTC), OSLO, datetime(2025, 1, 8, 23, 0, tzinfo=UTC)),
        ("MADRS-10", datetime(2025, 1, 7, 23, 30, tzinfo=UTC), UTC_ZONE, datetime(2025, 1, 8, 0, 0, tzinfo=UTC)),
        ("PULSE", datetime(2025, 1, 7, 23, 30, tzinfo=UTC), OSLO, datetime(2025, 1, 8, 0, 30, tzinfo=UTC)),
        # An hour is an hour: 01:30 local time, before the lost hour, in UTC+1.
        ("PULSE", datetime(2025, 3, 30, 1, 30, tzinfo=OSLO), OSLO, datetime(2025, 3, 30, 1, 30, tzinfo=UTC)),
    ],
)
def test_when_a_signal_must_be_reviewed(code: str, raised_at: datetime, zone: ZoneInfo, due: datetime) -> None:
    assert rule(code).due_at(raised_at, zone) == due


def test_a_moment_without_time_zone_has_no_deadline() -> None:
    for code in ("PULSE", "MADRS-10"):
        with pytest.raises(ValueError, match="time zone"):
            rule(code).due_at(datetime(2025, 1, 7, 12, 0), OSLO)


def test_the_sponsors_clocks() -> None:
    """7 and 15 calendar days, the day of knowledge being day 0 (Regulation (EU) 536/2014, article 42: unchecked)."""
    clocks = {clock.code: clock for clock in shipped_protocols()["mdma-mdd-generic/1"].safety.clocks}
    informed = datetime(2025, 3, 24, 12, 0, tzinfo=UTC)
    # 24 + 7 = 31 March, over at midnight in UTC+2. 24 + 15 = 39 = 8 April.
    assert clocks["SUSAR-FATAL"].due_at(informed, OSLO) == datetime(2025, 3, 31, 22, 0, tzinfo=UTC)
    assert clocks["SUSAR-OTHER"].due_at(informed, OSLO) == datetime(2025, 4, 8, 22, 0, tzinfo=UTC)
    hours = clocks["SUSAR-FATAL"].model_copy(update={"hours": 24, "calendar_days": None})
    assert hours.due_at(informed, OSLO) == datetime(2025, 3, 25, 12, 0, tzinfo=UTC)
