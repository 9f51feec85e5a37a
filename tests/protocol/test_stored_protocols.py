"""A protocol stored by an earlier release still reads, also where the rules have become stricter since."""

from copy import deepcopy
from datetime import date
from typing import Any

import pytest

from app.protocol.base import ProtocolInvalid
from app.protocol.planning import VisitState, plan
from app.protocol.schedule import parse_protocol, stored_protocol

FIRST_RELEASE: dict[str, Any] = {
    "code": "first-release",
    "version": "1",
    "title": "As stored before dosing, vital signs and safety rules were part of a protocol",
    "source": "made up",
    "study_day_anchors": ["BL"],
    "visits": [
        {"code": "BL", "name": "Baseline", "kind": "baseline", "anchor": "BL", "offset_days": 0},
        {"code": "END", "name": "End", "kind": "endpoint", "anchor": "BL", "offset_days": 28, "repeats": 2},
    ],
    "consents": [{"version": "1", "scopes": ["main", "newsletter"]}],
    "eligibility": [{"code": "INCL01", "kind": "inclusion", "label": "adult"}],
    "safety": {"sae_report_hours": 24, "source": "made up"},
    "thresholds": [{"instrument": "MADRS", "score": "total", "remission_max": 10, "source": "made up"}],
}


def test_what_was_accepted_then_is_read_now() -> None:
    protocol = stored_protocol(FIRST_RELEASE)
    assert protocol.dosing is None
    assert protocol.safety_rules == ()
    states = [one.state for one in plan(protocol, [], date(2026, 1, 1))]
    assert states == [VisitState.upcoming, VisitState.waiting, VisitState.waiting]


def test_the_same_file_posted_today_meets_todays_rules() -> None:
    with pytest.raises(ProtocolInvalid) as refused:
        parse_protocol(FIRST_RELEASE)
    assert [fault.code for fault in refused.value.faults] == ["unknown_scope", "instrument_never_asked"]


def test_what_never_had_the_shape_of_a_protocol_is_not_read() -> None:
    with pytest.raises(ProtocolInvalid):
        stored_protocol({**deepcopy(FIRST_RELEASE), "colour": "red"})
