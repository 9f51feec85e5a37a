"""What becomes of the clocks of a serious event as more is known, and as it is corrected."""

import csv
import io
from datetime import datetime, timedelta

import pytest

from tests.monitor_cases import shown
from tests.sae_cases import Clockwork, amend, path, report, running, serious, set_clock, urgent
from tests.world import World

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
    amend(world, event, criteria={}, relatedness_drug="not_related")
    clock.later(days=20)
    assert urgent(world, "overdue") == [event.json()["id"]]
    assert world.monitor.post(f"{path(event)}/reviews", {"kind": "acknowledged", "version": 3}).is_success
    assert urgent(world, "overdue") == []


def test_a_correction_while_it_is_not_serious_gains_no_time_either(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    amend(world, event, criteria={})
    amend(world, event, aware_at=shown(clock.at - timedelta(hours=40)))
    again = amend(world, event, criteria={"hospitalisation": True}).json()
    assert datetime.fromisoformat(again["due_at"]) == clock.at - timedelta(hours=16)


def test_calling_an_event_serious_off_and_on_again_gains_no_time(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    clock.later(days=5)
    amend(world, event, criteria={})
    clock.later(minutes=1)
    again = amend(world, event, criteria={"hospitalisation": True}).json()
    assert again["due_at"] == event.json()["due_at"]
    assert urgent(world, "overdue") == [event.json()["id"]]
    refused = world.staff_a.post(f"{path(event)}/reports", {"kind": "initial"})
    assert (refused.status_code, refused.json()["code"]) == (422, "late_reason_missing")
    anew = amend(world, event, aware_at=shown(clock.at)).json()  # which is said, with its reason, in the trail
    assert datetime.fromisoformat(anew["due_at"]) == clock.at + timedelta(hours=24)


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
