"""A review that a monitor recorded in error: withdrawn, still to be read, and without effect on any clock."""

from datetime import timedelta
from typing import Any

import pytest
from httpx2 import Response
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session

from tests.monitor_cases import shown
from tests.sae_cases import NOON, Clockwork, amend, ask, path, report, running, serious, set_clock, urgent
from tests.world import Caller, World

WHY = {"reason": "the wrong event"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clockwork:
    return set_clock(monkeypatch)


def review(world: World, event: Response, kind: str, **more: Any) -> None:
    answer = world.monitor.post(f"{path(event)}/reviews", {"kind": kind, "version": 1, **more})
    assert answer.status_code == 201, answer.text


def withdraw(world: World, event: Response, number: int = 1, caller: Caller | None = None) -> Response:
    return (caller or world.monitor).post(f"{path(event)}/reviews/{number}/withdrawal", WHY)


def test_an_authority_that_was_informed_by_mistake_is_still_to_be_informed(world: World, clock: Clockwork) -> None:
    event = serious(world, clock, relatedness_drug="probable")
    report(world, event)
    review(world, event, "authority_informed", informed_at=shown(clock.at))
    clock.later(days=16)
    assert ("SUSAR-OTHER", "met") in running(world, event)
    assert withdraw(world, event).status_code == 201
    assert ("SUSAR-OTHER", "overdue") in running(world, event)
    assert urgent(world, "overdue") == [event.json()["id"]]
    review(world, event, "authority_informed", informed_at=shown(clock.at))
    assert ("SUSAR-OTHER", "late") in running(world, event)


def test_an_assessment_that_is_withdrawn_leaves_the_one_before_it(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    report(world, event)
    unlikely = {"relatedness_drug": "unlikely", "relatedness_therapy": "unlikely", "expected": False}
    review(world, event, "assessment", **unlikely)
    clock.later(hours=1)
    review(world, event, "assessment", **{**unlikely, "relatedness_drug": "possible"})
    assert ("SUSAR-OTHER", "running") in running(world, event)
    withdraw(world, event, 2)
    assert running(world, event) == [("SAE-REPORT", "met")]


def test_nobody_owes_an_answer_to_a_request_that_was_withdrawn(world: World, clock: Clockwork) -> None:
    event = serious(world, clock, criteria={})
    ask(world, event, days=1)
    withdraw(world, event)
    clock.later(days=2)
    assert (running(world, event), urgent(world, "overdue")) == ([], [])
    answer = world.staff_a.post(f"{path(event)}/reports", {"kind": "initial"})
    assert (answer.status_code, answer.json()["code"]) == (409, "event_not_serious")


def test_what_was_seen_by_mistake_is_still_to_be_seen(world: World, clock: Clockwork) -> None:
    def unreviewed() -> int:
        return len(world.monitor.get("/v1/adverse-events", study=world.study, unreviewed="true").json()["items"])

    event = serious(world, clock)
    clock.later(hours=1)
    amend(world, event, criteria={"hospitalisation": False})
    review(world, event, "acknowledged", version=2)
    assert (urgent(world, "downgraded"), unreviewed()) == ([], 0)
    withdraw(world, event)
    assert (urgent(world, "downgraded"), unreviewed()) == ([event.json()["id"]], 1)


def test_a_withdrawn_review_keeps_what_it_said_and_its_number(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    review(world, event, "acknowledged", comment="Seen at the visit")
    (before,) = world.monitor.get(f"{path(event)}/reviews").json()["items"]
    clock.later(hours=1)
    answer = withdraw(world, event, caller=world.monitor_a)
    review(world, event, "acknowledged")
    first, second = world.staff_a.get(f"{path(event)}/reviews").json()["items"]
    taken_back = {
        "withdrawn_by": world.monitor_a.get("/v1/me").json()["id"],
        "withdrawn_at": second["reviewed_at"],
        "withdrawal_reason": WHY["reason"],
    }
    assert answer.json() == first == {**before, **taken_back}
    assert dict.fromkeys(taken_back) == {name: before[name] for name in taken_back}
    assert (second["number"], second["withdrawn_at"]) == (2, None)


def test_a_review_is_withdrawn_once_and_by_a_monitor_of_the_site(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    review(world, event, "acknowledged")
    assert withdraw(world, event, caller=world.staff_a).status_code == 403
    assert withdraw(world, event, 2).status_code == withdraw(world, event, 10**30).status_code == 404
    assert withdraw(world, event).status_code == 201
    again = withdraw(world, event)
    assert (again.status_code, again.json()["code"]) == (409, "review_withdrawn")


def test_a_request_that_is_withdrawn_makes_no_report_late(world: World, clock: Clockwork) -> None:
    event = serious(world, clock)
    report(world, event)
    ask(world, event, days=1)
    ask(world, event, days=9)
    withdraw(world, event)
    clock.later(days=3)
    sent = report(world, event, "follow_up", aware_at=shown(clock.at))
    assert (sent["late"], sent["due_at"]) == (False, f"{shown(NOON + timedelta(days=4))[:-1]}.000000Z")


ATTACKS = ("DELETE FROM ae_review_withdrawal", "UPDATE ae_review_withdrawal SET reason = 'none'")


@pytest.mark.parametrize("attack", ATTACKS)
def test_withdrawals_of_reviews_cannot_be_changed_by_sql(world: World, clock: Clockwork, attack: str) -> None:
    event = serious(world, clock)
    review(world, event, "acknowledged")
    assert withdraw(world, event).status_code == 201
    with pytest.raises(DBAPIError, match="append-only"), world.registry.database.write() as session:
        session.execute(text(attack))
    with pytest.raises(DBAPIError), Session(world.registry.served.engine) as session:
        session.execute(text(attack))
