"""Protocol files: what ships, and each fault by itself."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

import app.protocol
from app.protocol.base import ProtocolInvalid
from app.protocol.definition import Threshold
from app.protocol.schedule import load_protocol, parse_protocol, shipped_protocols

GENERIC = shipped_protocols()["mdma-mdd-generic/1"]

SMALL: dict[str, Any] = {
    "code": "small-study",
    "version": "1",
    "title": "A small study",
    "source": "made up",
    "study_day_anchors": ["BL"],
    "arms": [{"code": "A", "label": "all"}],
    "visits": [
        {"code": "BL", "name": "Baseline", "kind": "baseline", "anchor": "BL", "offset_days": 0},
        {
            "code": "END",
            "name": "End",
            "kind": "endpoint",
            "anchor": "BL",
            "offset_days": 28,
            "window_before": 3,
            "window_after": 3,
            "instruments": ["MADRS"],
        },
        {"code": "UNS", "name": "Unscheduled", "kind": "unscheduled", "repeats": 0},
    ],
    "consents": [{"version": "1", "scopes": ["main"]}],
    "eligibility": [{"code": "INCL01", "kind": "inclusion", "label": "adult"}],
    "safety": {"sae_report_hours": 24, "source": "made up"},
    "thresholds": [{"instrument": "MADRS", "score": "total", "remission_max": 10, "source": "made up"}],
    "special_interest": [{"code": "syncope", "label": "Syncope", "source": "made up"}],
}


def faults(change: Callable[[dict[str, Any]], object]) -> list[tuple[str, str]]:
    data = deepcopy(SMALL)
    change(data)
    with pytest.raises(ProtocolInvalid) as refused:
        parse_protocol(data)
    assert all(fault.message for fault in refused.value.faults)
    return [(fault.path, fault.code) for fault in refused.value.faults]


def test_the_small_study_is_sound() -> None:
    assert parse_protocol(SMALL).visit("END").offset_days == 28


@pytest.mark.parametrize("key", sorted(shipped_protocols()))
def test_a_shipped_protocol_survives_the_way_through_json(key: str) -> None:
    protocol = shipped_protocols()[key]
    assert protocol.key == key
    assert load_protocol(protocol.model_dump_json(), "json") == protocol
    assert parse_protocol(protocol.model_dump(mode="json", exclude_none=True)) == protocol


def test_the_generic_schedule_is_the_one_of_the_template() -> None:
    schedule = "SCR BL PREP1 PREP2 PREP3 PREP4 DOS1 INT1A INT1B INT1C DOS2 INT2A INT2B INT2C PRIM FU7M UNS ET"
    assert " ".join(visit.code for visit in GENERIC.visits) == schedule
    assert [visit.code for visit in GENERIC.visits if visit.optional] == ["PREP4", "UNS", "ET"]
    assert [visit.code for visit in GENERIC.visits if visit.repeats == 0] == ["UNS"]


def parts(value: object) -> Iterator[dict[str, Any]]:
    """Every table of a definition, at any depth, that has a `source` to fill in."""
    if isinstance(value, dict):
        if "source" in value:
            yield value
        for inner in value.values():
            yield from parts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from parts(inner)


@pytest.mark.parametrize("key", ["mdma-mdd-generic/1", "mdma-mdd-proof-of-principle/1"])
def test_every_part_of_a_shipped_plan_cites_a_source(key: str) -> None:
    found = list(parts(shipped_protocols()[key].model_dump()))
    assert len(found) > 35
    assert [part for part in found if not part["source"]] == []


def test_three_plans_ship_and_no_code_knows_them_by_name() -> None:
    assert sorted(shipped_protocols()) == ["cdisc-pilot/1", "mdma-mdd-generic/1", "mdma-mdd-proof-of-principle/1"]
    for file in Path(app.protocol.__file__).parent.glob("*.py"):
        text = file.read_text().lower()
        assert not [word for word in ("mdma", "pilot", '"madrs', '"cssrs', '"phq9', "dos1") if word in text], file.name


def test_suicidality_is_asked_at_every_contact() -> None:
    forms = {"CSSRS_SLV", "CSSRS_LIFE"}
    assert all(forms & set(visit.instruments) for visit in GENERIC.visits)


def test_endpoints_ask_what_baseline_asked() -> None:
    baseline, primary, late = (set(GENERIC.visit(code).instruments) for code in ("BL", "PRIM", "FU7M"))
    assert baseline - {"CTQ_SF"} == primary == late  # childhood is asked about once
    assert {"MADRS", "SHEEHAN_SDS"} <= primary


@pytest.mark.parametrize(
    ("change", "path", "code"),
    [
        (lambda p: p.pop("safety"), "/safety", "missing"),
        (lambda p: p.update(colour="red"), "/colour", "extra_forbidden"),
        (lambda p: p["visits"][0].update(anchr="BL"), "/visits/0/anchr", "extra_forbidden"),
        (lambda p: p["visits"][0].update({"a/b~c": 1}), "/visits/0/a~1b~0c", "extra_forbidden"),
        (lambda p: p["visits"][0].update(kind="party"), "/visits/0/kind", "enum"),
        (lambda p: p["visits"][0].update(code="bl"), "/visits/0/code", "string_pattern_mismatch"),
        (lambda p: p["visits"][1].update(offset_days="28"), "/visits/1/offset_days", "int_type"),
        (lambda p: p["visits"][1].update(offset_days=28.0), "/visits/1/offset_days", "int_type"),
        (lambda p: p["visits"][1].update(offset_days=10**9), "/visits/1/offset_days", "less_than_equal"),
        (lambda p: p["visits"][0].update(optional="no"), "/visits/0/optional", "bool_type"),
        (lambda p: p.update(code="Small Study"), "/code", "string_pattern_mismatch"),
        (lambda p: p.update(title="a\nb"), "/title", "string_pattern_mismatch"),
        (lambda p: p.update(title="\ud800"), "/title", "string_unicode"),
        (lambda p: p.update(visits="none"), "/visits", "tuple_type"),
        (lambda p: p.update(study_day_anchors=[]), "/study_day_anchors", "too_short"),
        (lambda p: p["consents"][0].update(scopes=[]), "/consents/0/scopes", "too_short"),
        (lambda p: p["safety"].update(sae_report_hours=0), "/safety/sae_report_hours", "greater_than_equal"),
        (
            lambda p: p["thresholds"][0].update(response_fraction=0.0),
            "/thresholds/0/response_fraction",
            "greater_than",
        ),
        (
            lambda p: p["thresholds"][0].update(response_fraction=float("nan")),
            "/thresholds/0/response_fraction",
            "finite_number",
        ),
    ],
)
def test_a_wrong_shape_is_refused_at_its_place(
    change: Callable[[dict[str, Any]], object], path: str, code: str
) -> None:
    assert faults(change) == [(path, code)]


@pytest.mark.parametrize(
    ("change", "path", "code"),
    [
        (lambda p: p["arms"].append(p["arms"][0]), "/arms/1/code", "duplicate_arm"),
        (lambda p: p["visits"].append(p["visits"][2]), "/visits/3/code", "duplicate_visit"),
        (lambda p: p["consents"].append(p["consents"][0]), "/consents/1/version", "duplicate_consent"),
        (lambda p: p["consents"][0]["scopes"].append("main"), "/consents/0/scopes/1", "duplicate_scope"),
        (
            lambda p: p["eligibility"].append(p["eligibility"][0]),
            "/eligibility/1/code",
            "duplicate_criterion",
        ),
        (lambda p: p["thresholds"].append(p["thresholds"][0]), "/thresholds/1", "duplicate_threshold"),
        (
            lambda p: p["special_interest"].append(p["special_interest"][0]),
            "/special_interest/1/code",
            "duplicate_special_interest",
        ),
        (
            lambda p: p["visits"][1]["instruments"].append("MADRS"),
            "/visits/1/instruments/1",
            "duplicate_instrument",
        ),
        (lambda p: p["study_day_anchors"].append("BL"), "/study_day_anchors/1", "duplicate_study_day_anchor"),
        (lambda p: p["study_day_anchors"].append("DOS1"), "/study_day_anchors/1", "unknown_study_day_anchor"),
        (lambda p: p["visits"][1].update(anchor="DOS1"), "/visits/1/anchor", "unknown_anchor"),
        (
            lambda p: p["visits"][1].update(instruments=["MADRS", "HAMD"]),
            "/visits/1/instruments/1",
            "unknown_instrument",
        ),
        (lambda p: p["visits"][1].update(window_before=-1), "/visits/1", "impossible_window"),
        (lambda p: p["visits"][1].update(window_after=-1), "/visits/1", "impossible_window"),
        (lambda p: p["visits"][1].pop("offset_days"), "/visits/1", "impossible_window"),
        (lambda p: p["visits"][0].update(offset_days=1), "/visits/0", "impossible_window"),
        (lambda p: p["visits"][2].update(window_after=1), "/visits/2", "impossible_window"),
        (
            lambda p: p["thresholds"][0].update(instrument="HAMD"),
            "/thresholds/0/instrument",
            "unknown_instrument",
        ),
        (lambda p: p["thresholds"][0].update(score="sum"), "/thresholds/0/score", "unknown_score"),
        (
            lambda p: (
                p["visits"][1]["instruments"].append("WHO5"),
                p["thresholds"][0].update(instrument="WHO5", score="raw"),
            ),
            "/thresholds/0/instrument",
            "threshold_direction",
        ),
        (
            lambda p: (
                p["visits"][1]["instruments"].append("EQ5D5L"),
                p["thresholds"][0].update(instrument="EQ5D5L", score="health_today"),
            ),
            "/thresholds/0/instrument",
            "threshold_direction",
        ),
        (lambda p: p["thresholds"][0].pop("remission_max"), "/thresholds/0", "unusable_threshold"),
        (
            lambda p: p["thresholds"][0].update(response_fraction=0.5, response_max=12),
            "/thresholds/0",
            "unusable_threshold",
        ),
    ],
)
def test_what_does_not_hold_together_is_refused_at_its_place(
    change: Callable[[dict[str, Any]], object], path: str, code: str
) -> None:
    assert faults(change) == [(path, code)]


def test_a_schedule_without_visits_is_refused() -> None:
    found = faults(lambda p: p.update(visits=[]))
    assert found == [("/visits", "empty_schedule"), ("/study_day_anchors/0", "unknown_study_day_anchor")]


def test_anchors_that_lead_back_are_refused_where_they_do() -> None:
    def circle(protocol: dict[str, Any]) -> None:
        protocol["visits"][0]["anchor"] = "END"
        protocol["visits"].append(protocol["visits"][1] | {"code": "LATE", "anchor": "END"})

    assert faults(circle) == [
        ("/visits/0/anchor", "circular_anchors"),
        ("/visits/1/anchor", "circular_anchors"),
    ]


def test_all_faults_are_reported_at_once() -> None:
    def twice(protocol: dict[str, Any]) -> None:
        protocol["visits"][1].update(anchor="DOS1", instruments=["MADRS", "HAMD"])

    assert {code for _, code in faults(twice)} == {"unknown_anchor", "unknown_instrument"}


@pytest.mark.parametrize(
    ("text", "suffix"),
    [
        ("code = ", "toml"),
        ('{"code": ', "json"),
        ("[1, 2]", "json"),
        ("[" * 100_000, "json"),
        ("1" * 5_000, "json"),
    ],
    ids=["broken TOML", "broken JSON", "no table", "too deep", "a number too long"],
)
def test_text_that_cannot_be_read_is_a_syntax_fault(text: str, suffix: Any) -> None:
    with pytest.raises(ProtocolInvalid) as refused:
        load_protocol(text, suffix)
    assert [(fault.path, fault.code) for fault in refused.value.faults] == [("", "syntax")]
    assert len(str(refused.value)) < 500


def test_the_same_protocol_reads_the_same_from_json() -> None:
    assert load_protocol(json.dumps(SMALL), "json") == parse_protocol(SMALL)


MADRS, SHEEHAN = GENERIC.thresholds


@pytest.mark.parametrize(
    ("baseline", "value", "response"),
    [
        (30, 15, True),
        (30, 16, False),
        (29, 14, True),
        (29, 15, False),
        (30, 0, True),
        (30, 45, False),
        (0, 0, None),
        (None, 10, None),
        (30, None, None),
    ],
)
def test_response_on_madrs_is_a_fall_of_half_or_more(
    baseline: int | None, value: int | None, response: bool | None
) -> None:
    assert MADRS.response(baseline, value) is response


@pytest.mark.parametrize(("value", "remission"), [(10, True), (11, False), (0, True), (None, None)])
def test_remission_on_madrs_is_ten_or_less(value: int | None, remission: bool | None) -> None:
    assert MADRS.remission(value) is remission


@pytest.mark.parametrize(
    ("value", "remission", "response"),
    [(6, True, True), (7, False, True), (12, False, True), (13, False, False)],
)
def test_sheehan_response_and_remission_are_absolute(value: int, remission: bool, response: bool) -> None:
    assert SHEEHAN.remission(value) is remission
    assert SHEEHAN.response(None, value) is response


@pytest.mark.parametrize(("baseline", "value"), [(6, 12), (12, 12)])
def test_a_participant_without_improvement_is_no_responder_on_sheehan(baseline: int, value: int) -> None:
    assert SHEEHAN.response(baseline, value) is False
    assert SHEEHAN.response(value + 1, value) is True


def test_a_threshold_without_a_rule_tells_nothing() -> None:
    only_remission = Threshold(instrument="MADRS", score="total", remission_max=10, source="made up")
    only_response = Threshold(instrument="MADRS", score="total", response_fraction=0.3, source="made up")
    assert only_remission.response(30, 10) is None
    assert only_response.remission(10) is None


def test_response_is_computed_exactly() -> None:
    """A fall of 7 from 50 is 14 %, though 0.14 * 50 is above 7 in floats."""
    threshold = Threshold(instrument="MADRS", score="total", response_fraction=0.14, source="made up")
    assert [threshold.response(50, 43), threshold.response(50, 44)] == [True, False]
