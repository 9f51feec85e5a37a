"""Serious events against their clock: reports, reviews, and what a monitor sees in the morning."""

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from httpx2 import Response

from tests.dosing_cases import REVIEW, a_signal
from tests.monitor_cases import a_question, shown
from tests.sae_cases import NOON, Clockwork, amend, ask, path, report, running, serious, set_clock, urgent
from tests.world import World, staff

ASSESSED = {"kind": "assessment", "relatedness_drug": "possible", "relatedness_therapy": "unlikely"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    return set_clock(monkeypatch)


def test_a_serious_event_is_due_24_hours_after_the_site_became_aware(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    due = datetime.fromisoformat(event.json()["due_at"])
    assert due == NOON + timedelta(hours=23)
    assert running(world, event) == [("SAE-REPORT", "running")]
    clock.at = due
    assert running(world, event) == [("SAE-REPORT", "running")]
    clock.later(seconds=1)
    assert running(world, event) == [("SAE-REPORT", "overdue")]


@pytest.mark.parametrize(
    ("ahead", "status"),
    [({"minutes": 14}, 201), ({"minutes": 16}, 422), ({"hours": 13}, 422)],
    ids=["a tablet's clock is fast", "too fast", "local time sent as UTC"],
)
def test_a_clock_starts_no_further_ahead_than_a_sites_own_clock_is_off(
    world: World, clock: Clockwork, ahead: dict[str, float], status: int
) -> None:
    told = serious(world, clock)
    at = shown(clock.at + timedelta(**ahead))
    event = world.event(told.json()["participant"], criteria={"death": True}, aware_at=at)
    informed = {"kind": "authority_informed", "version": 1, "informed_at": at}
    answers = [world.staff_a.post("/v1/adverse-events", event), world.monitor.post(f"{path(told)}/reviews", informed)]
    assert [answer.status_code for answer in answers] == [status] * 2
    pointers = [fault["pointer"] for answer in answers for fault in answer.json().get("errors", [])]
    assert pointers == ([] if status == 201 else ["/aware_at", "/informed_at"])


def test_an_awareness_stored_by_a_fast_server_can_be_corrected(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    clock.later(hours=-3)
    amended = amend(world, event, aware_at=shown(clock.at)).json()
    assert datetime.fromisoformat(amended["due_at"]) == clock.at + timedelta(hours=24)


def test_an_event_goes_from_due_soon_to_overdue_to_reported_and_leaves_the_summary(
    world: World, clock: Clockwork
) -> None:
    event = serious(world, clock)
    name = event.json()["id"]
    assert (urgent(world, "due_soon"), urgent(world, "overdue")) == ([name], [])
    assert urgent(world, "due_soon", soon_hours="22") == []
    clock.later(hours=24)
    assert (urgent(world, "due_soon"), urgent(world, "overdue")) == ([], [name])
    listed = world.monitor.get("/v1/adverse-events", study=world.study, overdue="true").json()["items"]
    assert [item["id"] for item in listed] == [name]
    late = world.staff_a.post(f"{path(event)}/reports", {"kind": "initial"})
    assert (late.status_code, late.json()["errors"][0]["pointer"]) == (422, "/late_reason")
    body = {"kind": "initial", "late_reason": "The ward told us late"}
    sent = world.staff_a.post(f"{path(event)}/reports", body)
    assert (sent.status_code, sent.json()["late"], sent.json()["number"]) == (201, True, 1)
    assert (urgent(world, "due_soon"), urgent(world, "overdue")) == ([], [])
    assert running(world, event) == [("SAE-REPORT", "late")]
    assert world.monitor.get("/v1/adverse-events", study=world.study, overdue="true").json()["items"] == []
    assert world.monitor.get(path(event)).json()["reported_at"] == sent.json()["submitted_at"]


def test_reports_are_numbered_in_order_and_keep_what_was_reported(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    reports = f"{path(event)}/reports"
    aware = {"aware_at": shown(clock.at)}
    early = world.staff_a.post(reports, {"kind": "follow_up", **aware})
    assert (early.status_code, early.json()["code"]) == (409, "initial_report_missing")
    assert world.staff_a.post(reports, {"kind": "initial"}).json()["number"] == 1
    amend(world, event, severity="severe")
    assert world.staff_a.post(reports, {"kind": "follow_up", **aware}).json()["number"] == 2
    again = world.staff_a.post(reports, {"kind": "initial"})
    assert (again.status_code, again.json()["code"]) == (409, "initial_report_missing")
    assert world.staff_a.post(reports, {"kind": "final", **aware}).json()["number"] == 3
    after = world.staff_a.post(reports, {"kind": "final", **aware})
    assert (after.status_code, after.json()["code"]) == (409, "reports_final")
    assert world.staff_a.post(reports, {"kind": "follow_up", **aware}).json()["number"] == 4
    kept = world.monitor.get(reports).json()["items"]
    assert [(item["number"], item["kind"], item["event_version"]) for item in kept] == [
        (1, "initial", 1),
        (2, "follow_up", 2),
        (3, "final", 2),
        (4, "follow_up", 2),
    ]
    assert [item["content"]["severity"] for item in kept] == ["mild", "severe", "severe", "severe"]


def test_a_follow_up_runs_on_its_own_clock(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    reports = f"{path(event)}/reports"
    world.staff_a.post(reports, {"kind": "initial"})
    clock.later(days=3)
    aware = shown(clock.at - timedelta(hours=25))
    late = world.staff_a.post(reports, {"kind": "follow_up", "aware_at": aware})
    assert (late.status_code, late.json()["code"]) == (422, "late_reason_missing")
    aware = shown(clock.at - timedelta(hours=23))
    assert world.staff_a.post(reports, {"kind": "follow_up", "aware_at": aware}).json()["late"] is False


def test_a_report_that_meets_a_clock_late_says_why_whatever_awareness_it_names(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    report(world, event)
    amend(world, event, criteria={"hospitalisation": True, "death": True})
    ask(world, event, version=2, days=5)
    clock.later(days=3)
    body = {"kind": "follow_up", "aware_at": shown(clock.at)}
    refused = world.staff_a.post(f"{path(event)}/reports", body)
    assert (refused.status_code, refused.json()["code"]) == (422, "late_reason_missing")
    sent = report(world, event, late_reason="A weekend", **body)
    assert (sent["late"], datetime.fromisoformat(sent["due_at"])) == (True, NOON + timedelta(hours=24))
    assert running(world, event) == [("SAE-REPORT", "met"), ("FOLLOW-UP", "late"), ("INFORMATION", "met")]
    assert report(world, event, **body)["late"] is False


def test_an_answer_is_due_when_the_first_request_is(world: World, clock: Clockwork) -> None:
    event = serious(world, clock, criteria={})
    ask(world, event, days=1)
    ask(world, event, days=20)
    clock.later(days=5)
    refused = world.staff_a.post(f"{path(event)}/reports", {"kind": "initial"})
    assert (refused.status_code, refused.json()["code"]) == (422, "late_reason_missing")
    sent = report(world, event, late_reason="The letter was lost")
    assert (sent["late"], datetime.fromisoformat(sent["due_at"])) == (True, NOON + timedelta(days=1))
    assert running(world, event) == [("INFORMATION", "late"), ("INFORMATION", "met")]


def test_an_event_that_is_not_serious_is_not_reported(world: World, clock: Clockwork) -> None:
    event = serious(world, clock, criteria={})
    answer = world.staff_a.post(f"{path(event)}/reports", {"kind": "initial"})
    assert (answer.status_code, answer.json()["code"]) == (409, "event_not_serious")
    assert running(world, event) == []


def test_an_event_that_becomes_serious_starts_its_clock_then(world: World, clock: Clockwork) -> None:
    event = serious(world, clock, criteria={})
    clock.later(days=2)
    upgraded = amend(world, event, criteria={"life_threatening": True}).json()
    assert datetime.fromisoformat(upgraded["due_at"]) == clock.at + timedelta(hours=24)
    clock.later(hours=1)
    kept = amend(world, event, severity="severe").json()
    assert kept["due_at"] == upgraded["due_at"]
    moved = amend(world, event, aware_at=shown(clock.at - timedelta(hours=5))).json()
    assert datetime.fromisoformat(moved["due_at"]) == clock.at + timedelta(hours=19)


def test_a_downgrade_is_shown_until_a_monitor_has_reviewed_it(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    clock.later(hours=1)
    downgraded = amend(world, event, criteria={"hospitalisation": False}).json()
    assert (downgraded["serious"], downgraded["due_at"]) == (False, None)
    assert urgent(world, "downgraded") == [event.json()["id"]]
    clock.later(hours=1)
    review = world.monitor.post(f"{path(event)}/reviews", {"kind": "acknowledged", "version": 2})
    assert review.status_code == 201
    assert urgent(world, "downgraded") == []
    history = world.monitor.get(f"{path(event)}/history").json()["items"]
    assert ("serious", True, False) in [(item["field"], item["old"], item["new"]) for item in history]


def test_a_request_for_information_is_open_until_the_next_report(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    world.staff_a.post(f"{path(event)}/reports", {"kind": "initial"})
    clock.later(hours=1)
    asked = {"kind": "information_request", "version": 1, "comment": "Discharge letter", "due_at": shown(clock.at)}
    assert world.monitor.post(f"{path(event)}/reviews", asked).status_code == 201
    clock.later(hours=1)
    assert urgent(world, "overdue") == [event.json()["id"]]
    answer = {"kind": "follow_up", "aware_at": shown(clock.at)}
    assert world.staff_a.post(f"{path(event)}/reports", answer).json()["code"] == "late_reason_missing"
    report(world, event, late_reason="No letter had come", **answer)
    assert running(world, event) == [("SAE-REPORT", "met"), ("INFORMATION", "late")]
    assert urgent(world, "overdue") == []


def test_no_site_is_asked_for_information_by_a_time_that_is_over(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    reviews, key = f"{path(event)}/reviews", str(uuid4())
    asked = {"kind": "information_request", "version": 1, "comment": "Discharge letter", "due_at": shown(clock.at)}
    first = world.monitor.post(reviews, asked, key)
    clock.later(seconds=1)
    refused = world.monitor.post(reviews, asked)
    assert (first.status_code, refused.status_code, refused.json()["code"]) == (201, 422, "due_in_past")
    assert refused.json()["errors"][0]["pointer"] == "/due_at"
    assert world.monitor.post(reviews, asked, key).json() == first.json()
    assert running(world, event) == [("SAE-REPORT", "running"), ("INFORMATION", "overdue")]


@pytest.mark.parametrize(
    ("criteria", "assessment", "expected"),
    [
        ({"life_threatening": True}, {**ASSESSED, "expected": False}, "SUSAR-FATAL"),
        ({"hospitalisation": True}, {**ASSESSED, "expected": False}, "SUSAR-OTHER"),
        ({"hospitalisation": True}, {**ASSESSED, "expected": True}, None),
        ({"hospitalisation": True}, {**ASSESSED, "expected": False, "relatedness_drug": "unlikely"}, None),
        ({}, {**ASSESSED, "expected": False}, None),
    ],
)
def test_an_unexpected_suspected_serious_event_starts_the_authoritys_clock(
    world: World, clock: Clockwork, criteria: dict[str, bool], assessment: dict[str, Any], expected: str | None
) -> None:
    event = serious(world, clock, criteria=criteria)
    read = world.monitor.post(f"{path(event)}/reviews", {"version": 1, **assessment}).json()
    assert read["susar"] is (expected is not None)
    assert [code for code, _ in running(world, event) if code.startswith("SUSAR")] == ([expected] if expected else [])
    if expected is None:
        return
    clock.later(days=16)
    assert (expected, "overdue") in running(world, event)
    told = {"kind": "authority_informed", "version": 1, "informed_at": shown(clock.at)}
    assert world.monitor.post(f"{path(event)}/reviews", told).status_code == 201
    assert (expected, "late") in running(world, event)


def test_a_site_can_answer_a_monitor_about_an_event_that_is_not_serious(world: World, clock: Clockwork) -> None:
    event = serious(world, clock, criteria={})
    due_at = shown(clock.at + timedelta(days=2))
    asked = {"kind": "information_request", "version": 1, "comment": "Was it overnight?", "due_at": due_at}
    assert world.monitor.post(f"{path(event)}/reviews", asked).status_code == 201
    clock.later(days=1)
    assert datetime.fromisoformat(report(world, event)["due_at"]) == clock.at + timedelta(days=1)
    assert running(world, event) == [("INFORMATION", "met")]


def test_nobody_was_informed_before_the_event_began(world: World, clock: Clockwork) -> None:
    event = serious(world, clock, onset="2026-03-20")
    told = {"kind": "authority_informed", "version": 1, "informed_at": "2025-03-27T12:00:00Z"}
    refused = world.monitor.post(f"{path(event)}/reviews", told)
    assert (refused.status_code, refused.json()["code"]) == (422, "informed_too_early")
    assert refused.json()["errors"][0]["pointer"] == "/informed_at"


@pytest.mark.parametrize(("hours", "status"), [(-2, 422), (0, 201)], ids=["before the site knew", "told by telephone"])
def test_nobody_was_informed_before_the_site_was_aware(
    world: World, clock: Clockwork, hours: float, status: int
) -> None:
    event = serious(world, clock, relatedness_drug="probable")
    clock.later(hours=2)
    report(world, event)
    clock.later(hours=1)
    further = {"criteria": {"hospitalisation": True, "life_threatening": True}}
    amend(world, event, **further, aware_at=shown(clock.at))
    told = {"kind": "authority_informed", "version": 2, "informed_at": shown(NOON + timedelta(hours=hours))}
    answer = world.monitor.post(f"{path(event)}/reviews", told)
    assert answer.status_code == status, answer.text
    refused = [(fault["pointer"], fault["code"]) for fault in answer.json().get("errors", [])]
    assert refused == ([] if status == 201 else [("/informed_at", "before_awareness")])
    assert dict(running(world, event))["SUSAR-OTHER"] == ("met" if status == 201 else "running")


def test_a_review_speaks_of_the_version_that_was_seen(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    amend(world, event, severity="severe")
    stale = world.monitor.post(f"{path(event)}/reviews", {"kind": "acknowledged", "version": 1})
    assert (stale.status_code, stale.json()["code"]) == (409, "event_moved")


def test_unreviewed_is_what_this_monitor_has_not_reviewed_since_it_changed(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)

    def unreviewed(caller: Any) -> bool:
        items = caller.get("/v1/adverse-events", study=world.study, unreviewed="true").json()["items"]
        rest = caller.get("/v1/adverse-events", study=world.study, unreviewed="false").json()["items"]
        assert len(items) + len(rest) == 1
        return bool(items)

    assert unreviewed(world.monitor)
    assert unreviewed(world.monitor_a)
    world.monitor.post(f"{path(event)}/reviews", {"kind": "acknowledged", "version": 1})
    assert not unreviewed(world.monitor)
    assert unreviewed(world.monitor_a)
    amend(world, event, severity="severe")
    assert unreviewed(world.monitor)


def test_a_crossed_boundary_goes_straight_to_the_monitor_serious_or_not(world: World) -> None:
    def reported(special_interest: str, site: str = "A") -> Response:
        event = world.event(world.enrolled(site), term="Therapist held hands", special_interest=special_interest)
        return staff(world, site).post("/v1/adverse-events", event)

    here, there = reported("misconduct"), reported("misconduct", "B")
    reported("bruxism")
    assert urgent(world, "alerts") == [here.json()["id"], there.json()["id"]]
    summary = world.monitor_a.get("/v1/monitoring/summary", study=world.study).json()
    assert [item["adverse_event"] for item in summary["alerts"]] == [here.json()["id"]]
    assert [site["alerts"] for site in summary["sites"]] == [1]
    seen = {"kind": "acknowledged", "version": 1}
    assert world.monitor.post(f"{path(here)}/reviews", seen).status_code == 201
    assert urgent(world, "alerts") == [there.json()["id"]]
    amend(world, here, severity="severe")
    assert urgent(world, "alerts") == [here.json()["id"], there.json()["id"]]


def test_what_a_site_reports_is_to_be_reviewed_and_is_an_update(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    report(world, event)
    clock.later(minutes=1)
    ask(world, event, days=2)
    seen = clock.later(minutes=1)

    def waiting() -> tuple[int, int, int]:
        filters = ({"unreviewed": "true"}, {"updated_since": shown(seen)})
        lists = [world.monitor.get("/v1/adverse-events", study=world.study, **each).json()["items"] for each in filters]
        site = world.monitor.get("/v1/monitoring/summary", study=world.study).json()["sites"][0]
        return len(lists[0]), len(lists[1]), site["unreviewed_serious"]

    assert waiting() == (0, 0, 0)
    clock.later(minutes=1)
    report(world, event, kind="final", aware_at=shown(seen), narrative="Died of arrhythmia")
    assert waiting() == (1, 1, 1)
    clock.later(minutes=1)
    world.monitor.post(f"{path(event)}/reviews", {"kind": "acknowledged", "version": 1})
    assert waiting() == (0, 1, 0)


def test_what_is_still_due_comes_first_and_nothing_overdue_is_lost(world: World, clock: Clockwork) -> None:
    reported, asked = serious(world, clock), serious(world, clock, criteria={})
    report(world, reported)
    clock.later(minutes=1)
    for event in (asked, reported):
        ask(world, event, days=1)
    clock.later(days=8)
    soon = serious(world, clock)
    clock.later(minutes=-30)
    sooner = serious(world, clock)

    def due(**filters: str) -> list[str]:
        found: list[str] = []
        page = {"next": ""}
        while page["next"] is not None:
            cursor = {"cursor": page["next"]} if page["next"] else {}
            page = world.monitor.get(
                "/v1/adverse-events", study=world.study, sort="due", limit="1", **filters, **cursor
            ).json()
            found += [item["id"] for item in page["items"]]
        return found

    first, second, third, fourth = (event.json()["id"] for event in (sooner, soon, reported, asked))
    assert due() == [first, second, third]
    assert sorted(due(overdue="true")) == sorted([third, fourth])
    clock.later(days=2)
    assert due(overdue="true")[:2] == [first, second]


def test_the_summary_counts_each_assigned_site(world: World, clock: Clockwork) -> None:
    serious(world, clock)
    serious(world, clock, criteria={})
    sites = world.monitor.get("/v1/monitoring/summary", study=world.study).json()["sites"]
    assert [(item["site"], item["participants"], item["adverse_events"], item["serious"]) for item in sites] == [
        ("A", 2, 2, 1),
        ("B", 0, 0, 0),
    ]
    at_a = sites[0]
    assert (at_a["unreviewed"], at_a["unreviewed_serious"], at_a["due_soon"]) == (2, 1, 1)
    (only,) = world.monitor_a.get("/v1/monitoring/summary", study=world.study).json()["sites"]
    assert only["site"] == "A"


def test_the_summary_shows_signals_and_data_queries_that_wait(world: World) -> None:
    signal = a_signal(world).json()
    a_question(world, "A"), a_question(world, "A", answered=True)
    read = world.monitor.get("/v1/monitoring/summary", study=world.study).json()
    assert [item["safety_signal"] for item in read["safety_signals"]] == [signal["id"]]
    at_a, at_b = read["sites"]
    names = ("safety_signals_open", "safety_signals_overdue", "data_queries_open", "data_queries_answered")
    assert [at_a[name] for name in names] == [1, 0, 1, 1]
    assert [at_b[name] for name in names] == [0, 0, 0, 0]
    assert world.staff_a.post(f"/v1/safety-signals/{signal['id']}/review", REVIEW).status_code == 201
    read = world.monitor.get("/v1/monitoring/summary", study=world.study).json()
    assert (read["safety_signals"], read["sites"][0]["safety_signals_open"]) == ([], 0)
