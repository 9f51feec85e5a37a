"""An event that was reported in error: it is nullified for everybody who was informed, and only then voided."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from httpx2 import Response

from tests.monitor_cases import a_report, a_serious_event, an_event, nullification, shown
from tests.sae_cases import Clockwork, ask, path, report, running, serious, set_clock
from tests.voided_cases import WHY, void, voided
from tests.world import World

REASON = nullification()["nullification_reason"]
SUSAR = {"kind": "assessment", "relatedness_drug": "probable", "relatedness_therapy": "unlikely", "expected": False}


def reported(world: World) -> str:
    """The path of a serious event that its site has reported."""
    return a_report(world, "A").headers["Location"].removesuffix("/reports/1")


def nullify(world: World, event: str, **changes: Any) -> Response:
    return world.staff_a.post(f"{event}/reports", nullification(**changes))


def informed(world: World, event: str, at: datetime | str) -> Response:
    """A monitor records that the authority was informed then."""
    told = at if isinstance(at, str) else shown(at)
    version = world.monitor.get(event).json()["version"]
    body = {"kind": "authority_informed", "version": version, "informed_at": told}
    return world.monitor.post(f"{event}/reviews", body)


def refused(answer: Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["code"]


def tries(world: World, event: str) -> Response:
    return void(world.staff_a, event, world.staff_a.get(event).headers["ETag"])


def waits(world: World) -> list[tuple[str, str]]:
    """The nullified events on the monitor's desk, and whom each waits for."""
    items = world.monitor.get("/v1/monitoring/summary", study=world.study).json()["nullified"]
    return [(one["adverse_event"], one["waits_for"]) for one in items]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    return set_clock(monkeypatch)


def test_a_reported_event_is_nullified_by_a_numbered_report_with_its_reason_and_then_voided(world: World) -> None:
    event = reported(world)
    assert refused(tries(world, event)) == (409, "event_reported")
    answer = nullify(world, event)
    assert answer.status_code == 201, answer.text
    sent = answer.json()
    assert (sent["number"], sent["kind"], sent["nullification_reason"]) == (2, "nullification", REASON)
    assert (sent["event_version"], sent["late"]) == (1, False)
    assert world.monitor.get(answer.headers["Location"]).json() == sent
    first, _ = world.monitor.get(f"{event}/reports").json()["items"]
    assert (first["kind"], first["nullification_reason"]) == ("initial", None)
    [waiting] = world.monitor.get("/v1/monitoring/summary", study=world.study).json()["nullified"]
    assert waiting["nullification_reason"] == REASON
    assert (waiting["nullified_at"], waiting["waits_for"]) == (sent["submitted_at"], "site")
    assert world.monitor.get("/v1/adverse-events", study=world.study, unreviewed="true").json()["items"]
    voided(world.staff_a, event)
    told = world.monitor.get("/v1/monitoring/summary", study=world.study).json()
    assert (told["nullified"], [one["adverse_event"] for one in told["voided"]]) == ([], [event.rpartition("/")[2]])
    assert len(world.monitor.get(f"{event}/reports").json()["items"]) == 2


def test_until_it_is_voided_a_nullified_event_counts_as_the_sites_record_and_at_the_desk(world: World) -> None:
    event = reported(world)
    assert nullify(world, event).status_code == 201
    asked = {"study": world.study, "by": "site", "population": "all"}

    def counted() -> tuple[int, int, int, int]:
        [here] = [one for one in world.monitor.get("/v1/monitoring/summary").json()["sites"] if one["site"] == "A"]
        rows = world.monitor.get("/v1/adverse-events/summary", **asked).json()["items"]
        return here["serious"], sum(row["events"] for row in rows), here["nullified"], here["voided"]

    assert counted() == (1, 1, 1, 0)
    voided(world.staff_a, event)
    assert counted() == (0, 0, 0, 1)


def test_an_authority_that_was_informed_hears_of_the_nullification_before_the_event_is_voided(
    world: World, clock: Clockwork
) -> None:
    stored = serious(world, clock)
    event = path(stored)
    report(world, stored)
    assert informed(world, event, clock.at).status_code == 201
    clock.later(days=2)
    seen = clock.at - timedelta(hours=1)
    assert nullify(world, event, aware_at=shown(seen)).status_code == 201
    assert waits(world) == [(event.rpartition("/")[2], "authority")]
    assert refused(tries(world, event)) == (409, "event_reported")
    of_the_event = informed(world, event, seen - timedelta(minutes=1))
    assert of_the_event.status_code == 201
    assert refused(tries(world, event)) == (409, "event_reported")
    by_telephone = informed(world, event, seen + timedelta(minutes=1))
    assert by_telephone.status_code == 201
    assert waits(world) == [(event.rpartition("/")[2], "site")]
    number = by_telephone.json()["number"]
    assert world.monitor.post(f"{event}/reviews/{number}/withdrawal", WHY).status_code == 201
    assert refused(tries(world, event)) == (409, "event_reported")
    told = informed(world, event, clock.at)
    assert told.status_code == 201
    voided(world.staff_a, event)
    too_late = world.monitor.post(f"{event}/reviews/{told.json()['number']}/withdrawal", WHY)
    assert refused(too_late) == (409, "record_voided")


def test_an_event_told_to_an_authority_by_telephone_only_is_nullified_by_the_first_report(world: World) -> None:
    event = a_serious_event(world, "A")
    aware_at = event.json()["aware_at"]
    assert informed(world, path(event), aware_at).status_code == 201
    assert refused(tries(world, path(event))) == (409, "event_reported")
    sent = nullify(world, path(event))
    assert (sent.status_code, sent.json()["number"]) == (201, 1)
    assert refused(tries(world, path(event))) == (409, "event_reported")
    assert informed(world, path(event), sent.json()["aware_at"]).status_code == 201
    voided(world.staff_a, path(event))


def test_an_event_that_was_never_reported_is_voided_without_a_nullification(world: World) -> None:
    event = path(a_serious_event(world, "A"))
    assert refused(nullify(world, event)) == (409, "nothing_to_nullify")
    voided(world.staff_a, event)
    assert refused(nullify(world, event)) == (409, "record_voided")


def test_nothing_more_is_said_of_a_nullified_event(world: World) -> None:
    event = reported(world)
    assert nullify(world, event).status_code == 201
    seen, staff = world.staff_a.get(event).headers["ETag"], world.staff_a
    request = {"kind": "information_request", "version": 1, "due_at": "2030-01-01T12:00:00Z", "comment": "Whose?"}
    for answer in (
        nullify(world, event),
        staff.post(f"{event}/reports", {"kind": "follow_up", "aware_at": nullification()["aware_at"]}),
        staff.patch(event, {"reason": "typed wrongly", "severity": "severe"}, seen),
        world.monitor.post(f"{event}/reviews", {**SUSAR, "version": 1}),
        world.monitor.post(f"{event}/reviews", request),
    ):
        assert refused(answer) == (409, "event_nullified"), answer.text
    assert world.monitor.post(f"{event}/reviews", {"kind": "acknowledged", "version": 1}).status_code == 201


def test_a_nullification_comes_after_the_final_report_too(world: World) -> None:
    event = reported(world)
    final = {"kind": "final", "aware_at": nullification()["aware_at"]}
    assert world.staff_a.post(f"{event}/reports", final).status_code == 201
    assert nullify(world, event).status_code == 201


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"nullification_reason": None}, "/nullification_reason"),
        ({"nullification_reason": "no"}, "/nullification_reason"),
        ({"nullification_reason": "sent in error " * 150}, "/nullification_reason"),
        ({"aware_at": None}, "/aware_at"),
        ({"kind": "follow_up"}, "/nullification_reason"),
    ],
)
def test_a_nullification_says_why_and_since_when_and_no_other_report_does(
    world: World, changes: dict[str, Any], pointer: str
) -> None:
    answer = nullify(world, reported(world), **changes)
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, pointer)


def test_a_nullification_is_late_like_any_report(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    report(world, event)
    seen = clock.at
    clock.later(hours=25)
    late = nullify(world, path(event), aware_at=shown(seen))
    assert (late.status_code, late.json()["code"]) == (422, "late_reason_missing")
    sent = nullify(world, path(event), aware_at=shown(seen), late_reason="The nurse was away")
    assert (sent.status_code, sent.json()["late"]) == (201, True)


def test_a_nullification_answers_the_monitor_and_ends_the_authoritys_clock(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    report(world, event)
    assert world.monitor.post(f"{path(event)}/reviews", {**SUSAR, "version": 1}).status_code == 201
    clock.later(hours=1)
    ask(world, event, days=1)
    assert running(world, event) == [("SAE-REPORT", "met"), ("INFORMATION", "running"), ("SUSAR-OTHER", "running")]
    clock.later(hours=1)
    assert nullify(world, path(event), aware_at=shown(clock.at)).status_code == 201
    assert running(world, event) == [("SAE-REPORT", "met"), ("INFORMATION", "met")]
    clock.later(hours=1)
    assert world.monitor.post(f"{path(event)}/reviews", {"kind": "acknowledged", "version": 1}).status_code == 201
    assert running(world, event) == [("SAE-REPORT", "met"), ("INFORMATION", "met")]
    told = world.monitor.get("/v1/monitoring/summary", study=world.study).json()
    assert (told["overdue"], told["due_soon"]) == ([], [])


def test_an_answer_about_an_event_that_is_not_serious_is_nullified_too(world: World, clock: Clockwork) -> None:
    event = an_event(world, "A")
    ask(world, event, days=1)
    report(world, event)
    assert refused(tries(world, path(event))) == (409, "event_reported")
    clock.later(hours=1)
    assert nullify(world, path(event), aware_at=shown(clock.at)).status_code == 201
    voided(world.staff_a, path(event))
    told = world.monitor.get("/v1/monitoring/summary", study=world.study).json()
    assert [one["adverse_event"] for one in told["voided"]] == [event.json()["id"]]


def test_another_site_nullifies_nothing(world: World) -> None:
    event = reported(world)
    assert world.staff_b.post(f"{event}/reports", nullification()).status_code == 404
    assert world.monitor.post(f"{event}/reports", nullification()).status_code == 403
    assert waits(world) == []
