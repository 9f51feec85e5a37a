"""Dosing sessions against the generic protocol: may it start, was the dose as planned, may it be closed."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from app.protocol.dosing import PlannedDose
from app.protocol.dosing_checks import (
    Breach,
    DischargeFacts,
    SessionFacts,
    discharge_breaches,
    initial_breaches,
    start_refusals,
    supplemental_breaches,
)
from app.protocol.schedule import shipped_protocols

PROTOCOL = shipped_protocols()["mdma-mdd-generic/1"]
assert PROTOCOL.dosing is not None
DOSING = PROTOCOL.dosing
READY = SessionFacts(
    visit="DOS1",
    on=date(2026, 3, 2),
    consent_current=True,
    consent_scopes=("main", "data_sharing"),
    eligible=True,
    staff=("T-01", "T-02"),
    confirmed={"DOSE-PREGNANCY": "yes", "DOSE-TAPER": "yes", "DOSE-DRUG-SCREEN": "yes"},
    held={code: date(2026, 2, 20) for code in ("BL", "PREP1", "PREP2", "PREP3")},
    vitals={"SYSBP": 128, "DIABP": 82},
)
ALL_RULES = [rule.code for rule in DOSING.preconditions]


def rules(breaches: list[Breach]) -> list[str]:
    return [breach.rule for breach in breaches]


def test_a_session_may_start_where_every_precondition_holds() -> None:
    assert start_refusals(DOSING, READY) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"consent_scopes": ()}, "DOSE-CONSENT"),
        ({"consent_scopes": ("data_sharing",)}, "DOSE-CONSENT"),
        ({"consent_current": False}, "DOSE-CONSENT"),
        ({"eligible": False}, "DOSE-ELIGIBLE"),
        ({"eligible": None}, "DOSE-ELIGIBLE"),
        # 2 March - 20 days = 10 February: 3 to 5 weeks apart (registration of NCT01793610), so 21 days at least.
        ({"earlier_doses": (date(2026, 2, 10),)}, "DOSE-INTERVAL"),
        ({"earlier_doses": (date(2025, 12, 1), date(2026, 2, 10))}, "DOSE-INTERVAL"),
        ({"earlier_doses": (date(2026, 3, 2),)}, "DOSE-INTERVAL"),
        ({"earlier_doses": (date(2026, 3, 10),)}, "DOSE-INTERVAL"),  # recorded late, after a later dose
        ({"staff": ("T-01",)}, "DOSE-STAFF"),
        ({"staff": ("T-01", "T-01")}, "DOSE-STAFF"),
        ({"open_signals": ("MADRS-10",)}, "DOSE-SIGNAL"),
        ({"confirmed": {**READY.confirmed, "DOSE-PREGNANCY": "no"}}, "DOSE-PREGNANCY"),
        ({"confirmed": {**READY.confirmed, "DOSE-TAPER": "not_applicable"}}, "DOSE-TAPER"),
        ({"held": {code: READY.held[code] for code in ("BL", "PREP1", "PREP3")}}, "DOSE-PREPARED"),
        ({"held": {**READY.held, "PREP2": date(2026, 3, 3)}}, "DOSE-PREPARED"),
        ({"vitals": {"SYSBP": 161, "DIABP": 82}}, "DOSE-SYSBP"),
        ({"vitals": {"SYSBP": 128}}, "DOSE-DIABP"),
        ({"vitals": {"SYSBP": float("nan"), "DIABP": 82}}, "DOSE-SYSBP"),
    ],
)
def test_what_does_not_hold_is_named(change: dict[str, Any], rule: str) -> None:
    (breach,) = start_refusals(DOSING, replace(READY, **change))
    assert (breach.rule, breach.level) == (rule, "refuse")
    assert breach.message


@pytest.mark.parametrize(
    "change",
    [
        {"earlier_doses": (date(2026, 2, 9),)},  # 21 days: February 2026 has 28, 28 - 9 + 2
        {"confirmed": {**READY.confirmed, "DOSE-PREGNANCY": "not_applicable"}},
        {"vitals": {"SYSBP": 160, "DIABP": 110}},
        {"visit": "DOS2", "held": {}},  # what must precede the first dose is not asked again at the second
    ],
)
def test_the_edge_of_a_precondition_is_inside_it(change: dict[str, Any]) -> None:
    assert start_refusals(DOSING, replace(READY, **change)) == []


def test_nothing_known_refuses_for_every_rule_at_once() -> None:
    bare = SessionFacts(visit="DOS1", on=date(2026, 3, 2))
    assert rules(start_refusals(DOSING, bare)) == [
        code for code in ALL_RULES if code not in ("DOSE-INTERVAL", "DOSE-SIGNAL")
    ]


@pytest.mark.parametrize(("given", "flagged"), [(79.9, True), (80, False), (100, False), (120, False), (120.1, True)])
def test_an_initial_dose_outside_the_plan_is_kept_and_flagged(given: float, flagged: bool) -> None:
    """Flexible 80 to 120 mg (summary of doi 10.1192/bjp.2025.10320)."""
    levels = [breach.level for breach in initial_breaches(DOSING.doses[0], given)]
    assert levels == (["flag"] if flagged else [])


AT = datetime(2026, 3, 2, 10, 0, tzinfo=UTC)
MEASURED = ("SYSBP", "DIABP", "PULSE")


def supplemental(mg: float, minutes: float, initial_mg: float = 120, **more: Any) -> list[Breach]:
    second = (mg, AT + timedelta(minutes=minutes))
    return supplemental_breaches(DOSING.doses[0], (initial_mg, AT), second, more.pop("measured", MEASURED), **more)


@pytest.mark.parametrize(
    ("mg", "minutes", "initial_mg", "breaches"),
    [  # half the initial dose plus half a milligram, 60 to 180 minutes later (domain reference, section 4)
        (60, 60, 120, 0),
        (60, 180, 120, 0),
        (60.5, 120, 120, 0),
        (60.6, 120, 120, 1),
        (40, 120, 80, 0),
        (41, 120, 80, 1),
        (60, 59, 120, 1),
        (60, 181, 120, 1),
        (60, -90, 120, 1),
        (100, 30, 120, 2),
    ],
)
def test_a_supplemental_dose_has_its_amount_and_its_time(
    mg: float, minutes: float, initial_mg: float, breaches: int
) -> None:
    found = supplemental(mg, minutes, initial_mg)
    assert [(one.rule, one.level) for one in found] == [("SUPPLEMENTAL-1", "flag")] * breaches


def test_a_share_is_computed_exactly() -> None:
    """0.29 of 100 mg is 29 mg, though 0.29 * 100 is below 29 in floats."""
    rule = DOSING.doses[0].supplemental
    assert rule is not None
    dose = DOSING.doses[0].model_copy(
        update={"supplemental": rule.model_copy(update={"max_share": 0.29, "tolerance_mg": 0.0})}
    )
    after = AT + timedelta(minutes=90)
    assert [len(supplemental_breaches(dose, (100, AT), (mg, after), MEASURED)) for mg in (29, 29.01)] == [0, 1]


def test_time_between_doses_is_elapsed_time_in_whatever_zone() -> None:
    later = (AT + timedelta(minutes=90)).astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert supplemental_breaches(DOSING.doses[0], (120, AT), (60, later), MEASURED) == []


def test_blood_pressure_and_pulse_come_before_the_supplemental_dose() -> None:
    (breach,) = supplemental(60, 90, measured=("SYSBP", "DIABP"))
    assert "PULSE" in breach.message


def test_an_open_signal_refuses_the_supplemental_dose() -> None:
    (breach,) = supplemental(60, 90, open_signals=("BLOOD-PRESSURE",))
    assert (breach.rule, breach.level) == ("SUPPLEMENTAL-1", "refuse")


def test_a_protocol_can_refuse_instead_of_flag() -> None:
    rule = DOSING.doses[0].supplemental
    assert rule is not None
    strict = DOSING.doses[0].model_copy(update={"supplemental": rule.model_copy(update={"otherwise": "refuse"})})
    (breach,) = supplemental_breaches(strict, (120, AT), (61, AT + timedelta(minutes=90)), MEASURED)
    assert breach.level == "refuse"


def test_where_none_is_planned_a_supplemental_dose_is_flagged() -> None:
    plain = PlannedDose(visit="DOS1", initial_min_mg=80, initial_max_mg=120, source="made up")
    (breach,) = supplemental_breaches(plain, (120, AT), (60, AT + timedelta(minutes=90)), MEASURED)
    assert (breach.rule, breach.level) == ("NO-SUPPLEMENTAL-DOSE", "flag")


COMPLETE = DischargeFacts(
    released_at=AT + timedelta(hours=8),
    vitals=("PRE", "END"),
    instruments=("CSSRS_SLV_END",),
    confirmed=("DISCHARGE-ORIENTED", "DISCHARGE-STEADY", "DISCHARGE-COMPANY"),
)


def test_a_complete_checklist_closes_the_session() -> None:
    assert discharge_breaches(DOSING, COMPLETE) == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"released_at": None}, "DISCHARGE-TIME"),
        ({"vitals": ("PRE",)}, "DISCHARGE-VITALS"),
        ({"instruments": ("CSSRS_SLV",)}, "DISCHARGE-CSSRS"),
        ({"confirmed": ("DISCHARGE-ORIENTED", "DISCHARGE-STEADY")}, "DISCHARGE-COMPANY"),
    ],
)
def test_what_the_checklist_lacks_keeps_it_open(change: dict[str, Any], rule: str) -> None:
    assert rules(discharge_breaches(DOSING, replace(COMPLETE, **change))) == [rule]


def test_nothing_done_lacks_everything() -> None:
    assert rules(discharge_breaches(DOSING, DischargeFacts())) == [item.code for item in DOSING.discharge]


def test_the_therapist_does_not_rate() -> None:
    rule = PROTOCOL.rater_independence
    assert rule is not None
    assert rule.broken_by("MADRS", "T-01", ("T-01", "T-02"))
    assert not rule.broken_by("MADRS", "R-09", ("T-01", "T-02"))
    assert not rule.broken_by("PHQ9", "T-01", ("T-01", "T-02"))  # a self-report has no rater
