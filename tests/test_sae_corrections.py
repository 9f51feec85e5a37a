"""What becomes of the clocks of a serious event as more is known, and as it is corrected."""

import csv
import io
from datetime import datetime, timedelta
from typing import Any

import pytest
from httpx2 import Response

from tests.monitor_cases import shown
from tests.sae_cases import NOON, Clockwork, amend, path, report, running, serious, set_clock, urgent
from tests.world import World, protocol_definition

ASSESSED = {"kind": "assessment", "relatedness_drug": "possible", "relatedness_therapy": "unlikely"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    return set_clock(monkeypatch)


def test_a_reaction_of_which_the_authority_knows_and_that_turns_fatal_has_seven_days_anew(
    world: World, clock: Clockwork
) -> None:
    event = serious(world, clock)
    reviews = f"{path(event)}/reviews"
    report(world, event)
    assert world.monitor.post(reviews, {"version": 1, **ASSESSED, "expected": False}).status_code == 201
    clock.later(days=5)
    told = {"kind": "authority_informed", "version": 1, "informed_at": shown(clock.at)}
    assert world.monitor.post(reviews, told).status_code == 201
    clock.later(days=15)
    amend(world, event, criteria={"hospitalisation": True, "death": True}, outcome="fatal", end="2026-04-16")
    report(world, event, "follow_up", aware_at=shown(clock.at))
    states = dict(running(world, event))
    assert (states["SUSAR-OTHER"], states["SUSAR-FATAL"]) == ("met", "running")
    clock.later(days=8)
    assert urgent(world, "overdue") == [event.json()["id"]]
    assert world.monitor.post(reviews, {**told, "version": 2, "informed_at": shown(clock.at)}).status_code == 201
    assert dict(running(world, event))["SUSAR-FATAL"] == "late"


def test_what_the_site_suspects_the_sponsor_does_not_downgrade(world: World, clock: Clockwork) -> None:
    event = serious(world, clock, relatedness_drug="probable")
    unlikely = {**ASSESSED, "relatedness_drug": "not_related", "expected": False}
    read = world.monitor.post(f"{path(event)}/reviews", {"version": 1, **unlikely}).json()
    assert read["susar"] is True
    assert ("SUSAR-OTHER", "running") in running(world, event)


def test_a_suspected_event_counts_as_unexpected_until_somebody_has_assessed_it(world: World, clock: Clockwork) -> None:
    event = serious(world, clock, relatedness_drug="possible")
    assert [code for code, _ in running(world, event)] == ["SAE-REPORT"]  # the sponsor knows nothing of it yet
    report(world, event)
    assert ("SUSAR-OTHER", "running") in running(world, event)
    clock.later(days=16)
    assert urgent(world, "overdue") == [event.json()["id"]]
    assert world.monitor.post(f"{path(event)}/reviews", {"version": 1, **ASSESSED, "expected": True}).is_success
    assert [code for code, _ in running(world, event)] == ["SAE-REPORT"]


def test_an_assessment_of_before_counts_when_the_event_becomes_serious(world: World, clock: Clockwork) -> None:
    event = serious(world, clock, criteria={})
    assert world.monitor.post(f"{path(event)}/reviews", {"version": 1, **ASSESSED, "expected": False}).is_success
    clock.later(days=9)
    amend(world, event, criteria={"life_threatening": True})
    report(world, event)
    assert ("SUSAR-FATAL", "running") in running(world, event)
    clock.later(days=8)
    assert urgent(world, "overdue") == [event.json()["id"]]


def test_what_a_version_did_not_say_yet_was_not_known_by_it(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    report(world, event)
    clock.later(days=10)
    amend(world, event, relatedness_drug="probable")
    assert [code for code, _ in running(world, event)] == ["SAE-REPORT"]
    clock.later(hours=1)
    report(world, event, "follow_up", aware_at=shown(clock.at))
    clock.later(days=14)
    assert ("SUSAR-OTHER", "running") in running(world, event)


def test_what_a_site_takes_back_stays_before_the_monitor_until_somebody_has_seen_it(
    world: World, clock: Clockwork
) -> None:
    event = serious(world, clock, relatedness_drug="probable")
    report(world, event)
    amend(world, event, expected=True)
    assert ("SUSAR-OTHER", "running") in running(world, event)
    amend(world, event, criteria={"hospitalisation": False}, relatedness_drug="not_related")
    clock.later(days=20)
    assert urgent(world, "overdue") == [event.json()["id"]]
    assert world.monitor.post(f"{path(event)}/reviews", {"kind": "acknowledged", "version": 3}).is_success
    assert urgent(world, "overdue") == []


def test_a_correction_while_it_is_not_serious_gains_no_time_either(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    amend(world, event, criteria={"hospitalisation": False})
    amend(world, event, aware_at=shown(clock.at - timedelta(hours=40)))
    again = amend(world, event, criteria={"hospitalisation": True}).json()
    assert datetime.fromisoformat(again["due_at"]) == clock.at - timedelta(hours=16)


def test_calling_an_event_serious_off_and_on_again_gains_no_time(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    clock.later(days=5)
    amend(world, event, criteria={"hospitalisation": False})
    clock.later(minutes=1)
    again = amend(world, event, criteria={"hospitalisation": True}).json()
    assert again["due_at"] == event.json()["due_at"]
    assert urgent(world, "overdue") == [event.json()["id"]]
    refused = world.staff_a.post(f"{path(event)}/reports", {"kind": "initial"})
    assert (refused.status_code, refused.json()["code"]) == (422, "late_reason_missing")
    anew = amend(world, event, aware_at=shown(clock.at)).json()  # which is said, with its reason, in the trail
    assert datetime.fromisoformat(anew["due_at"]) == clock.at + timedelta(hours=24)


def test_what_is_life_threatening_no_more_is_a_downgrade_until_it_is_called_so_again(
    world: World, clock: Clockwork
) -> None:
    event = serious(world, clock, criteria={"life_threatening": True, "hospitalisation": True})
    steps = [("life_threatening", False), ("hospitalisation", False), ("hospitalisation", True)]
    for criterion, met in steps:
        clock.later(hours=1)
        amend(world, event, criteria={criterion: met})
        assert urgent(world, "downgraded") == [event.json()["id"]], "less grave than it was"
    assert amend(world, event, criteria={"life_threatening": True}).json()["downgraded_at"] is None
    assert urgent(world, "downgraded") == []


def test_a_late_report_stays_late_whatever_is_corrected_later(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    clock.later(days=2)
    report(world, event, late_reason="The ward told us late")
    amend(world, event, aware_at=shown(clock.at))
    assert ("SAE-REPORT", "late") in running(world, event)


def test_a_criterion_added_after_the_first_report_is_reported_within_a_day(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    report(world, event)
    clock.later(days=3)
    amend(world, event, severity="severe")
    assert running(world, event) == [("SAE-REPORT", "met")]
    amend(world, event, criteria={"hospitalisation": True, "life_threatening": True})
    assert ("FOLLOW-UP", "running") in running(world, event)
    clock.later(hours=25)
    assert urgent(world, "overdue") == [event.json()["id"]]
    report(world, event, "follow_up", aware_at=shown(clock.at - timedelta(hours=25)), late_reason="A weekend")
    assert ("FOLLOW-UP", "late") in running(world, event)
    assert urgent(world, "overdue") == []


def test_a_death_that_is_told_while_the_site_is_frozen_starts_the_clocks_of_a_death(
    world: World, clock: Clockwork
) -> None:
    event = serious(world, clock, relatedness_drug="probable")
    report(world, event)
    freeze = {"kind": "freeze", "study": world.study, "site": "A", "reason": "cleaning for the interim look"}
    assert world.monitor.post("/v1/locks", freeze).status_code == 201
    clock.later(days=1)
    amend(world, event, criteria={"hospitalisation": True, "death": True}, outcome="fatal", end="2026-03-28")
    assert ("FOLLOW-UP", "running") in running(world, event)
    report(world, event, "follow_up", aware_at=shown(clock.at))
    assert ("SUSAR-FATAL", "running") in running(world, event)


def test_an_event_is_listed_as_overdue_by_any_of_its_clocks(world: World, clock: Clockwork) -> None:
    def listed(overdue: str, **more: str) -> list[str]:
        answer = world.monitor.get("/v1/adverse-events", study=world.study, overdue=overdue, **more)
        if "format" in more:
            return [row["id"] for row in csv.DictReader(io.StringIO(answer.text))]
        return [item["id"] for item in answer.json()["items"]]

    event, other = serious(world, clock), serious(world, clock)
    report(world, event)
    report(world, other)
    amend(world, event, criteria={"hospitalisation": True, "life_threatening": True})
    assert (listed("true"), len(listed("false"))) == ([], 2)
    clock.later(hours=25)
    name = event.json()["id"]
    assert listed("true") == listed("true", format="csv") == urgent(world, "overdue") == [name]
    assert listed("false") == [other.json()["id"]]
    report(world, event, "follow_up", aware_at=shown(clock.at - timedelta(hours=25)), late_reason="A weekend")
    assert (listed("true"), len(listed("false"))) == ([], 2)


def times(world: World, event: Response) -> dict[str, tuple[float, float]]:
    """Start and due time of each clock, in hours since noon of the first day."""
    return {item["code"]: (hours(item["started_at"]), hours(item["due_at"])) for item in clocks(world, event)}


def clocks(world: World, event: Response) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = world.monitor.get(f"{path(event)}/clocks").json()["items"]
    return items


def hours(shown_at: str) -> float:
    return (datetime.fromisoformat(shown_at) - NOON) / timedelta(hours=1)


def test_a_participant_moved_to_another_protocol_keeps_the_earlier_clocks(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    report(world, event)
    amend(world, event, criteria={"hospitalisation": True, "life_threatening": True})
    other = serious(world, clock, participant=event.json()["participant"])
    before = times(world, event), times(world, other)
    safety = {**protocol_definition()["safety"], "sae_report_hours": 12}
    shorter = {**protocol_definition(), "version": "2", "safety": safety, "amendments": []}
    assert world.admin.post(f"/v1/studies/{world.study}/protocols", shorter).status_code == 201
    moved = {"version": "2", "reason": "amended"}
    assert world.staff_a.post(f"/v1/participants/{event.json()['participant']}/protocol-version", moved).is_success
    assert (times(world, event), times(world, other)) == before
    corrected = amend(world, other, aware_at=shown(clock.at)).json()
    assert hours(corrected["due_at"]) == 24
    clock.later(hours=1)
    amend(world, event, criteria={"hospitalisation": True, "life_threatening": True, "disability": True})
    codes = [(item["code"], hours(item["due_at"])) for item in clocks(world, event)]
    assert codes == [("SAE-REPORT", 23), ("FOLLOW-UP", 24), ("FOLLOW-UP", 13)]


def test_a_report_of_it_as_not_serious_does_not_meet_the_clock_of_a_serious_event(
    world: World, clock: Clockwork
) -> None:
    event = serious(world, clock)
    amend(world, event, criteria={"hospitalisation": False})
    asked = {"kind": "information_request", "version": 2, "comment": "Why?", "due_at": shown(NOON + timedelta(days=9))}
    assert world.monitor.post(f"{path(event)}/reviews", asked).status_code == 201
    report(world, event)
    clock.later(days=5)
    again = amend(world, event, criteria={"hospitalisation": True}).json()
    assert again["due_at"] == event.json()["due_at"]
    assert running(world, event) == [("SAE-REPORT", "overdue"), ("INFORMATION", "met")]
    assert urgent(world, "overdue") == [event.json()["id"]]
    body = {"kind": "follow_up", "aware_at": shown(clock.at)}
    refused = world.staff_a.post(f"{path(event)}/reports", body)
    assert (refused.status_code, refused.json()["code"]) == (422, "late_reason_missing")
    assert report(world, event, late_reason="Held for harmless", **body)["due_at"] == again["due_at"]
    assert ("SAE-REPORT", "late") in running(world, event)


def test_an_event_whose_awareness_is_unknown_is_due_from_when_it_was_called_serious(
    world: World, clock: Clockwork
) -> None:
    one, other = serious(world, clock, criteria={}), serious(world, clock, criteria={})
    clock.later(days=30)
    in_one = amend(world, one, criteria={"hospitalisation": True}, aware_at=None).json()
    assert datetime.fromisoformat(in_one["due_at"]) == clock.at + timedelta(hours=24)
    amend(world, other, criteria={"hospitalisation": True})
    called = clock.at
    clock.later(hours=1)
    cleared = amend(world, other, aware_at=None).json()
    assert datetime.fromisoformat(cleared["due_at"]) == called + timedelta(hours=24)
    assert running(world, other) == [("SAE-REPORT", "running")]


def test_a_site_that_knew_earlier_than_it_said_reported_late(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    clock.later(hours=1)
    assert report(world, event)["late"] is False
    corrected = amend(world, event, aware_at=shown(NOON - timedelta(days=4))).json()
    assert hours(corrected["due_at"]) == -72
    assert times(world, event) == {"SAE-REPORT": (-96, -72)}
    assert running(world, event) == [("SAE-REPORT", "late")]
    mended = amend(world, event, aware_at=shown(NOON)).json()
    assert hours(mended["due_at"]) == 23
    assert running(world, event) == [("SAE-REPORT", "met")]


def test_when_an_added_criterion_was_known_can_be_corrected_until_it_is_reported(
    world: World, clock: Clockwork
) -> None:
    event = serious(world, clock)
    report(world, event)
    further = {"criteria": {"hospitalisation": True, "life_threatening": True}}
    amend(world, event, **further, aware_at=shown(NOON - timedelta(days=28)))
    assert ("FOLLOW-UP", "overdue") in running(world, event)
    amend(world, event, aware_at=shown(NOON))
    assert times(world, event) == {"SAE-REPORT": (-1, 23), "FOLLOW-UP": (0, 24)}
    clock.later(hours=25)
    report(world, event, "follow_up", aware_at=shown(clock.at), late_reason="A weekend")
    amend(world, event, aware_at=shown(clock.at))
    assert running(world, event) == [("SAE-REPORT", "met"), ("FOLLOW-UP", "late")]


def test_a_further_criterion_gains_no_time_for_an_event_that_nobody_has_reported(
    world: World, clock: Clockwork
) -> None:
    event = serious(world, clock)
    clock.later(hours=25)
    further = {"criteria": {"hospitalisation": True, "life_threatening": True}, "aware_at": shown(clock.at)}
    assert amend(world, event, **further).json()["due_at"] == event.json()["due_at"]
    assert urgent(world, "overdue") == [event.json()["id"]]


def test_when_an_event_was_known_moves_no_clock_of_a_criterion_that_was_added_later(
    world: World, clock: Clockwork
) -> None:
    event = serious(world, clock)
    report(world, event)
    clock.later(days=5)
    amend(world, event, criteria={"hospitalisation": True, "life_threatening": True})
    further = (120, 144)
    amend(world, event, aware_at=shown(NOON - timedelta(hours=3)))
    assert times(world, event) == {"SAE-REPORT": (-3, 21), "FOLLOW-UP": further}
    assert urgent(world, "overdue") == []
    clock.later(hours=1)
    report(world, event, "follow_up", aware_at=shown(clock.at))
    amend(world, event, aware_at=shown(NOON - timedelta(hours=1)))
    assert times(world, event) == {"SAE-REPORT": (-1, 23), "FOLLOW-UP": further}
    assert running(world, event) == [("SAE-REPORT", "met"), ("FOLLOW-UP", "met")]


def test_a_correction_while_a_reported_event_is_called_off_moves_start_and_due_time(
    world: World, clock: Clockwork
) -> None:
    event = serious(world, clock)
    report(world, event)
    clock.later(days=1)
    amend(world, event, aware_at=shown(NOON - timedelta(days=4)))
    amend(world, event, criteria={"hospitalisation": False}, aware_at=shown(clock.at))
    assert times(world, event) == {"SAE-REPORT": (-1, 23)}
    amend(world, event, aware_at=shown(NOON - timedelta(days=20)))
    assert times(world, event) == {"SAE-REPORT": (-480, -456)}
    assert running(world, event) == [("SAE-REPORT", "late")]


def test_an_event_that_becomes_serious_is_due_from_the_moment_that_the_trail_names(
    world: World, clock: Clockwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = serious(world, clock, criteria={})
    monkeypatch.setattr("app.audit.now", lambda: clock.at + timedelta(milliseconds=2))  # it takes time to write
    due_at = amend(world, event, criteria={"hospitalisation": True}).json()["due_at"]
    assert (hours(due_at), times(world, event)) == (24, {"SAE-REPORT": (0, 24)})
    further = amend(world, event, criteria={"hospitalisation": True, "life_threatening": True}).json()
    assert (further["due_at"], times(world, event)) == (due_at, {"SAE-REPORT": (0, 24)})


def test_an_aware_at_that_a_correction_leaves_as_it_was_says_nothing_of_seriousness(
    world: World, clock: Clockwork
) -> None:
    event = serious(world, clock, criteria={})
    clock.later(days=2)
    same = {"criteria": {"hospitalisation": True}, "aware_at": event.json()["aware_at"]}
    assert hours(amend(world, event, **same).json()["due_at"]) == 72
