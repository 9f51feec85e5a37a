"""Faults in the clinical parts of a protocol file, each by itself, at its place and under its rule."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from app.protocol.base import ProtocolInvalid
from app.protocol.schedule import parse_protocol
from tests.protocol.test_protocol_files import SMALL

Plan = dict[str, Any]


def dated(code: str, kind: str, anchor: str, offset: int, **more: Any) -> Plan:
    return {"code": code, "name": code, "kind": kind, "anchor": anchor, "offset_days": offset, **more}


IDEATION = {"instrument": "CSSRS_SLV", "items": ["CSSRS_SLV_04", "CSSRS_SLV_05"], "at_least": 1}

ET: Plan = {"code": "ET", "name": "Early termination", "kind": "early_termination"}

FULL: Plan = deepcopy(SMALL) | {
    "version": "2",
    "visits": [
        *deepcopy(SMALL["visits"]),
        dated("PREP", "preparation", "BL", 3, before="DOS1"),
        dated("DOS1", "dosing", "BL", 7, window_after=3, instruments=["CSSRS_SLV"]),
        dated("DOS2", "dosing", "DOS1", 28, window_before=7, window_after=7),
        dated("LATE", "follow_up", "DOS2", 7, repeats=3, repeat_every_days=7, window_after=6, needs_scope="main"),
    ],
    "consents": [{"version": "1", "scopes": ["main"], "required": ["main"]}, {"version": "2", "scopes": ["main"]}],
    "vitals": {
        "measures": [
            {"code": "SYSBP", "label": "systolic", "unit": "mmHg", "lowest": 50, "highest": 300, "source": "made up"},
            {"code": "DIABP", "label": "diastolic", "unit": "mmHg", "lowest": 20, "highest": 200, "source": "made up"},
        ],
        "pairs": [{"higher": "SYSBP", "lower": "DIABP", "source": "made up"}],
        "timepoints": [
            {
                "code": "PRE",
                "label": "before",
                "counted_from": "initial_dose",
                "minutes": -5,
                "measures": ["SYSBP"],
                "source": "made up",
            }
        ],
    },
    "dosing": {
        "substance": "water",
        "amount_as": "base",
        "source": "made up",
        "doses": [
            {
                "visit": "DOS1",
                "initial_min_mg": 80,
                "initial_max_mg": 120,
                "source": "made up",
                "supplemental": {
                    "code": "MORE",
                    "max_share": 0.5,
                    "earliest_minutes": 60,
                    "latest_minutes": 180,
                    "otherwise": "flag",
                    "measures": ["SYSBP"],
                    "source": "made up",
                },
            },
            {"visit": "DOS2", "initial_min_mg": 80, "initial_max_mg": 80, "source": "made up"},
        ],
        "preconditions": [
            {"code": "CONSENT", "rule": "consent", "scopes": ["main"], "source": "made up"},
            {"code": "ELIGIBLE", "rule": "eligibility", "source": "made up"},
            {"code": "INTERVAL", "rule": "minimum_interval", "days": 21, "source": "made up"},
            {"code": "SIGNAL", "rule": "no_open_signal", "source": "made up"},
            {"code": "PREPARED", "rule": "visits_held", "dosing": "DOS1", "visits": ["PREP"], "source": "made up"},
            {"code": "PRESSURE", "rule": "vital_at_most", "measure": "SYSBP", "at_most": 160, "source": "made up"},
        ],
        "discharge": [
            {"code": "TIME", "label": "time", "needs": "release_time", "source": "made up"},
            {"code": "LAST", "label": "vitals", "needs": "vitals", "of": "PRE", "source": "made up"},
            {"code": "ASKED", "label": "form", "needs": "instrument", "of": "CSSRS_SLV", "source": "made up"},
        ],
    },
    "safety": {
        "sae_report_hours": 24,
        "source": "made up",
        "clocks": [{"code": "C7", "label": "c", "starts": "site_aware", "calendar_days": 7, "source": "made up"}],
    },
    "safety_rules": [
        {
            "code": "THOUGHTS",
            "version": "1",
            "label": "thoughts",
            "severity": "high",
            "holds_dosing": True,
            "when": [
                {"kind": "item", "instrument": "MADRS", "items": ["MADRS_10"], "at_least": 4},
                {"kind": "score", "instrument": "MADRS", "score": "total", "at_least": 35},
                {"kind": "vital", "measure": "SYSBP", "above": 160},
            ],
            "source": "made up",
        }
    ],
    "rater_independence": {"code": "RATER", "instruments": ["MADRS"], "source": "made up"},
    "verification": {
        "share": 0.5,
        "seed": "S1",
        "critical": [
            {"record": "outcome", "fields": ["items"], "instruments": ["MADRS"], "source": "made up"},
            {"record": "visit", "fields": ["occurred_on"], "source": "made up"},
        ],
        "source": "made up",
    },
    "amendments": [{"version": "2", "valid_from": "2026-03-01", "summary": "more", "source": "made up"}],
}


def faults(change: Callable[[Plan], object]) -> list[tuple[str, str]]:
    data = deepcopy(FULL)
    change(data)
    with pytest.raises(ProtocolInvalid) as refused:
        parse_protocol(data)
    assert all(fault.message for fault in refused.value.faults)
    return [(fault.path, fault.code) for fault in refused.value.faults]


def test_the_full_study_is_sound() -> None:
    assert parse_protocol(FULL).dosing is not None


VISIT, DOSING = "/visits", "/dosing"
CASES: list[tuple[Callable[[Plan], object], str, str]] = [
    (lambda p: p["visits"][3].update(before="NONE"), "/visits/3/before", "unknown_visit"),
    (lambda p: p["visits"][3].update(before="PREP"), "/visits/3/before", "impossible_order"),
    (lambda p: p["visits"][3].update(offset_days=11), "/visits/3/before", "impossible_order"),
    (lambda p: p["visits"][6].update(before="DOS1"), "/visits/6/before", "circular_order"),
    (lambda p: p["visits"][1].update(before="BL"), "/visits/1/before", "impossible_order"),
    (lambda p: p["visits"][3].update(anchor="UNS"), "/visits/3/anchor", "unusable_anchor"),
    (lambda p: p["visits"][6].update(window_before=1), "/visits/6/repeat_every_days", "colliding_windows"),
    (lambda p: p["visits"][6].update(repeats=1), "/visits/6/repeat_every_days", "nothing_to_repeat"),
    (lambda p: p["visits"][2].update(repeat_every_days=7), "/visits/2/repeat_every_days", "nothing_to_repeat"),
    (lambda p: p["visits"][6].update(needs_scope="recontact"), "/visits/6/needs_scope", "unknown_scope"),
    (lambda p: p["consents"][1]["scopes"].append("selfies"), "/consents/1/scopes/1", "unknown_scope"),
    (lambda p: p["consents"][1].update(required=["recording"]), "/consents/1/required/0", "unknown_scope"),
    (lambda p: p["consents"].append({"version": "1", "scopes": ["main"]}), "/consents/2/version", "duplicate_consent"),
    (
        lambda p: p["eligibility"].append({**p["eligibility"][0], "code": "incl01"}),
        "/eligibility/1/code",
        "overlapping_criterion",
    ),
    (lambda p: p["thresholds"][0].update(baseline="BL"), "/thresholds/0/baseline", "unknown_visit"),
    (lambda p: p["thresholds"][0].update(endpoint="NONE"), "/thresholds/0/endpoint", "unknown_visit"),
    (lambda p: p["thresholds"][0].update(bands=bands(0, 20, 61)), "/thresholds/0/bands", "band_gap"),
    (lambda p: p["thresholds"][0].update(bands=bands(0, 20, 59)), "/thresholds/0/bands", "band_gap"),
    (lambda p: p["thresholds"][0].update(bands=bands(1, 20, 60)), "/thresholds/0/bands/0", "band_order"),
    (lambda p: p["thresholds"][0].update(instrument="PHQ9"), "/thresholds/0/instrument", "instrument_never_asked"),
    (
        lambda p: p["rater_independence"].update(instruments=["PHQ9"]),
        "/rater_independence/instruments/0",
        "instrument_never_asked",
    ),
    (lambda p: p["verification"].update(share=0), "/verification/share", "greater_than"),
    (lambda p: p["verification"].update(critical=[]), "/verification/critical", "too_short"),
    (
        lambda p: p["verification"]["critical"][1].update(fields=["occurred_on", "mood"]),
        "/verification/critical/1/fields/1",
        "unknown_field",
    ),
    (
        lambda p: p["verification"]["critical"][1].update(fields=["status", "status"]),
        "/verification/critical/1/fields/1",
        "duplicate_field",
    ),
    (
        lambda p: p["verification"]["critical"][1].update(instruments=["MADRS"]),
        "/verification/critical/1/instruments",
        "instruments_of_outcomes",
    ),
    (
        lambda p: p["verification"]["critical"][0].update(instruments=["PHQ9"]),
        "/verification/critical/0/instruments/0",
        "instrument_never_asked",
    ),
    (
        lambda p: p["verification"]["critical"][1].update(record="outcome", fields=["items"]),
        "/verification/critical/1/record",
        "duplicate_record",
    ),
    (lambda p: p["amendments"][0].update(version="3"), "/amendments/0/version", "amendment_version"),
    (lambda p: p["amendments"][0].update(reconsent=["active"]), "/amendments/0/reconsent", "unusable_amendment"),
    (
        lambda p: p["amendments"][0].update(reconsent=["active"], consent="9"),
        "/amendments/0/consent",
        "unknown_consent",
    ),
    (
        lambda p: p["amendments"].insert(0, {**p["amendments"][0], "version": "1", "valid_from": "2026-03-02"}),
        "/amendments/1/valid_from",
        "amendment_order",
    ),
    (lambda p: p["amendments"][0].update(valid_from="2026-02-30"), "/amendments/0/valid_from", "value_error"),
    (lambda p: p["amendments"][0].update(valid_from=20260301), "/amendments/0/valid_from", "date_type"),
    (lambda p: p["safety"]["clocks"][0].update(hours=24), "/safety/clocks/0", "unusable_clock"),
    (lambda p: p["safety"]["clocks"][0].pop("calendar_days"), "/safety/clocks/0", "unusable_clock"),
    (lambda p: rule(p, 0, instrument="HAMD"), "/safety_rules/0/when/0/instrument", "unknown_instrument"),
    (lambda p: rule(p, 0, items=["MADRS_11"]), "/safety_rules/0/when/0/items/0", "unknown_item"),
    (lambda p: rule(p, 0, items=["PHQ9_09"]), "/safety_rules/0/when/0/items/0", "unknown_item"),
    (lambda p: rule(p, 0, items=["MADRS_10"] * 2), "/safety_rules/0/when/0/items/1", "duplicate_item"),
    (lambda p: rule(p, 0, at_least=7), "/safety_rules/0/when/0/at_least", "never_true"),
    (lambda p: rule(p, 0, at_least=0), "/safety_rules/0/when/0/at_least", "always_true"),
    (
        lambda p: (rule(p, 0, **IDEATION), p.update(historical_totals=["CSSRS_SLV"])),
        "/historical_totals/0",
        "signal_unseen",
    ),
    (
        lambda p: (rule(p, 0, **IDEATION), p.update(historical_totals=["CSSRS_SLV_END"])),
        "/historical_totals/0",
        "signal_unseen",
    ),
    (lambda p: rule(p, 1, score="sum"), "/safety_rules/0/when/1/score", "unknown_score"),
    (lambda p: rule(p, 1, at_least=61), "/safety_rules/0/when/1/at_least", "never_true"),
    (lambda p: rule(p, 2, measure="PULSE"), "/safety_rules/0/when/2/measure", "unknown_measure"),
    (lambda p: rule(p, 2, above=300), "/safety_rules/0/when/2/above", "never_true"),
    (lambda p: rule(p, 2, below=50), "/safety_rules/0/when/2/below", "never_true"),
    (lambda p: p["safety_rules"][0]["when"][2].pop("above"), "/safety_rules/0/when/2", "never_true"),
    (lambda p: rule(p, 2, kind="mood"), "/safety_rules/0/when/2", "union_tag_invalid"),
    (lambda p: p["safety_rules"].append(p["safety_rules"][0]), "/safety_rules/1/code", "duplicate_rule"),
    (lambda p: p["vitals"]["measures"][1].update(lowest=200), "/vitals/measures/1/lowest", "empty_range"),
    (lambda p: measure(p, warn_above=301), "/vitals/measures/0/warn_above", "never_true"),
    (lambda p: measure(p, warn_below=200, warn_above=160), "/vitals/measures/0/warn_below", "always_true"),
    (lambda p: p["vitals"]["pairs"][0].update(lower="PULSE"), "/vitals/pairs/0/lower", "unknown_measure"),
    (lambda p: p["vitals"]["pairs"][0].update(lower="SYSBP"), "/vitals/pairs/0", "cannot_hold"),
    (
        lambda p: p["vitals"]["timepoints"][0].update(measures=["TEMP"]),
        "/vitals/timepoints/0/measures/0",
        "unknown_measure",
    ),
    (
        lambda p: p["vitals"]["measures"].append(p["vitals"]["measures"][0]),
        "/vitals/measures/2/code",
        "duplicate_measure",
    ),
    (lambda p: p["dosing"]["doses"].pop(), "/dosing/doses", "dose_missing"),
    (
        lambda p: p["dosing"]["doses"].append({**p["dosing"]["doses"][1], "visit": "END"}),
        "/dosing/doses/2/visit",
        "no_dosing_visit",
    ),
    (lambda p: p["dosing"]["doses"].append(p["dosing"]["doses"][1]), "/dosing/doses/2/visit", "duplicate_dose"),
    (lambda p: p["dosing"]["doses"][1].update(initial_min_mg=90), "/dosing/doses/1/initial_min_mg", "cannot_hold"),
    (
        lambda p: p["dosing"]["doses"][0]["supplemental"].update(earliest_minutes=181),
        "/dosing/doses/0/supplemental/earliest_minutes",
        "cannot_hold",
    ),
    (
        lambda p: p["dosing"]["doses"][0]["supplemental"].update(measures=["PULSE"]),
        "/dosing/doses/0/supplemental/measures/0",
        "unknown_measure",
    ),
    (lambda p: condition(p, 0, scopes=["recording"]), "/dosing/preconditions/0/scopes/0", "unknown_scope"),
    (lambda p: p.update(eligibility=[]), "/dosing/preconditions/1", "checks_nothing"),
    (lambda p: condition(p, 2, days=36), "/dosing/preconditions/2/days", "cannot_hold"),
    (lambda p: p["safety_rules"][0].update(holds_dosing=False), "/dosing/preconditions/3", "checks_nothing"),
    (lambda p: condition(p, 4, dosing="END"), "/dosing/preconditions/4/dosing", "no_dosing_visit"),
    (lambda p: condition(p, 4, visits=["PREPS"]), "/dosing/preconditions/4/visits/0", "unknown_visit"),
    (lambda p: condition(p, 4, visits=["DOS1"]), "/dosing/preconditions/4/visits/0", "cannot_hold"),
    (lambda p: condition(p, 4, visits=["DOS2"]), "/dosing/preconditions/4/visits/0", "cannot_hold"),
    (lambda p: condition(p, 4, visits=["LATE"]), "/dosing/preconditions/4/visits/0", "cannot_hold"),
    (lambda p: held_before(p, ET), "/dosing/preconditions/4/visits/0", "cannot_hold"),
    (lambda p: condition(p, 5, measure="PULSE"), "/dosing/preconditions/5/measure", "unknown_measure"),
    (lambda p: condition(p, 5, at_most=49), "/dosing/preconditions/5/at_most", "cannot_hold"),
    (lambda p: condition(p, 5, at_most=300), "/dosing/preconditions/5/at_most", "checks_nothing"),
    (lambda p: condition(p, 5, code="signal"), "/dosing/preconditions/5/code", "overlapping_rule"),
    (lambda p: p["dosing"]["discharge"][0].update(of="PRE"), "/dosing/discharge/0/of", "needless_reference"),
    (lambda p: p["dosing"]["discharge"][1].update(of="END"), "/dosing/discharge/1/of", "unknown_timepoint"),
    (lambda p: p["dosing"]["discharge"][1].pop("of"), "/dosing/discharge/1/of", "unknown_timepoint"),
    (
        lambda p: p["vitals"]["timepoints"][0].update(counted_from="supplemental_dose"),
        "/dosing/discharge/1/of",
        "never_timed",
    ),
    (lambda p: p["dosing"]["discharge"][2].update(of="PHQ9"), "/dosing/discharge/2/of", "instrument_never_asked"),
    (lambda p: p["dosing"]["discharge"][2].update(of="HAMD"), "/dosing/discharge/2/of", "unknown_instrument"),
    (lambda p: p["dosing"]["discharge"][2].update(code="SIGNAL"), "/dosing/discharge/2/code", "duplicate_rule"),
]


def bands(lowest: int, middle: int, highest: int) -> list[Plan]:
    return [
        {"label": "low", "minimum": lowest, "maximum": middle},
        {"label": "high", "minimum": middle + 1, "maximum": highest},
    ]


def rule(plan: Plan, place: int, **changes: Any) -> None:
    plan["safety_rules"][0]["when"][place].update(changes)


def measure(plan: Plan, **changes: Any) -> None:
    plan["vitals"]["measures"][0].update(changes)


def condition(plan: Plan, place: int, **changes: Any) -> None:
    plan["dosing"]["preconditions"][place].update(changes)


def held_before(plan: Plan, visit: Plan) -> None:
    plan["visits"].append(visit)
    condition(plan, 4, visits=[visit["code"]])


@pytest.mark.parametrize(("change", "path", "code"), CASES, ids=[f"{path} {code}" for _, path, code in CASES])
def test_what_cannot_work_is_refused_at_its_place(change: Callable[[Plan], object], path: str, code: str) -> None:
    assert faults(change) == [(path, code)]


def test_two_visits_that_each_precede_the_other_are_a_circle() -> None:
    def turn(plan: Plan) -> None:
        plan["visits"][2]["before"], plan["visits"][3]["before"] = "PREP", "UNS"

    assert faults(turn) == [(f"/visits/{place}/before", "circular_order") for place in (2, 3)]


def test_bands_that_cover_the_range_are_sound() -> None:
    data = deepcopy(FULL)
    data["thresholds"][0]["bands"] = bands(0, 20, 60)
    threshold = parse_protocol(data).thresholds[0]
    assert [threshold.band(value) for value in (None, 0, 20, 21, 60)] == [None, "low", "low", "high", "high"]


def test_historical_totals_are_sound_where_a_score_raises_the_signal_or_tells_no_item() -> None:
    data = deepcopy(FULL)
    data["historical_totals"] = ["MADRS", "CSSRS_SLV"]
    rule(data, 1, **{**IDEATION, "kind": "item"})
    data["safety_rules"][0]["when"][1].pop("score")
    level = {"kind": "score", "instrument": "CSSRS_SLV", "score": "ideation_level", "at_least": 4}
    data["safety_rules"][0]["when"].append(level)
    assert parse_protocol(data).historical_totals == ("MADRS", "CSSRS_SLV")


def test_faults_of_every_part_are_reported_at_once() -> None:
    def spoil(plan: Plan) -> None:
        plan["visits"][4]["anchor"] = "NONE"
        plan["consents"][0]["scopes"].append("selfies")
        rule(plan, 0, items=["MADRS_11"])
        measure(plan, lowest=300)
        condition(plan, 2, days=36)

    assert {code for _, code in faults(spoil)} >= {
        "unknown_anchor",
        "unknown_scope",
        "unknown_item",
        "empty_range",
        "cannot_hold",
    }


def test_the_last_day_of_a_window_may_be_the_first_after_the_interval() -> None:
    data = deepcopy(FULL)
    condition(data, 2, days=35)  # 28 + 7
    assert parse_protocol(data).dosing is not None


def test_a_list_without_end_is_refused_without_reading_all_of_it() -> None:
    assert faults(lambda plan: plan.update(visits=[{}] * 100_000)) == [("/visits", "too_long")]
